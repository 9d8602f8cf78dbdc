"""Weights and optimiser state from memory to a store and back, for any number of ranks and any engine."""
