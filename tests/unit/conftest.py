"""Unit tests compute in one thread: their tensors are small, and more threads mostly wait for each other."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # read when torch is first imported, which the test modules do
