"""MAE: the encoder sees a quarter of the patches, a small decoder reconstructs the rest.

Source: arXiv 2111.06377; constants and draws: docs/reference/methods.md. Nothing couples images.

Dims: n images, G images of a group, S side of an image, p side of a patch, N patches, K patches kept, H patches
held by the decoder, D width of the encoder, d width of the decoder, P = 3 p p values of a patch.
"""

from collections.abc import Collection

import torch
from torch import Tensor, nn

from gmml_cluster.errors import Fault, SpecError
from gmml_cluster.methods.groups import group_sums
from gmml_cluster.methods.masks import attention
from gmml_cluster.methods.masks.tokens import kept_tokens
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
from gmml_cluster.models.vit import EPS, Block, VisionTransformer, run_block, sincos_positions
from gmml_cluster.spec.methods.amt import token_roles
from gmml_cluster.spec.methods.mae import MaeOptions, kept_patches

REMOVED = "patches removed"


class Decoder(nn.Module):
    """Blocks over all patches: encoded tokens where they were kept, one learned token elsewhere."""

    def __init__(
        self, options: MaeOptions, *, encoder_width: int, patch_size: int, grid: int, checkpointing: bool
    ) -> None:
        super().__init__()
        width, self.checkpointing = options.decoder_width, checkpointing
        self.embed = nn.Linear(encoder_width, width)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed: Tensor
        self.register_buffer("pos_embed", sincos_positions(width, grid), persistent=False)
        self.blocks = nn.ModuleList(Block(width, options.decoder_heads) for _ in range(options.decoder_depth))
        self.norm = nn.LayerNorm(width, eps=EPS)
        self.pred = nn.Linear(width, 3 * patch_size**2)

    def forward(self, tokens_nTD: Tensor, keep_nK: Tensor, held_nH: Tensor | None = None) -> Tensor:
        """Predicted patches (n, N, P) from the class token and the kept patches' tokens.

        Of patches that are not among `held_nH` the decoder has no token, and 0 is predicted.
        """
        x_nTd = self.embed(tokens_nTD)
        table = self.pos_embed.to(self.mask_token.dtype)
        blank_nNd = self.mask_token.to(x_nTd.dtype).expand(len(x_nTd), table.shape[1] - 1, -1)
        x_nTd = torch.cat([x_nTd[:, :1], blank_nNd.scatter(1, _each(keep_nK, x_nTd), x_nTd[:, 1:])], 1) + table
        if held_nH is not None:
            x_nTd = torch.cat([x_nTd[:, :1], x_nTd[:, 1:].gather(1, _each(held_nH, x_nTd))], 1)
        for block in self.blocks:
            x_nTd = run_block(block, x_nTd, None, self.checkpointing)
        made_nHP = self.pred(self.norm(x_nTd)[:, 1:])
        return made_nHP if held_nH is None else attention.at_places(made_nHP, held_nH, table.shape[1] - 1)


def _each(index_nK: Tensor, x_nTd: Tensor) -> Tensor:
    """The index for each of the values of a token."""
    return index_nK[:, :, None].expand(-1, -1, x_nTd.shape[2])


class MaeModel(nn.Module):
    """Encoder with fixed positions, and decoder."""

    def __init__(self, encoder: VisionTransformer, decoder: Decoder) -> None:
        super().__init__()
        self.encoder, self.decoder = encoder, decoder

    def forward(self, images_n3SS: Tensor, keep_nK: Tensor, held_nH: Tensor | None = None) -> Tensor:
        """Predicted patches (n, N, P), 0 where a patch is not held."""
        return self.decoder(self.encoder(images_n3SS, keep_BK=keep_nK), keep_nK, held_nH)  # type: ignore[no-any-return]


class Mae:
    """The method; see `Verifiable`.

    Draws: `keep` (n, K), the patches that the encoder sees, ascending; `mask` (n, N), true for the others. With AMT,
    once there are maps: `role` (n, N) in place of `mask`, and `held` (n, H), the patches that the decoder sees.
    """

    views = 1

    def __init__(self, setting: Setting, options: MaeOptions) -> None:
        model = setting.model
        self.setting, self.options, self.taps, self.amt = setting, options, (model.depth,), options.amt
        self.kept = kept_patches(options, setting.patches)
        encoder = setting.encoder(**options.encoder_kind.switches)
        decoder = Decoder(
            options,
            encoder_width=model.width,
            patch_size=model.patch_size,
            grid=encoder.grid,
            checkpointing=setting.checkpointing,
        )
        self.module: nn.Module = MaeModel(encoder, decoder)

    def init_distribution(self, name: str, shape: torch.Size) -> InitDistribution:
        """Matrices Xavier uniform, tokens normal with 0.02, the convolution's bias as torch initialises it."""
        if name.endswith(("cls_token", "mask_token")):
            return InitDistribution("normal", 0.02)
        if name == "encoder.patch_embed.proj.bias":
            return InitDistribution("uniform", (3 * self.setting.model.patch_size**2) ** -0.5)
        if name.endswith(".bias"):
            return InitDistribution("constant", 0.0)
        return (
            InitDistribution("constant", 1.0)
            if len(shape) == 1
            else InitDistribution("uniform", (6 / (shape[0] + shape[1:].numel())) ** 0.5)
        )

    def draw(
        self,
        numbers: Tensor,
        device: torch.device,
        *,
        names: Collection[str] | None = None,
        dtype: torch.dtype = torch.float32,
        given: Draws | None = None,
    ) -> Draws:
        """Draws by sample number; the first K of a random order are kept, or what a given map leaves visible."""
        numbers, draws = numbers.to(device), dict(given or {})
        if self.amt is not None and draws:
            counts = token_roles(self.amt, self.setting.patches)
            draws = attention.with_roles(draws, self.setting.seed, numbers, counts)
        else:
            seed, patches = self.setting.seed, self.setting.patches
            mask, keep = kept_tokens(seed, numbers, patches=patches, kept=self.kept)
            draws = {"mask": mask, "keep": keep}
        return {name: value for name, value in draws.items() if names is None or name in names}

    def accept(self, given: Draws, count: int) -> Draws:
        """Draws from outside; what is kept follows from `mask`, which removes the same number of each image."""
        if self.amt is not None and attention.decide(given):
            return attention.accept_roles(given, {ROLE: (count, self.setting.patches)})
        given = {name: value for name, value in given.items() if name != "keep"}
        check_draws(given, {"mask": (count, self.setting.patches)}, ["mask"])
        mask = given["mask"].bool()
        removed = sorted(set(mask.sum(1).tolist()))
        if len(removed) > 1 or removed[0] in (0, self.setting.patches):
            rule = "all images lose the same number, neither none nor all"
            raise SpecError(Fault("draws.mask", f"removes {removed} patches; {rule}", "fix the array"))
        return {"mask": mask, "keep": (~mask).nonzero()[:, 1].view(count, -1)}

    def loss(self, forward: Forward, images: Tensor, draws: Draws) -> Losses:
        """Mean squared error over the removed patches of each group."""
        mask, held = attention.masked_of(draws), draws.get("held")
        places = (draws["keep"],) if held is None else (draws["keep"], held)
        prediction = forward(images[:, 0], *places).to(images.dtype)
        target = patchify(images[:, 0], self.setting.model.patch_size)
        target = norm_pix(target) if self.options.standardise else target
        group = self.setting.group
        removed = group_sums((prediction - target).square().mean(2), mask, group)
        scalars = {"loss": removed, "prediction_std": group_sums(prediction.std(2), mask, group)}
        scalars |= attention.weight_scalars(draws, group)
        outputs = {"prediction": prediction.detach(), "mask": mask, **attention.role_outputs(draws)}
        return Losses(removed[:, 0] / removed[:, 1], scalars, outputs)

    def show(self, images: Tensor, draws: Draws, outputs: dict[str, Tensor], *, grey: Tensor) -> Picture:
        """Removed patches grey, and as they were predicted."""
        size = self.setting.model.patch_size
        target, removed, made = patchify(images[:, 0], size), outputs["mask"][:, :, None], outputs["prediction"]
        made = undo_norm_pix(made, target) if self.options.standardise else made
        seen = hide(images[:, 0], attention.unseen_of(draws), grey)
        made = torch.where(removed, made, patchify(seen, size))
        return Picture((REMOVED,) * len(images), seen, unpatchify(made, size))

    def show_input(self, images: Tensor, draws: Draws, numbers: Tensor, *, grey: Tensor) -> list[Panel]:
        """The patches that are kept."""
        unseen = attention.unseen_of(draws)
        return [Panel(SEEN, hide(images[:, 0], unseen, grey), share_of(~unseen))]


def patchify(images_n3SS: Tensor, patch_size: int) -> Tensor:
    """Patches (n, N, P), within a patch row by row and the channel fastest."""
    n, _, S, _ = images_n3SS.shape
    grid = S // patch_size
    cells = images_n3SS.view(n, 3, grid, patch_size, grid, patch_size).permute(0, 2, 4, 3, 5, 1)
    return cells.reshape(n, grid**2, -1)


def unpatchify(patches_nNP: Tensor, patch_size: int) -> Tensor:
    """The inverse of `patchify`: images (n, 3, S, S)."""
    n, cells, _ = patches_nNP.shape
    grid = round(cells**0.5)
    split = patches_nNP.view(n, grid, grid, patch_size, patch_size, 3)
    return split.permute(0, 5, 1, 3, 2, 4).reshape(n, 3, grid * patch_size, grid * patch_size)


def norm_pix(patches_nNP: Tensor) -> Tensor:
    """The target of `norm_pix_loss`: each patch less its mean, over the root of its unbiased variance plus 1e-6."""
    variance, mean = torch.var_mean(patches_nNP, 2, keepdim=True)
    return (patches_nNP - mean) / (variance + 1e-6).sqrt()


def undo_norm_pix(prediction_nNP: Tensor, target_nNP: Tensor) -> Tensor:
    """Predictions of such targets with the mean and deviation of the true patches put back, to be shown."""
    variance, mean = torch.var_mean(target_nNP, 2, keepdim=True)
    return prediction_nNP * (variance + 1e-6).sqrt() + mean


def build(setting: Setting) -> Mae:
    """The method with blank weights."""
    if not isinstance(setting.options, MaeOptions):
        raise TypeError(f"options {setting.options!r}: MAE takes MaeOptions")
    return Mae(setting, setting.options)
