"""Blocks of shards on a node's own disk, for all its ranks and runs; what is needed last goes first."""
