"""What is drawn by number and not by state: Philox for numpy and torch, and Feistel permutations."""
