"""Whether a job can begin from the encoder of another run, by the specs of both alone."""

from typing import Any

from gmml_cluster.errors import Fault
from gmml_cluster.spec.job import JobSpec
from gmml_cluster.spec.methods.classifier import ClassifierOptions
from gmml_cluster.spec.methods.encoder_kind import EncoderKind, kind_of


def encoder_misfits(job: JobSpec, other: JobSpec, url: str) -> list[Fault]:
    """What is wrong with a job's kind of encoder for the one that it begins from.

    Of a plug-in whose options do not say their kind, nothing is known here, and the ranks compare the tensors.

    Args:
        job: what is submitted.
        other: the job of the run that it begins from.
        url: that run's.
    """
    ours, theirs = kind_of(job.method), kind_of(other.method)
    if ours is None or theirs is None or ours == theirs or ours == _trained_on(theirs):
        return []
    if isinstance(job.method, ClassifierOptions):
        written = theirs.written
        problem = f"{_shown(ours.written)}, but that of {url} is {_shown(written)}"
        hint = f"write encoder: {_shown(written)}" if written else "leave it out"
        return [Fault("method.encoder", problem, hint)]
    problem = (
        f"{url} was trained by {other.method.name}, whose encoder has {_described(theirs)}; that of {job.method.name}"
    )
    hint = f"name a run whose encoder is of that kind, such as one of {job.method.name}, or train another method"
    return [Fault("init.run", f"{problem} has {_described(ours)}", hint)]


def _trained_on(kind: EncoderKind) -> EncoderKind:
    """With learned positions, which can begin as fixed ones were, or at zero where there were none."""
    if kind.rotary is not None or kind.positions not in ("sincos", "none"):
        return kind
    return EncoderKind(class_token=kind.class_token, key_bias=kind.key_bias, layer_scale=kind.layer_scale)


def _shown(switches: dict[str, Any]) -> str:
    return f"{{{_pairs(switches)}}}" if switches else "a plain one"


def _pairs(switches: dict[str, Any]) -> str:
    return ", ".join(f"{name}: {_value(value)}" for name, value in switches.items())


def _value(value: Any) -> str:
    if isinstance(value, dict):
        return f"{{{_pairs(value)}}}"
    return value if isinstance(value, str) else str(value).lower()


_POSITIONS = {
    "learned": "learned positions",
    "sincos": "fixed positions",
    "relative": "relative positions",
    "none": "no positions",
}


def _described(kind: EncoderKind) -> str:
    """What the kind is made of, all of it, so that two of them can be compared."""
    if kind.rotary is not None:
        rope = "each half of a head by one axis" if kind.rotary.halves else "axes coupled"
        return f"rotary positions ({rope}), {kind.rotary.registers} registers and no class token"
    parts = [_POSITIONS[kind.positions], "a class token" if kind.class_token else "no class token"]
    parts += [] if kind.key_bias else ["no biases of keys"]
    parts += ["layer scale"] if kind.layer_scale else []
    return f"{', '.join(parts[:-1])} and {parts[-1]}"
