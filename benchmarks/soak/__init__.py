"""Random disturbances of one small run, after which nothing may be lost: `python -m benchmarks.soak`."""
