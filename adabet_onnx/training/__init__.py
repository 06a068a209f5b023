"""Training: artifacts, the training loop, evaluation and export."""
