"""Pre-training of vision transformers by masked image modelling, on clusters that can be taken away."""

__version__ = "0.1.0"
