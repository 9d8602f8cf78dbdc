"""The section `metrics`: where a run's curves go besides its own run root."""

from typing import Annotated, ClassVar, Literal

from pydantic import Field

from gmml_cluster.spec.base import SpecModel
from gmml_cluster.spec.scalars import Location

Name = Annotated[str, Field(min_length=1, max_length=200)]


class MlflowSpec(SpecModel):
    """An MLflow server; needs the extra `mlflow`."""

    bare: ClassVar[tuple[str, ...]] = ("uri",)

    uri: str = Field(min_length=1, examples=["https://mlflow.example.org"])
    """Its tracking URI. Credentials come from MLflow's own variables, MLFLOW_TRACKING_TOKEN and the like."""
    experiment: Name = "gmml_cluster"
    """Experiment in which the run is kept; it is made where there is none."""


class WandbSpec(SpecModel):
    """Weights & Biases; needs the extra `wandb`."""

    bare: ClassVar[tuple[str, ...]] = ("project",)

    project: Name = Field(examples=["pre-training"])
    """Its project. The key comes from WANDB_API_KEY."""
    entity: Name | None = None
    """User or team; null takes the key's own."""
    mode: Literal["online", "offline"] = "online"
    """`offline` keeps files in the run root, or the working folder of a run on an object store, for `wandb sync`."""


class TrackioSpec(SpecModel):
    """trackio, which keeps curves in a local file or a Space; needs the extra `trackio`."""

    bare: ClassVar[tuple[str, ...]] = ("project",)

    project: Name = Field(examples=["pre-training"])
    """Its project."""
    space: Name | None = None
    """Space that shows it, as `user/space`; null keeps it on the machine of rank 0."""


class Metrics(SpecModel):
    """Where curves go; the run root has every metric line in any case.

    A process beside rank 0 reads the lines that were uploaded and passes them on, each step once, also over restarts.
    Whatever becomes of it, the run does not notice.
    """

    tensorboard: Literal["auto"] | Location | None = "auto"
    """Folder of event files. `auto`: `tensorboard` in the run root, where that is a folder; null for none."""
    mlflow: MlflowSpec | None = None
    """An MLflow server."""
    wandb: WandbSpec | None = None
    """Weights & Biases."""
    trackio: TrackioSpec | None = None
    """trackio."""
    prometheus: Annotated[int, Field(gt=0, lt=2**16)] | None = None
    """Port of rank 0's node at which the latest figures can be scraped; needs the extra `prometheus`."""
