"""How the encoder that a run yields differs from a plain one, as probes and fine-tuning have to be told."""

from typing import Any

from gmml_cluster.errors import Fault
from gmml_cluster.spec.job import JobSpec
from gmml_cluster.spec.methods.classifier import ClassifierOptions
from gmml_cluster.spec.methods.plugins import BUILT_IN
from gmml_cluster.spec.methods.registry import MethodOptions

_RELATIVE = {"positions": "relative", "key_bias": False, "layer_scale": True}
_OF_METHODS: dict[str, dict[str, Any] | None] = {
    "ijepa": {"class_token": False},
    "simmim": _RELATIVE,
    "conmim": _RELATIVE,
    "capi": None,
}
"""By the method that yields them, unless it says `plain`."""


def switches_of(options: MethodOptions) -> dict[str, Any] | None:
    """Switches of `gmml_cluster.models.vit.VisionTransformer` that differ from its defaults.

    Fixed positions count as learned. None where the encoder has blocks of its own.
    """
    if isinstance(options, ClassifierOptions):
        return {} if options.encoder is None else options.encoder.model_dump(exclude_defaults=True)
    if not getattr(options, "position_embeddings", True):
        return {"positions": "none"}
    return {} if getattr(options, "plain", False) else _OF_METHODS.get(options.name, {})


def encoder_misfits(job: JobSpec, other: JobSpec, url: str) -> list[Fault]:
    """What is wrong with a classifier's `encoder` for the encoder that it begins from.

    Args:
        job: of any method; of those that do not say what their encoder is, nothing is known here.
        other: the job of the run that it begins from.
        url: that run's.
    """
    if not isinstance(job.method, ClassifierOptions) or other.method.name not in BUILT_IN:
        return []
    theirs, ours = switches_of(other.method), switches_of(job.method)
    if theirs is None:
        problem = f"{url} has an encoder of {other.method.name}, from whose blocks {job.method.name} cannot be built"
        return [
            Fault("init.run", problem, "name the run of another method, or score it by gmml eval --with knn,linear")
        ]
    # where there were no positions, learned ones may begin at zero
    if ours == theirs or (theirs == {"positions": "none"} and ours == {}):
        return []
    problem = f"{_written(ours or {})}, but that of {url} is {_written(theirs)}"
    return [Fault("method.encoder", problem, f"write encoder: {_written(theirs)}" if theirs else "leave it out")]


def _written(switches: dict[str, Any]) -> str:
    pairs = (f"{name}: {value if isinstance(value, str) else str(value).lower()}" for name, value in switches.items())
    return f"{{{', '.join(pairs)}}}" if switches else "a plain one"
