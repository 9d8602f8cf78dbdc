"""Methods, a file each. `verify` and `draw` need torch, which takes seconds to import: so they come when asked for."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gmml_cluster.methods.reference import draw as draw
    from gmml_cluster.methods.reference import verify as verify

__all__ = ["draw", "verify"]


def __getattr__(name: str) -> Any:
    if name in __all__:
        return getattr(import_module("gmml_cluster.methods.reference"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
