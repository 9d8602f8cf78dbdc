"""What is kept of a run beside its log: scores and pictures; and runs side by side."""
