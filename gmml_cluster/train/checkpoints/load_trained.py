"""A run's trained weights for evaluation, export and users: its method, or its encoder alone."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from gmml_cluster.errors import CheckpointError, Fault
from gmml_cluster.methods.build import blank, build
from gmml_cluster.methods.protocol import Method, Setting, exported_name
from gmml_cluster.models.encoders import AnyEncoder
from gmml_cluster.models.rope_vit import RopeEncoder
from gmml_cluster.models.vit import VisionTransformer, pin_attention
from gmml_cluster.run.root import RunRoot, commit_of, run_root
from gmml_cluster.spec.job import JobSpec
from gmml_cluster.train.checkpoints.read import CheckpointReader

__all__ = ["Trained", "full_precision", "load_encoder", "load_trained"]

Weights = dict[str, Tensor]


@dataclass(frozen=True)
class Trained:
    """A method with the weights of a commit.

    Attributes:
        step: the commit's step; -1 for initial weights.
    """

    job: JobSpec
    method: Method
    step: int


def load_trained(root: str, name: str, *, step: int | None = None, untrained: bool = False) -> Trained:
    """The method of a run, on the CPU, in evaluation mode.

    Args:
        root: folder or URL under which the run is.
        name: the run's name.
        step: which commit; the latest by default, also of a live run.
        untrained: take the initial weights instead.

    Raises:
        CheckpointError: there is no such commit, or it is damaged.
    """
    run = run_root(root, name)
    job = run.job({})
    method = build(job)
    method.module.eval()
    if untrained:
        return Trained(job, method, -1)
    weights, found = _read(run, step, lambda reader: {key: reader.tensor(key) for key in method.module.state_dict()})
    method.module.load_state_dict(weights)
    return Trained(job, method, found)


def load_encoder(run: RunRoot, step: int | None = None) -> AnyEncoder:
    """The encoder of a run as a plain torch module, on the CPU, in evaluation mode, without gradient checkpointing.

    Names and shapes of its state are those of timm's `VisionTransformer` of that size without a classifier
    (`num_classes=0`), or of timm's `Beit` where positions are relative, so that it loads there strictly; no model of
    timm has rotary positions as CAPI's. Fixed positions, which checkpoints do not hold, are written out as `pos_embed`.
    Calling it gives the normed tokens (B, T, D), those of the patches after the class token or the registers, if there
    are any: timm's `forward_features`.

    Args:
        run: the run.
        step: which commit; the latest by default, also of a live run.

    Raises:
        CheckpointError: there is no such commit, or it is damaged, or a plug-in's encoder is none of ours.
    """
    encoder, weights = _encoder_weights(run, step)
    encoder.load_state_dict(weights, assign=True)
    fixed = encoder.pos_embed if isinstance(encoder, VisionTransformer) else None
    if fixed is not None and "pos_embed" not in weights:
        del encoder.pos_embed
        encoder.pos_embed = nn.Parameter(fixed.float())
    encoder.checkpointing = False
    return encoder.eval().requires_grad_(True)


def _encoder_weights(run: RunRoot, step: int | None) -> tuple[AnyEncoder, Weights]:
    """The encoder that the method exports, without memory, and its weights in a commit."""
    setting = Setting.of(run.job({}))
    method, method_name = blank(setting), setting.options.name
    name = exported_name(method)
    encoder = method.module.get_submodule(name)
    if not isinstance(encoder, VisionTransformer | RopeEncoder):
        problem = f"{method_name}'s encoder is a {type(encoder).__name__}, which is none of gmml_cluster.models"
        raise CheckpointError(Fault("method.name", problem, "score it by gmml eval, or take the run of another method"))
    weights, _ = _read(run, step, lambda reader: {key: reader.tensor(f"{name}.{key}") for key in encoder.state_dict()})
    return encoder, weights


def _read(run: RunRoot, step: int | None, take: Callable[[CheckpointReader], Weights]) -> tuple[Weights, int]:
    """What `take` reads of a commit, and the commit's step.

    A live run drops its oldest commits. Where no step was asked for and the commit was dropped while it was read, the
    run's latest is read instead.
    """
    commit = commit_of(run, step)
    try:
        return take(CheckpointReader(run.store, commit.folder, commit.manifest)), commit.step
    except CheckpointError:
        if step is not None or commit in run.log.refresh().commits:
            raise
        return _read(run, None, take)


def full_precision() -> None:
    """Compute fp32 on GPUs in fp32, where torch's default for convolutions is TF32; and pin what attention may use."""
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cuda.matmul.allow_tf32 = False
    pin_attention()
