"""ConMIM: each masked token is to be told from all tokens of its image as a teacher sees them, in another view.

Source: arXiv 2205.09616; constants and draws: docs/reference/methods.md. The projectors' batch norms couple the images
of a group.

Dims: n images of whole groups, g groups, G images of a group, S side of an image, N patches, H patches held,
T = 1 + N tokens, R = G T rows of a group, D width of the encoder, K width of queries and keys.
"""

import math
import re
from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gmml_cluster.errors import Fault, SpecError
from gmml_cluster.methods.groups import group_sums
from gmml_cluster.methods.masks import attention
from gmml_cluster.methods.masks.blocks import masked_blocks
from gmml_cluster.methods.masks.cells import masked_cells, patches_of
from gmml_cluster.methods.panels import hide, share_of
from gmml_cluster.methods.precision import no_autocast, unrounded
from gmml_cluster.methods.protocol import (
    ROLE,
    Draws,
    EmaUpdate,
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
from gmml_cluster.spec.methods.conmim import ConmimOptions, block_target, least_block, masked_cell_count

SHOWN_SIMILAR = "patches like the outlined one"
_BATCH_EPS, _LENGTH_EPS = 1e-5, 1e-12
_BRANCH_ENDS = re.compile(r"encoder\.blocks\.(\d+)\.(attn\.proj|mlp\.fc2)\.weight")


class GroupNorm(nn.Module):
    """Batch norm over the rows of a group, always with their own statistics: none are kept.

    Statistics that run along would never be read, and would depend on how groups are spread over ranks.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight, self.bias = nn.Parameter(torch.ones(width)), nn.Parameter(torch.zeros(width))

    def forward(self, x_gRD: Tensor) -> Tensor:
        """Normalised, then scaled and shifted; float32 at least."""
        return standardised(x_gRD) * self.weight + self.bias


def standardised(x_gRD: Tensor) -> Tensor:
    """Each channel of a group at mean 0 and, with the biased variance, at variance 1; float32 at least."""
    x_gRD = unrounded(x_gRD)
    variance, mean = torch.var_mean(x_gRD, 1, correction=0, keepdim=True)
    return (x_gRD - mean) * (variance + _BATCH_EPS).rsqrt()


class Projector(nn.Sequential):
    """Three layers without biases, each followed by batch norm, the last one's without scale and shift."""

    def __init__(self, width: int, widths: tuple[int, int, int]) -> None:
        """Takes the rows of groups (g, R, D); its last batch norm is `project`'s."""
        first, second, last = widths
        super().__init__(
            nn.Linear(width, first, bias=False),
            GroupNorm(first),
            nn.ReLU(),
            nn.Linear(first, second, bias=False),
            GroupNorm(second),
            nn.ReLU(),
            nn.Linear(second, last, bias=False),
        )


def project(projector: nn.Module, tokens_nTD: Tensor, group: int) -> Tensor:
    """Vectors of the patches (n, N, K); rows of the class tokens count in the norms alone."""
    n, T, _ = tokens_nTD.shape
    out_gRK = standardised(projector(tokens_nTD.reshape(n // group, group * T, -1)))
    return out_gRK.view(n, T, -1)[:, 1:]


class ConmimModel(nn.Module):
    """Student, and under `teacher` a frozen copy of all of it."""

    def __init__(self, encoders: list[VisionTransformer], width: int, widths: tuple[int, int, int], group: int) -> None:
        super().__init__()
        self.group = group
        self.encoder, self.mask_token, self.projector = encoders[0], _mask_token(width), Projector(width, widths)
        self.teacher = nn.ModuleDict({"encoder": encoders[1], "projector": Projector(width, widths)})
        # never used: the teacher sees all patches; the released one has it and moves it
        self.teacher.register_parameter("mask_token", _mask_token(width))
        self.teacher.requires_grad_(False)

    def forward(
        self, weak_n3SS: Tensor, strong_n3SS: Tensor, mask_nN: Tensor, held_nH: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """The student's queries and the teacher's keys (n, N, K), or of the H patches that are held."""
        with torch.no_grad():
            seen_nTD = self.teacher["encoder"](strong_n3SS, keep_BK=held_nH)
            key_nNK = project(self.teacher["projector"], seen_nTD, self.group)
        tokens_nTD = self.encoder(weak_n3SS, keep_BK=held_nH, mask_BN=mask_nN, mask_token=self.mask_token)
        return project(self.projector, tokens_nTD, self.group), key_nNK


def _mask_token(width: int) -> nn.Parameter:
    return nn.Parameter(torch.zeros(1, 1, width))


class Conmim:
    """The method; see `Verifiable` and `AfterStep`.

    Draws: `mask` (n, N), true for masked patches. With AMT, once there are maps: `role` (n, N) in place of `mask`, and
    `held` (n, H), the patches that student and teacher see.
    """

    views = 2
    exported = "teacher.encoder"

    def __init__(self, setting: Setting, options: ConmimOptions) -> None:
        model = setting.model
        self.setting, self.options, self.taps, self.amt = setting, options, (model.depth,), options.amt
        self.grid = setting.image_size // model.patch_size
        encoders = [setting.encoder(**options.encoder_kind.switches) for _ in range(2)]
        self.module: nn.Module = ConmimModel(encoders, model.width, options.projector, setting.group)

    def init_distribution(self, name: str, shape: torch.Size) -> InitDistribution:
        """BEiT's start: normal with 0.02 cut at one standard deviation; the teacher begins as the student."""
        own = name.removeprefix("teacher.")
        if "gamma" in own:
            return InitDistribution("constant", self.options.layer_scale)
        if own.endswith(("bias", "bias_table")):
            return InitDistribution("constant", 0.0)
        if len(shape) == 1:
            return InitDistribution("constant", 1.0)
        ends = _BRANCH_ENDS.fullmatch(own)
        return InitDistribution("truncated", 0.02 / (2 * (1 + int(ends[1]))) ** 0.5 if ends else 0.02, like=own)

    def draw(
        self,
        numbers: Tensor,
        device: torch.device,
        *,
        names: Collection[str] | None = None,
        dtype: torch.dtype = torch.float32,
        given: Draws | None = None,
    ) -> Draws:
        """Draws by sample number: `mask`, or roles by a given map."""
        seed, options, grid = self.setting.seed, self.options, self.grid
        if self.amt is not None and given:
            counts = cell_roles(self.amt, (grid // options.cell) ** 2)
            draws = attention.with_roles(given, seed, numbers.to(device), counts, cell=options.cell)
            return {name: value for name, value in draws.items() if names is None or name in names}
        if names is not None and "mask" not in names:
            return {}
        if options.masks == "cells":
            count = masked_cell_count(options, grid)
            return {"mask": masked_cells(seed, numbers.to(device), grid=grid, cell=options.cell, count=count)}
        target, least = block_target(options, grid), least_block(grid)
        mask_nN, _ = masked_blocks(seed, numbers, grid=grid, target=target, least_area=least)
        return {"mask": mask_nN.to(device, non_blocking=True)}

    def accept(self, given: Draws, count: int) -> Draws:
        """Draws from outside: any masks, as long as each group has a masked patch."""
        if self.amt is not None and attention.decide(given):
            return attention.accept_roles(given, {ROLE: (count, self.setting.patches)})
        check_draws(given, {"mask": (count, self.setting.patches)}, ["mask"])
        mask = given["mask"].bool()
        if not bool(mask.view(count // self.setting.group, -1).any(1).all()):
            raise SpecError(
                Fault("draws.mask", "masks nothing of a group; the loss is a mean over it", "fix the array")
            )
        return {"mask": mask}

    def loss(self, forward: Forward, images: Tensor, draws: Draws) -> Losses:
        """Cross-entropy of each masked token's cosines with all keys of its image, averaged over a group's."""
        whole_nN, group, tau = attention.masked_of(draws), self.setting.group, self.options.temperature
        held = () if "held" not in draws else (draws["held"],)
        query_nNK, key_nNK = forward(images[:, 0], images[:, 1], whole_nN, *held)
        # from here on N counts the patches held: what is thrown away is no key either
        mask_nN = whole_nN.gather(1, *held) if held else whole_nN
        unit_query, unit_key = (F.normalize(x.to(images.dtype), dim=2, eps=_LENGTH_EPS) for x in (query_nNK, key_nNK))
        with no_autocast(images.device):
            cosine_nNN = unit_query @ unit_key.transpose(1, 2)
        positive_nN = cosine_nNN.diagonal(dim1=1, dim2=2)
        loss_nN = (cosine_nNN / tau).logsumexp(2) - positive_nN / tau
        sums = group_sums(loss_nN, mask_nN, group)
        found = {"loss": sums} | self._scalars(cosine_nNN.detach(), mask_nN)
        found["key_std"] = _spread(unit_key, group)
        found |= attention.weight_scalars(draws, group)
        outputs = {"prediction": cosine_nNN.detach(), "mask": whole_nN, **attention.role_outputs(draws)}
        return Losses(sums[:, 0] / sums[:, 1], found, outputs)

    def _scalars(self, cosine_nNN: Tensor, mask_nN: Tensor) -> dict[str, Tensor]:
        """Of the masked tokens: cosine with their own key, mean with the others, and whether their own is nearest."""
        own_nN, others = cosine_nNN.diagonal(dim1=1, dim2=2), max(1, cosine_nNN.shape[2] - 1)
        values = {
            "positive": own_nN,
            "negative": (cosine_nNN.sum(2) - own_nN) / others,
            "top1": (own_nN >= cosine_nNN.amax(2)).to(own_nN.dtype),
        }
        return {name: group_sums(value, mask_nN, self.setting.group) for name, value in values.items()}

    def show(self, images: Tensor, draws: Draws, outputs: dict[str, Tensor], *, grey: Tensor) -> Picture:
        """The student's view, and which patches of the other resemble one that is masked for the student.

        The one is outlined; a patch is the clearer the greater the cosine of its key with the one's query, from the
        least of the image to the greatest.
        """
        mask_nN, grid, p = outputs["mask"], self.grid, self.setting.model.patch_size
        asked_n = _nearest_middle(mask_nN, grid)
        cosine_nN = outputs["prediction"][torch.arange(len(asked_n)), asked_n]
        low_n1, high_n1 = cosine_nN.amin(1, keepdim=True), cosine_nN.amax(1, keepdim=True)
        share_nN = (cosine_nN - low_n1) / (high_n1 - low_n1).clamp(min=_LENGTH_EPS)
        share_n1SS = patches_of(share_nN, p).view(len(images), 1, grid * p, grid * p)
        like = torch.lerp(grey[:, None, None].expand_as(images[:, 1]), images[:, 1], share_n1SS)
        side_n = torch.full_like(asked_n, p)
        boxes_n14 = torch.stack([asked_n // grid * p, asked_n % grid * p, side_n, side_n], 1)[:, None]
        seen = hide(images[:, 0], attention.unseen_of(draws), grey)
        return Picture((SHOWN_SIMILAR,) * len(images), seen, like, "similarity", boxes_n14)

    def show_input(self, images: Tensor, draws: Draws, numbers: Tensor, *, grey: Tensor) -> list[Panel]:
        """The student's view with masked patches grey, and the teacher's; neither has what is thrown away."""
        unseen, thrown = attention.unseen_of(draws), attention.thrown_of(draws)
        student = Panel("what the student sees", hide(images[:, 0], unseen, grey), share_of(~unseen))
        return [student, Panel("what the teacher sees", hide(images[:, 1], thrown, grey), share_of(~thrown))]

    def after_step(self, step: int, steps: int) -> EmaUpdate:
        """The teacher follows all of the student, ever more slowly: by a cosine over the schedule."""
        targets = tuple(name for name, _ in self.module.named_parameters() if name.startswith("teacher."))
        fall = 0.5 * (1 + math.cos(math.pi * min(1.0, step / steps)))
        weight = (1 - self.options.momentum) * fall
        return EmaUpdate(targets, tuple(name.removeprefix("teacher.") for name in targets), weight)


def _nearest_middle(mask_nN: Tensor, grid: int) -> Tensor:
    """Of each image the masked patch that is nearest to its middle (n,); any patch where none is masked."""
    place_g = torch.arange(grid, device=mask_nN.device) - (grid - 1) / 2
    distance_N = (place_g[:, None].square() + place_g.square()).flatten()
    return (distance_N + ~mask_nN * grid**2).argmin(1)


def _spread(key_nNK: Tensor, group: int) -> Tensor:
    """Deviation of the keys over a group's patches, averaged over K, and 1 (g, 2): near 0 all keys are alike."""
    spread_g = key_nNK.reshape(len(key_nNK) // group, -1, key_nNK.shape[2]).std(1, correction=0).mean(1)
    return torch.stack([spread_g, torch.ones_like(spread_g)], 1)


def build(setting: Setting) -> Conmim:
    """The method with blank weights."""
    if not isinstance(setting.options, ConmimOptions):
        raise TypeError(f"options {setting.options!r}: ConMIM takes ConmimOptions")
    return Conmim(setting, setting.options)
