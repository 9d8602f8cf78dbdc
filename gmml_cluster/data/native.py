"""The optional package in `native/`: what it has is used where it gives the same bits as what it stands in for."""

import importlib
from collections.abc import Callable

Native = Callable[..., None]


def native_function(name: str) -> Native | None:
    """A function of the package; None where that is not installed, or older than the function."""
    try:
        package = importlib.import_module("gmml_native")
    except ImportError:
        return None
    return getattr(package, name, None)
