"""Methods: one file each. `build` makes a job's; `verify` and `draw` show what it computes."""

from gmml_cluster.methods.building import build
from gmml_cluster.methods.verification import TYPES, draw, verify

__all__ = ["TYPES", "build", "draw", "verify"]
