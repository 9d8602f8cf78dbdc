"""Methods compared on real images: see `python -m benchmarks.methods --help`."""
