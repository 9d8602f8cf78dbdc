"""SimMIM: masked cells are one learned token to the encoder, which sees all patches; a linear head gives their pixels.

Source: arXiv 2111.09886; constants and draws: docs/reference/methods.md. Nothing couples images.

Dims: n images, G images of a group, S side of an image, p side of a patch, N patches, L blocks, D width, P = 3 p p
values of a patch, the colour slowest.
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
from gmml_cluster.methods.masks.cells import masked_cells
from gmml_cluster.methods.protocol import Draws, Forward, InitDistribution, Losses, Picture, Setting, check_draws
from gmml_cluster.models.vit import VisionTransformer
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

    def forward(self, images_n3SS: Tensor, mask_nN: Tensor, drop_nL2: Tensor | None = None) -> Tensor:
        """Predicted patches (n, N, P)."""
        tokens_nTD = self.encoder(
            images_n3SS, drop_BL2=drop_nL2, mask_BN=mask_nN, mask_token=self.mask_token, normed=self.final_norm
        )
        return self.head(tokens_nTD[:, 1:])  # type: ignore[no-any-return]


class Simmim:
    """The method; see `Verifiable`.

    Draws: `mask` (n, N), true for masked patches; `drop` (n, 1, L, 2), multipliers of branches.
    """

    views = 1

    def __init__(self, setting: Setting, options: SimmimOptions) -> None:
        model = setting.model
        self.setting, self.options, self.taps = setting, options, (model.depth,)
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
    ) -> Draws:
        """Draws by sample number: `mask`, and `drop` where blocks drop."""
        wanted, seed, numbers = {"mask", "drop"} if names is None else set(names), self.setting.seed, numbers.to(device)
        draws: Draws = {}
        if "mask" in wanted:
            count = masked_cell_count(self.options, self.grid)
            draws["mask"] = masked_cells(seed, numbers, grid=self.grid, cell=self.options.cell, count=count)
        if "drop" in wanted and any(self.rates):
            random_bits = view_words(seed, numbers, 1, {Purpose.DROP_PATH: 2 * len(self.rates)})
            draws["drop"] = drawing.drop_path(random_bits[Purpose.DROP_PATH], self.rates, dtype)
        return draws

    def accept(self, given: Draws, count: int) -> Draws:
        """Draws from outside; without `drop` no branch is dropped. `mask` hides equally many patches of each image."""
        shapes = {"mask": (count, self.setting.patches), "drop": (count, 1, self.setting.model.depth, 2)}
        check_draws(given, shapes, ["mask"])
        mask = given["mask"].bool()
        hidden = sorted(set(mask.sum(1).tolist()))
        if len(hidden) > 1 or hidden[0] == 0:
            rule = "all images have the same number masked, at least one"
            raise SpecError(Fault("draws.mask", f"masks {hidden} patches; {rule}", "fix the array"))
        return {**given, "mask": mask}

    def loss(self, forward: Forward, images: Tensor, draws: Draws) -> Losses:
        """L1 to the image over the masked pixels of each group and their channels."""
        mask, drop, p = draws["mask"], draws.get("drop"), self.setting.model.patch_size
        prediction = forward(images[:, 0], mask, None if drop is None else drop[:, 0]).to(images.dtype)
        error_nN = (prediction - to_patches(images[:, 0], p)).abs().mean(2)
        masked = group_sums(error_nN, mask, self.setting.group)
        # the released denominator has 1e-5 beside the number of masked pixels
        losses = masked[:, 0] / (masked[:, 1] + _EPS / p**2)
        return Losses(losses, {"loss": masked}, {"prediction": prediction.detach(), "mask": mask})

    def show(self, images: Tensor, draws: Draws, outputs: dict[str, Tensor], *, grey: Tensor) -> Picture:
        """Masked cells grey, and as they were predicted."""
        p = self.setting.model.patch_size
        target, masked = to_patches(images[:, 0], p), outputs["mask"][:, :, None]
        seen = torch.where(masked, grey.repeat_interleave(p * p), target)
        made = torch.where(masked, outputs["prediction"], target)
        return Picture((MASKED,) * len(images), to_images(seen, p), to_images(made, p))


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
