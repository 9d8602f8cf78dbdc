"""What ranks agree on and tell each other outside the loop: meeting, devices, claim, signals, hangs, shutdown."""
