"""What a job may say of the method."""

from typing import ClassVar, Literal

from gmml_cluster.spec.methods.mae import MaeOptions


class PacedOptions(MaeOptions):
    """MAE's."""

    purposes: ClassVar[frozenset[int]] = frozenset()
    name: Literal["paced"]  # type: ignore[assignment]
