"""Methods: one file each. `build` makes a job's; `verify` and `draw` show what it computes."""

from gmml_cluster.methods.building import build
from gmml_cluster.methods.verification import draw, verify

__all__ = ["build", "draw", "verify"]
