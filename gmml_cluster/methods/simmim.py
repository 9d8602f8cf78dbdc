"""SimMIM: masked cells are one learned token to the encoder, which sees all patches; a linear head gives their pixels.

Source: arXiv 2111.09886; constants and draws: docs/reference/methods.md. Nothing couples images.

Dims: n images, G images of a group, S side of an image, p side of a patch, N patches, H patches held, L blocks,
D width, P = 3 p p values of a patch, the colour slowest.
"""

import re
from collections.abc import Collection

import torch
from torch import Tensor, nn

from gmml_cluster.data.random.philox import Purpose
from gmml_cluster.data.random.philox_torch import view_words
from gmml_cluster.errors import Fault, SpecError
from gmml_cluster.methods import drawing
from gmml_cluster.methods.groups import group_sums
from gmml_cluster.methods.masks import attention
from gmml_cluster.methods.masks.cells import masked_cells
from gmml_cluster.methods.panels import SEEN, hide, share_of
from gmml_cluster.methods.protocol import (
    ROLE,
    Draws,
    Forward,
    InitDistribution,
    Losses,
    Panel,
    Picture,
    Setting,
    check_draws,
)
from gmml_cluster.models.vit import VisionTransformer
from gmml_cluster.spec.methods.amt import cell_roles
from gmml_cluster.spec.methods.simmim import SimmimOptions, masked_cell_count

MASKED = "cells masked"
_EPS = 1e-5
_BRANCH_ENDS = re.compile(r"encoder\.blocks\.(\d+)\.(attn\.proj|mlp\.fc2)\.weight")


class SimmimModel(nn.Module):
    """Encoder, mask token and head."""

    def __init__(self, encoder: VisionTransformer, width: int, *, final_norm: bool) -> None:
        super().__init__()
        self.encoder, self.final_norm = encoder, final_norm
        # without use it would have no gradient, at which DDP stops
        self.encoder.norm.requires_grad_(final_norm)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.head = nn.Linear(width, 3 * encoder.patch_size**2)

    def forward(
        self,
        images_n3SS: Tensor,
        mask_nN: Tensor,
        drop_nL2: Tensor | None = None,
        held_nH: Tensor | None = None,
    ) -> Tensor:
        """Predicted patches (n, N, P); 0 for those that the encoder has no token of, as they are not held."""
        tokens_nTD = self.encoder(
            images_n3SS,
            drop_BL2=drop_nL2,
            keep_BK=held_nH,
            mask_BN=mask_nN,
            mask_token=self.mask_token,
            normed=self.final_norm,
        )
        made_nHP = self.head(tokens_nTD[:, 1:])
        return made_nHP if held_nH is None else attention.at_places(made_nHP, held_nH, mask_nN.shape[1])


class Simmim:
    """The method; see `Verifiable`.

    Draws: `mask` (n, N), true for masked patches; `drop` (n, 1, L, 2), multipliers of branches. With AMT,
    once there are maps: `role` (n, N) in place of `mask`, and `held` (n, H), the patches that the encoder sees.
    """

    views = 1

    def __init__(self, setting: Setting, options: SimmimOptions) -> None:
        model = setting.model
        self.setting, self.options, self.taps, self.amt = setting, options, (model.depth,), options.amt
        self.rates = drawing.drop_rates(model.drop_path or 0.0, model.depth)
        self.grid = setting.image_size // model.patch_size
        encoder = setting.encoder(**options.encoder_kind.switches)
        self.module: nn.Module = SimmimModel(encoder, model.width, final_norm=options.final_norm)

    def init_distribution(self, name: str, shape: torch.Size) -> InitDistribution:
        """BEiT's start: normal with 0.02 cut at one standard deviation; the head as torch initialises it."""
        if name.startswith("head."):
            return InitDistribution("uniform", self.setting.model.width**-0.5)
        if "gamma" in name:
            return InitDistribution("constant", self.options.layer_scale)
        if name.endswith(("bias", "bias_table")):
            return InitDistribution("constant", 0.0)
        if len(shape) == 1:
            return InitDistribution("constant", 1.0)
        ends = _BRANCH_ENDS.fullmatch(name)
        return InitDistribution("truncated", 0.02 / (2 * (1 + int(ends[1]))) ** 0.5 if ends else 0.02)

    def draw(
        self,
        numbers: Tensor,
        device: torch.device,
        *,
        names: Collection[str] | None = None,
        dtype: torch.dtype = torch.float32,
        given: Draws | None = None,
    ) -> Draws:
        """Draws by sample number: `mask`, or roles by a given map, and `drop` where blocks drop."""
        seed, numbers, draws = self.setting.seed, numbers.to(device), dict(given or {})
        wanted = {"mask", "drop", *draws, *attention.NAMES} if names is None else set(names)
        if self.amt is not None and draws:
            cell, counts = self.options.cell, cell_roles(self.amt, (self.grid // self.options.cell) ** 2)
            draws = attention.with_roles(draws, seed, numbers, counts, cell=cell)
            draws = {name: value for name, value in draws.items() if name in wanted}
        elif "mask" in wanted:
            count = masked_cell_count(self.options, self.grid)
            draws["mask"] = masked_cells(seed, numbers, grid=self.grid, cell=self.options.cell, count=count)
        if "drop" in wanted and any(self.rates):
            random_bits = view_words(seed, numbers, 1, {Purpose.DROP_PATH: 2 * len(self.rates)})
            draws["drop"] = drawing.drop_path(random_bits[Purpose.DROP_PATH], self.rates, dtype)
        return draws

    def accept(self, given: Draws, count: int) -> Draws:
        """Draws from outside; without `drop` no branch is dropped. `mask` hides equally many patches of each image."""
        drop = {"drop": (count, 1, self.setting.model.depth, 2)}
        if self.amt is not None and attention.decide(given):
            return attention.accept_roles(given, {ROLE: (count, self.setting.patches), **drop})
        shapes = {"mask": (count, self.setting.patches), **drop}
        check_draws(given, shapes, ["mask"])
        mask = given["mask"].bool()
        hidden = sorted(set(mask.sum(1).tolist()))
        if len(hidden) > 1 or hidden[0] == 0:
            rule = "all images have the same number masked, at least one"
            raise SpecError(Fault("draws.mask", f"masks {hidden} patches; {rule}", "fix the array"))
        return {**given, "mask": mask}

    def loss(self, forward: Forward, images: Tensor, draws: Draws) -> Losses:
        """L1 to the image over the masked pixels of each group and their channels."""
        mask, drop, p = attention.masked_of(draws), draws.get("drop"), self.setting.model.patch_size
        held = () if "held" not in draws else (draws["held"],)
        prediction = forward(images[:, 0], mask, None if drop is None else drop[:, 0], *held).to(images.dtype)
        error_nN = (prediction - to_patches(images[:, 0], p)).abs().mean(2)
        masked = group_sums(error_nN, mask, self.setting.group)
        # the released denominator has 1e-5 beside the number of masked pixels
        losses = masked[:, 0] / (masked[:, 1] + _EPS / p**2)
        scalars = {"loss": masked, **attention.weight_scalars(draws, self.setting.group)}
        outputs = {"prediction": prediction.detach(), "mask": mask, **attention.role_outputs(draws)}
        return Losses(losses, scalars, outputs)

    def show(self, images: Tensor, draws: Draws, outputs: dict[str, Tensor], *, grey: Tensor) -> Picture:
        """Masked cells grey, and as they were predicted."""
        p = self.setting.model.patch_size
        seen = hide(images[:, 0], attention.unseen_of(draws), grey)
        made = torch.where(outputs["mask"][:, :, None], outputs["prediction"], to_patches(seen, p))
        return Picture((MASKED,) * len(images), seen, to_images(made, p))

    def show_input(self, images: Tensor, draws: Draws, numbers: Tensor, *, grey: Tensor) -> list[Panel]:
        """Masked cells grey: the encoder has one learned token for each of their patches."""
        unseen = attention.unseen_of(draws)
        return [Panel(SEEN, hide(images[:, 0], unseen, grey), share_of(~unseen))]


def to_patches(images_n3SS: Tensor, patch_size: int) -> Tensor:
    """Patches (n, N, P), within a patch colour by colour: as a pixel shuffle reads them, other than MAE's."""
    n, _, S, _ = images_n3SS.shape
    grid = S // patch_size
    cells = images_n3SS.view(n, 3, grid, patch_size, grid, patch_size).permute(0, 2, 4, 1, 3, 5)
    return cells.reshape(n, grid**2, -1)


def to_images(patches_nNP: Tensor, patch_size: int) -> Tensor:
    """The inverse of `to_patches`: images (n, 3, S, S)."""
    n, cells, _ = patches_nNP.shape
    grid = round(cells**0.5)
    split = patches_nNP.view(n, grid, grid, 3, patch_size, patch_size)
    return split.permute(0, 3, 1, 4, 2, 5).reshape(n, 3, grid * patch_size, grid * patch_size)


def build(setting: Setting) -> Simmim:
    """The method with blank weights."""
    if not isinstance(setting.options, SimmimOptions):
        raise TypeError(f"options {setting.options!r}: SimMIM takes SimmimOptions")
    return Simmim(setting, setting.options)
