"""I-JEPA: what a teacher makes of some rectangles of an image is predicted from the rest of it.

Source: arXiv 2301.08243; constants and draws: docs/reference/methods.md. Nothing couples images but, with
`masks: padded`, the sizes of their rectangles within a group.

Dims: n images of whole groups, g groups, G images of a group, S side of an image, N patches, K patches of a context,
M targets, P patches of a target, D width of the encoder, d of the predictor.
"""

import re
from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gmml_cluster.errors import Fault, SpecError
from gmml_cluster.methods.groups import group_sums
from gmml_cluster.methods.masks.multi_block import FixedRule, PaddedRule, context_tokens, target_tokens
from gmml_cluster.methods.panels import SEEN, hide, share_of
from gmml_cluster.methods.protocol import (
    Draws,
    EmaUpdate,
    Forward,
    InitDistribution,
    Losses,
    Panel,
    Setting,
    check_draws,
)
from gmml_cluster.models.vit import EPS, Block, VisionTransformer, run_block, sincos_positions
from gmml_cluster.spec.methods import multi_block as sizes
from gmml_cluster.spec.methods.counts import Stack
from gmml_cluster.spec.methods.ijepa import IjepaOptions, context_length, predictor_stack, target_length

_TARGET_EPS = 1e-5
_ENDS_OF_BRANCHES = re.compile(r"blocks\.(\d+)\.(?:attn\.proj|mlp\.fc2)\.weight$")


class Predictor(nn.Module):
    """Blocks over the context's tokens and a learned token at each patch of a target, one target at a time."""

    def __init__(self, stack: Stack, *, encoder_width: int, grid: int, checkpointing: bool) -> None:
        super().__init__()
        width, self.checkpointing = stack.width, checkpointing
        self.embed = nn.Linear(encoder_width, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed: Tensor
        self.register_buffer("pos_embed", sincos_positions(width, grid)[:, 1:], persistent=False)
        self.blocks = nn.ModuleList(Block(width, stack.heads, stack.mlp_ratio) for _ in range(stack.blocks))
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.proj = nn.Linear(width, encoder_width)

    def forward(
        self, context_nKD: Tensor, context_index_nK: Tensor, target_index_nMP: Tensor, real_BT: Tensor | None
    ) -> Tensor:
        """Predicted vectors of the targets' patches (n, M, P, D).

        Args:
            context_nKD: the encoder's output.
            context_index_nK: its patches.
            target_index_nMP: patches to predict.
            real_BT: which of the K + P tokens of each of n M sequences are attended to; None: all.
        """
        table_Nd = self.pos_embed[0].to(self.mask_token.dtype)
        (n, M, P), K = target_index_nMP.shape, context_nKD.shape[1]
        context_nKd = self.embed(context_nKD) + table_Nd[context_index_nK]
        asked_nMPd = (self.mask_token[0] + table_Nd[target_index_nMP]).to(context_nKd.dtype)
        x_BTd = torch.cat([context_nKd[:, None].expand(-1, M, -1, -1), asked_nMPd], 2).flatten(0, 1)
        for block in self.blocks:
            x_BTd = run_block(block, x_BTd, None, self.checkpointing, *(() if real_BT is None else (real_BT,)))
        return self.proj(self.norm(x_BTd[:, K:])).view(n, M, P, -1)  # type: ignore[no-any-return]


class IjepaModel(nn.Module):
    """Encoder, predictor, and the teacher's encoder, which is frozen."""

    def __init__(self, encoder: VisionTransformer, predictor: Predictor, teacher: VisionTransformer) -> None:
        super().__init__()
        self.encoder, self.predictor = encoder, predictor
        self.teacher = nn.ModuleDict({"encoder": teacher.requires_grad_(False)})

    def forward(
        self,
        images_n3SS: Tensor,
        context_index_nK: Tensor,
        target_index_nMP: Tensor,
        context_real_nK: Tensor | None = None,
        target_real_nMP: Tensor | None = None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Predictions and the teacher's vectors (n, M, P, D) of the targets' patches, and its mean of all (n, D)."""
        with torch.no_grad():
            all_nND = self.teacher["encoder"](images_n3SS)
            picked = target_index_nMP.flatten(1)[..., None].expand(-1, -1, all_nND.shape[2])
            target_nMPD = all_nND.gather(1, picked).view(*target_index_nMP.shape, -1)
            pooled_nD = all_nND.mean(1)
        context_nKD = self.encoder(images_n3SS, keep_BK=context_index_nK, real_BK=context_real_nK)
        real_BT = _sequences(context_real_nK, target_real_nMP)
        return self.predictor(context_nKD, context_index_nK, target_index_nMP, real_BT), target_nMPD, pooled_nD


def _sequences(context_real_nK: Tensor | None, target_real_nMP: Tensor | None) -> Tensor | None:
    """Which tokens of the predictor's sequences are not filling (n M, K + P)."""
    if context_real_nK is None or target_real_nMP is None:
        return None
    M = target_real_nMP.shape[1]
    return torch.cat([context_real_nK[:, None].expand(-1, M, -1), target_real_nMP], 2).flatten(0, 1)


class Ijepa:
    """The method; see `Verifiable` and `AfterStep`.

    Draws: `target` (n, M, 4), rectangles of patches: top, left, height, width; `context` (n, N), true for the patches
    that the encoder sees; `short` (n,), images for which no try left enough context. What follows from them:
    `context_index` (n, K), `target_index` (n, M, P), and where lengths differ `context_real` and `target_real`, false
    for what fills sequences up to one length.
    """

    views = 1
    exported = "teacher.encoder"

    def __init__(self, setting: Setting, options: IjepaOptions) -> None:
        model = setting.model
        self.setting, self.options, self.taps = setting, options, (model.depth,)
        self.grid = setting.image_size // model.patch_size
        self.rule = mask_rule(options, self.grid, setting.group)
        self.lengths = context_length(options, self.grid), target_length(options, self.grid)
        encoder, teacher = (setting.encoder(**options.encoder_kind.switches) for _ in range(2))
        predictor = Predictor(
            predictor_stack(options, model, sum(self.lengths)),
            encoder_width=model.width,
            grid=self.grid,
            checkpointing=setting.checkpointing,
        )
        self.module: nn.Module = IjepaModel(encoder, predictor, teacher)

    def init_distribution(self, name: str, shape: torch.Size) -> InitDistribution:
        """Matrices and the mask token normal with 0.02; the teacher begins as the encoder."""
        own = name.removeprefix("teacher.")
        if own.endswith(".bias"):
            return InitDistribution("constant", 0.0)
        if len(shape) == 1:
            return InitDistribution("constant", 1.0)
        block = _ENDS_OF_BRANCHES.search(own) if self.options.scaled_init else None
        scale = 0.02 if block is None else 0.02 / (2 * (int(block[1]) + 1)) ** 0.5
        return InitDistribution("normal", scale, like=own)

    def draw(
        self,
        numbers: Tensor,
        device: torch.device,
        *,
        names: Collection[str] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Draws:
        """Draws by sample number; with `masks: padded` the sizes are drawn by the number of the group's first."""
        masks = self.rule.draw(self.setting.seed, numbers.to(device))
        draws = {"target": masks.target, "context": masks.context, "short": masks.short}
        draws |= self._tokens(draws, *self.lengths, padded=self.options.masks == "padded")
        return {name: value for name, value in draws.items() if names is None or name in names}

    def _tokens(self, draws: Draws, context: int, target: int, *, padded: bool) -> Draws:
        context_index, context_real = context_tokens(draws["context"], context)
        target_index, target_real = target_tokens(draws["target"], self.grid, target)
        found = {"context_index": context_index, "target_index": target_index}
        return found | ({"context_real": context_real, "target_real": target_real} if padded else {})

    def accept(self, given: Draws, count: int) -> Draws:
        """Draws from outside: any rectangles on the grid, as many of each image, and any contexts but empty ones."""
        own = {name: value for name, value in given.items() if not name.endswith(("_index", "_real"))}
        target = own.get("target", torch.zeros(0))
        shapes: dict[str, tuple[int, ...]] = {
            "target": (count, target.shape[1] if target.ndim == 3 else self.options.targets, 4),
            "context": (count, self.setting.patches),
            "short": (count,),
        }
        check_draws(own, shapes, ["target", "context"])
        target, context = own["target"].long(), own["context"].bool()
        self._check(target, context)
        areas, kept = target[..., 2] * target[..., 3], context.sum(1)
        draws = {"target": target, "context": context, "short": own.get("short", torch.zeros(count)).bool()}
        ragged = int(areas.min()) < int(areas.max()) or int(kept.min()) < int(kept.max())
        padded = ragged or self.options.masks == "padded"
        return draws | self._tokens(draws, int(kept.max()), int(areas.max()), padded=padded)

    def _check(self, target_nM4: Tensor, context_nN: Tensor) -> None:
        start, size = target_nM4[..., :2], target_nM4[..., 2:]
        if target_nM4.shape[1] == 0 or bool(((start < 0) | (size < 1) | (start + size > self.grid)).any()):
            rule = f"each is top, left, height, width on a grid of {self.grid}"
            raise SpecError(Fault("draws.target", f"holds no rectangle, or one that is not whole; {rule}", "fix it"))
        if not bool(context_nN.any(1).all()):
            raise SpecError(
                Fault("draws.context", "is empty for an image; the encoder sees something", "fix the array")
            )

    def loss(self, forward: Forward, images: Tensor, draws: Draws) -> Losses:
        """Smooth L1, or the square, between predictions and the teacher's vectors, over each group's target patches."""
        group, context_real, target_real = self.setting.group, self._context_real(draws), draws.get("target_real")
        prediction, target, pooled = forward(
            images[:, 0], draws["context_index"], draws["target_index"], context_real, target_real
        )
        prediction, target = prediction.to(images.dtype), target.to(images.dtype)
        if self.options.norm_target:
            target = F.layer_norm(target, target.shape[-1:], eps=_TARGET_EPS)
        error = F.smooth_l1_loss if self.options.loss == "smooth_l1" else F.mse_loss
        each_nMP = error(prediction, target, reduction="none").mean(3)
        counted_nMP = torch.ones_like(each_nMP, dtype=torch.bool) if target_real is None else target_real
        sums = group_sums(each_nMP, counted_nMP, group)
        seen_nK = torch.ones_like(draws["context_index"]) if context_real is None else context_real
        scalars = {
            "loss": sums,
            "context": _images(seen_nK.sum(1), group),
            "target": _images(counted_nMP.flatten(1).sum(1), group),
            "short": _images(draws["short"], group),
            "teacher_std": _spread(pooled.to(images.dtype), group),
        }
        outputs = {"prediction": prediction.detach(), "target": target, "mask": ~draws["context"]}
        return Losses(sums[:, 0] / sums[:, 1], scalars, outputs)

    def _context_real(self, draws: Draws) -> Tensor | None:
        """Which tokens of contexts are not filling; with `cut: group` only the first ones, as many in a whole group."""
        real_nK = draws.get("context_real")
        if real_nK is None or self.options.cut == "none":
            return real_nK
        least_g = real_nK.sum(1).view(-1, self.setting.group).amin(1)
        return real_nK & (real_nK.cumsum(1) <= least_g.repeat_interleave(self.setting.group)[:, None])

    def show_input(self, images: Tensor, draws: Draws, numbers: Tensor, *, grey: Tensor) -> list[Panel]:
        """The context, and the targets, which the teacher sees as parts of the whole view."""
        context = _chosen(draws["context_index"], self._context_real(draws), self.setting.patches)
        target_real = draws.get("target_real")
        index, real = draws["target_index"].flatten(1), None if target_real is None else target_real.flatten(1)
        target = _chosen(index, real, self.setting.patches)
        boxes = draws["target"] * self.setting.model.patch_size
        return [
            Panel(SEEN, hide(images[:, 0], ~context, grey), share_of(context)),
            Panel("what is predicted", hide(images[:, 0], ~target, grey), share_of(target), boxes),
        ]

    def after_step(self, step: int, steps: int) -> EmaUpdate:
        """The teacher follows the encoder, ever more slowly: its momentum rises on a line over the schedule."""
        names = [name for name, _ in self.module.get_submodule("encoder").named_parameters()]
        first, last = self.options.momentum
        momentum = first + (last - first) * min(1.0, step / steps)
        targets, sources = (tuple(f"{side}.{name}" for name in names) for side in ("teacher.encoder", "encoder"))
        return EmaUpdate(targets, sources, 1 - momentum)


def _chosen(index_nK: Tensor, real_nK: Tensor | None, patches: int) -> Tensor:
    """The patches of an index, bool (n, N), less those that fill sequences up."""
    real_nK = torch.ones_like(index_nK, dtype=torch.bool) if real_nK is None else real_nK
    none = torch.zeros(len(index_nK), patches, dtype=torch.uint8, device=index_nK.device)
    # what fills up may name a patch that is real elsewhere in the row
    return none.scatter_reduce(1, index_nK, real_nK.to(torch.uint8), "amax").bool()


def mask_rule(options: IjepaOptions, grid: int, group: int) -> FixedRule | PaddedRule:
    """How an image's masks are drawn."""
    border = options.border
    reach, context = sizes.reach(grid, border), sizes.context_sizes(grid, border, options.context_scale)
    length = context_length(options, grid)
    if options.masks == "fixed":
        target = sizes.fixed_target(grid, border, options.target_scale)
        return FixedRule(grid, reach, options.targets, target, context, length)
    targets = sizes.target_sizes(grid, border, options.target_scale)
    return PaddedRule(grid, reach, options.targets, targets, context, options.min_keep, length, group)


def _images(values_n: Tensor, group: int) -> Tensor:
    """Sum of a value over the images of each group, and their number (g, 2)."""
    return group_sums(values_n.float()[:, None], torch.ones_like(values_n, dtype=torch.bool)[:, None], group)


def _spread(pooled_nD: Tensor, group: int) -> Tensor:
    """Deviation over a group's images, averaged over D, and 1 (g, 2): near 0 the teacher makes the same of all."""
    spread_g = pooled_nD.view(-1, group, pooled_nD.shape[1]).std(1, correction=0).mean(1)
    return torch.stack([spread_g, torch.ones_like(spread_g)], 1)


def build(setting: Setting) -> Ijepa:
    """The method with blank weights."""
    if not isinstance(setting.options, IjepaOptions):
        raise TypeError(f"options {setting.options!r}: I-JEPA takes IjepaOptions")
    return Ijepa(setting, setting.options)
