"""SLURM: the batch script with what runs after it, preflight, states and causes by what SLURM's tools and files say."""
