"""Knowledge distillation: a trained model teaches a smaller one."""
