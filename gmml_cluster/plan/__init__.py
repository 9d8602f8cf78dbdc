"""What a job comes to on a cluster, before it starts: lanes, ranks, steps, memory. Arithmetic alone, no torch."""
