"""What an encoder has learnt: features, weighted kNN, linear probe; the demo."""
