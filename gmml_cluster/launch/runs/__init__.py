"""What a person asks of runs: found, followed, listed with their states, cancelled, removed."""
