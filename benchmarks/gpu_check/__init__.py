"""What can only be seen on a GPU, checked and measured in one go: `python -m benchmarks.gpu_check`."""
