"""Tasks: data with its fixed splits, and the metric that says what right means."""
