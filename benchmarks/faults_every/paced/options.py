"""What a job may say of the method."""

from typing import Literal

from gmml_cluster.spec.methods.mae import MaeOptions


class PacedOptions(MaeOptions):
    """MAE's."""

    name: Literal["paced"]  # type: ignore[assignment]
