"""What the tensors of published checkpoints are called here. Every one is taken, dropped for a reason, or refused.

Our names are timm's. Sources: the parameters of timm 1.0's `VisionTransformer` and `Beit`, and the files that the
authors of MAE (arXiv 2111.06377), DINO (2104.14294), DINOv2 (2304.07193) and GMML (2205.14986) have published.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from torch import Tensor

from gmml_cluster.errors import CheckpointError, Fault
from gmml_cluster.models.regrid import differs_in_grid, is_fixed, on_grid
from gmml_cluster.train.checkpoints.transformers_names import by_timms_names

ENCODER = "encoder."
DECODER = "decoder."
_POSITIONS = f"{ENCODER}pos_embed"
_FIRST = "patch_embed.proj.weight"
"""What every encoder has; what stands before it in its name is the encoder's prefix."""
_TEACHERS = ("teacher", "target_encoder", "momentum_encoder", "ema")
_HEADS = re.compile(
    r"(head|heads|head_dist|head_recons|fc_norm|pre_logits|fc|classifier|distillation_classifier|lm_head|pooler)\.|mask_token$|masked_embed$|decoder[._]"
)
_COMPUTED = re.compile(r".*relative_position_index$")
_LAYER_SCALE = re.compile(r"\.ls([12])\.gamma$")
_MAE_DECODER = {
    "decoder_embed.": "embed.",
    "decoder_blocks.": "blocks.",
    "decoder_norm.": "norm.",
    "decoder_pred.": "pred.",
    "decoder_pos_embed": "pos_embed",
    "mask_token": "mask_token",
}
_LISTED = 5

Weights = Mapping[str, Tensor]
Shapes = Mapping[str, tuple[int, ...]]


@dataclass(frozen=True)
class Translated:
    """What is taken of a file.

    Attributes:
        weights: float32, by our names.
        dropped: names in the file of what is left out on purpose.
    """

    weights: dict[str, Tensor]
    dropped: list[str]


def translated(found: Weights, needed: Shapes, computed: Weights, *, decoder: bool) -> Translated:
    """The encoder of a published checkpoint by our names, and MAE's decoder where the job's has its shapes.

    Positions of another grid are brought to the one here, as `gmml_cluster.models.regrid` says.

    Args:
        found: the file's tensors, by the names of timm or of transformers.
        needed: shapes of all tensors of the module here that are state.
        computed: what the method here computes and does not train, such as fixed positions: the file must agree.
        decoder: whether a decoder is wanted.

    Raises:
        CheckpointError: a tensor of the encoder is missing, of another shape, or unknown; all are listed.
    """
    found = by_timms_names(found)
    prefix = _prefix(found)
    inside = {name.removeprefix(prefix): value for name, value in found.items() if name.startswith(prefix)}
    if f"{prefix}norm.weight" not in found:  # timm's name of the norm behind a mean over the tokens
        inside = {re.sub(r"^fc_norm\.", "norm.", name): value for name, value in inside.items()}
    left = [name for name in inside if _HEADS.match(name) or _COMPUTED.match(name)]
    given = {ENCODER + _LAYER_SCALE.sub(r".gamma_\1", name): inside[name] for name in inside if name not in left}
    _check({name: shape for name, shape in needed.items() if name.startswith(ENCODER)}, given, computed)
    taken = {name: on_grid(name, value.float(), needed[name]) for name, value in given.items() if name in needed}
    if decoder and (of_decoder := _decoder(inside, needed, computed)):
        taken |= of_decoder
        left = [name for name in left if _decoder_name(name) is None]
    beside = [name for name in found if not name.startswith(prefix)]
    return Translated({name: value.float().contiguous() for name, value in taken.items()}, left + beside)


def listed(names: Iterable[str]) -> str:
    """Names by their first part, with the number of tensors where there are several."""
    counts = Counter(re.match(r"(?:module\.)?[^.]*", name)[0] for name in names)  # type: ignore[index]
    return ", ".join(first if count == 1 else f"{first} ({count})" for first, count in counts.items()) or "nothing"


def _prefix(found: Weights) -> str:
    """What the names of the encoder's tensors begin with, such as `module.backbone.`; of several, a teacher's."""
    prefixes = [name.removesuffix(_FIRST) for name in found if name == _FIRST or name.endswith(f".{_FIRST}")]
    chosen = [prefix for prefix in prefixes if any(word in prefix for word in _TEACHERS)] or prefixes
    if len(chosen) == 1:
        return chosen[0]
    problem = (
        f"{len(prefixes)} tensors are called {_FIRST}; it must be one encoder by the names of timm or transformers"
    )
    known = ", ".join(list(found)[:_LISTED])
    raise CheckpointError(Fault("tensors", f"{problem}; the first names are {known}", "save one encoder's state_dict"))


def _check(needed: Shapes, given: Weights, computed: Weights) -> None:
    faults = [_positions_fault(needed, given, computed)]
    others = [name for name in needed if name != _POSITIONS]
    missing = [f"{name} {list(needed[name])}" for name in others if name not in given]
    differ = [
        f"{name} {list(given[name].shape)}, here {list(needed[name])}"
        for name in others
        if name in given and not _fits(name, tuple(given[name].shape), needed[name])
    ]
    unknown = [
        f"{name} {list(value.shape)}" for name, value in given.items() if name not in needed and name != _POSITIONS
    ]
    kinds = {"missing": missing, "of another shape": differ, "unknown here": unknown}
    faults += [f"{len(names)} {kind}: {_first(names)}" for kind, names in kinds.items() if names]
    text = "; ".join(fault for fault in faults if fault)
    if text:
        cure = (
            "give model and data.image_size its shape, and take a method (or method.encoder) with its kind of encoder"
        )
        raise CheckpointError(Fault("tensors", text, cure))


def _positions_fault(needed: Shapes, given: Weights, computed: Weights) -> str:
    """What is wrong with the positions; empty where nothing is."""
    theirs, fixed = given.get(_POSITIONS), computed.get(_POSITIONS)
    ours = tuple(fixed.shape) if fixed is not None else needed.get(_POSITIONS)
    if theirs is None:
        return "no pos_embed, whose learned values are needed here" if _POSITIONS in needed else ""
    if ours is None:  # without positions an encoder computes what it does with zeros
        return "positions, while the encoder here adds none" if bool(theirs.any()) else ""
    if not _fits(_POSITIONS, tuple(theirs.shape), ours):
        return f"positions of {_grid(tuple(theirs.shape))}, while there are {_grid(ours)} here"
    if fixed is not None and not is_fixed(theirs):
        return "learned positions, while those of the encoder here are MAE's fixed table"
    return ""


def _fits(name: str, theirs: tuple[int, ...], ours: tuple[int, ...]) -> bool:
    return theirs == ours or differs_in_grid(name, theirs, ours)


def _grid(shape: tuple[int, ...]) -> str:
    """As `14 x 14 patches and a class token`."""
    rows = shape[1] if len(shape) == 3 else 0
    side = round(rows**0.5)
    for extra, name in ((0, "no class token"), (1, "a class token")):
        if rows and side**2 + extra == rows:
            return f"{side} x {side} patches and {name} {list(shape)}"
    return f"shape {list(shape)}"


def _decoder_name(name: str) -> str | None:
    """Our name of a tensor of MAE's decoder; None where it is none."""
    for theirs, ours in _MAE_DECODER.items():
        if name.startswith(theirs):
            return DECODER + ours + name.removeprefix(theirs)
    return None


def _decoder(inside: Weights, needed: Shapes, computed: Weights) -> dict[str, Tensor]:
    """MAE's decoder whole; empty where a tensor of it is missing, unknown or of another shape."""
    given = {ours: value for name, value in inside.items() if (ours := _decoder_name(name)) is not None}
    shapes = {name: shape for name, shape in needed.items() if name.startswith(DECODER)}
    table, fixed = given.pop(f"{DECODER}pos_embed", None), computed.get(f"{DECODER}pos_embed")
    if not shapes or {name: tuple(value.shape) for name, value in given.items()} != shapes:
        return {}
    return given if table is None or fixed is None or is_fixed(table) else {}


def _first(names: list[str]) -> str:
    more = f" and {len(names) - _LISTED} more" if len(names) > _LISTED else ""
    return ", ".join(names[:_LISTED]) + more
