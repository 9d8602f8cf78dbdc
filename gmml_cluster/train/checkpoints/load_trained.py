"""A run's trained weights for evaluation, export and users: its method, or its encoder alone."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from gmml_cluster.errors import CheckpointError, Fault
from gmml_cluster.methods.build import blank, build
from gmml_cluster.methods.protocol import Method, Setting, exported_name
from gmml_cluster.models.encoders import AnyEncoder
from gmml_cluster.models.regrid import differs_in_grid, on_grid
from gmml_cluster.models.rope_vit import RopeEncoder
from gmml_cluster.models.vit import VisionTransformer, pin_attention
from gmml_cluster.run.root import RunRoot, commit_of, run_root
from gmml_cluster.spec.job import JobSpec
from gmml_cluster.spec.methods.encoder_kind import kind_of
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
    method = build(job, drawn=untrained)
    method.module.eval()
    if untrained:
        return Trained(job, method, -1)
    weights, found = _read(run, step, lambda reader: {key: reader.tensor(key) for key in method.module.state_dict()})
    method.module.load_state_dict(weights)
    return Trained(job, method, found)


def load_encoder(run: RunRoot, step: int | None = None, image_size: int | None = None) -> AnyEncoder:
    """The encoder of a run as a plain torch module, on the CPU, in evaluation mode, without gradient checkpointing.

    Names and shapes of its state are those of timm's `VisionTransformer` of that size without a classifier
    (`num_classes=0`), or of timm's `Beit` where positions are relative, so that it loads there strictly; no model of
    timm has rotary positions as CAPI's. Fixed positions, which checkpoints do not hold, are written out as `pos_embed`.
    Calling it gives the normed tokens (B, T, D), those of the patches after the class token or the registers, if there
    are any: timm's `forward_features`.

    Args:
        run: the run.
        step: which commit; the latest by default, also of a live run.
        image_size: side of the images that it is to read; that of its job by default. Positions of another grid are
            brought to it as `gmml_cluster.models.regrid` says.

    Raises:
        CheckpointError: there is no such commit, or it is damaged, or a plug-in's encoder is none of ours, or there
            are no positions for such images.
    """
    setting, encoder, weights = _encoder_weights(run, step)
    encoder.load_state_dict(weights, assign=True)
    # the views of a run may be smaller than its images (`data.augment.mega`)
    size = image_size or run.job({}).data.image_size
    if size != setting.image_size and (image_size is not None or kind_of(setting.options) is not None):
        encoder = encoder_at(setting, encoder, size)
    fixed = encoder.pos_embed if isinstance(encoder, VisionTransformer) else None
    if fixed is not None and "pos_embed" not in weights:
        del encoder.pos_embed
        encoder.pos_embed = nn.Parameter(fixed.float())
    encoder.checkpointing = False
    return encoder.eval().requires_grad_(True)


def _encoder_weights(run: RunRoot, step: int | None) -> tuple[Setting, AnyEncoder, Weights]:
    """The encoder that the method exports, without memory, and its weights in a commit."""
    setting = Setting.of(run.job({}))
    method, method_name = blank(setting), setting.options.name
    name = exported_name(method)
    encoder = method.module.get_submodule(name)
    if not isinstance(encoder, VisionTransformer | RopeEncoder):
        problem = f"{method_name}'s encoder is a {type(encoder).__name__}, which is none of gmml_cluster.models"
        raise CheckpointError(Fault("method.name", problem, "score it by gmml eval, or take the run of another method"))
    weights, _ = _read(run, step, lambda reader: {key: reader.tensor(f"{name}.{key}") for key in encoder.state_dict()})
    return setting, encoder, weights


def encoder_at(setting: Setting, encoder: AnyEncoder, image_size: int) -> AnyEncoder:
    """An encoder of the same weights for images of another size; itself where it is its own.

    Args:
        setting: of the method that the encoder is of.
        encoder: on the CPU.
        image_size: side of the images that it is to read.

    Raises:
        CheckpointError: patches do not fill such images, or positions cannot be brought to that grid.
    """
    kind, patch = kind_of(setting.options), setting.model.patch_size
    if image_size == encoder.grid * patch:
        return encoder
    if image_size % patch:
        hint = f"take {max(1, round(image_size / patch)) * patch}"
        raise CheckpointError(Fault("image size", f"{image_size} is no multiple of the patch of {patch}", hint))
    if kind is None:
        problem = f"{image_size}; the options of {setting.options.name} do not say their kind of encoder"
        raise CheckpointError(Fault("image size", problem, "leave it out, or give them an encoder_kind"))
    with torch.device("meta"):
        made = replace(setting, image_size=image_size).encoder_of(kind)
    shapes = {name: tuple(value.shape) for name, value in made.state_dict().items()}
    made.load_state_dict(
        {name: _on_grid(name, value, shapes[name]) for name, value in encoder.state_dict().items()}, assign=True
    )
    return made.train(encoder.training)


def _on_grid(name: str, table: Tensor, shape: tuple[int, ...]) -> Tensor:
    if tuple(table.shape) != shape and not differs_in_grid(name, tuple(table.shape), shape):
        problem = f"{name} is {list(table.shape)}, and {list(shape)} at that image size; it cannot be brought there"
        raise CheckpointError(Fault("image size", problem, "take the run's own"))
    return on_grid(name, table, shape)


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
    pin_attention(torch.are_deterministic_algorithms_enabled())
