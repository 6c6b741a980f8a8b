"""Training: the loop, its schedules, checkpoints and cross-validation."""
