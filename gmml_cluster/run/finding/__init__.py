"""Which runs there are, and whether one lies where its log says."""
