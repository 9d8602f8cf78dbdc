"""From a job file to a scheduler's job and back: prepare, preflight, submit, status, cancel, restart. No torch.

`local`, `slurm` and `ray` are a launcher each (`protocol.py`, `registry.py`); `replay` computes steps of a run again.
"""
