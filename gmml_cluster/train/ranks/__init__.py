"""What ranks agree on and exchange outside the loop: meeting, devices, claim, signals, hangs, shutdown."""
