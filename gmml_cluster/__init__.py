"""Pre-training of vision transformers by masked image modelling, on clusters whose machines can be taken away.

`submit`, `runs`, `find`, `Run` and `load_encoder` are imported when they are first used: importing the package costs
nothing, and nothing imports torch before `load_encoder`. `docs/python.md` shows them, `__init__.pyi` types them.
"""

from importlib import import_module
from typing import Any

__version__ = "0.1.0"

_MODULES = {
    "Run": "gmml_cluster.api",
    "find": "gmml_cluster.api",
    "load_encoder": "gmml_cluster.api",
    "runs": "gmml_cluster.api",
    "submit": "gmml_cluster.api",
}
__all__ = ["Run", "__version__", "find", "load_encoder", "runs", "submit"]


def __getattr__(name: str) -> Any:
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return __all__
