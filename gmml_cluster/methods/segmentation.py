"""Semantic segmentation: a linear map of each patch token, upsampled to pixels, on a frozen or trained encoder.

Sources: the linear head of arXiv 2111.07832; constants and what is ours: docs/reference/methods.md. The loss is a mean
over the labelled pixels of a group, and a frozen encoder's tokens are normed over its patches: both couple its images.

Dims: n images, g groups, T tokens, N patches of G a row, D width, K classes, S side of a view.
"""

from collections.abc import Collection

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gmml_cluster.data.random.philox import Purpose
from gmml_cluster.data.random.philox_torch import view_words
from gmml_cluster.errors import Fault, SpecError
from gmml_cluster.methods import drawing
from gmml_cluster.methods.finetune import layer_of
from gmml_cluster.methods.groups import group_sums
from gmml_cluster.methods.protocol import MASK, Draws, Forward, InitDistribution, Losses, Panel, Setting, check_draws
from gmml_cluster.models.encoders import AnyEncoder
from gmml_cluster.models.vit import EPS
from gmml_cluster.spec.methods.segmentation import IGNORED, SegmentationOptions

DROP = "drop"
_STD = 0.01


class Segmenter(nn.Module):
    """Encoder and a linear map of its patch tokens."""

    def __init__(self, encoder: AnyEncoder, width: int, options: SegmentationOptions, group: int) -> None:
        super().__init__()
        self.encoder, self.group, self.frozen = encoder.requires_grad_(not options.frozen), group, options.frozen
        self.blocks = options.blocks
        self.classifier = nn.Linear(width * len(options.blocks or (0,)), options.classes)

    def forward(self, images_n3SS: Tensor, drop_nL2: Tensor | None = None, moments_2D: Tensor | None = None) -> Tensor:
        """Logits of each patch (n, K, G, G); a frozen encoder's by each group's moments, or by given ones."""
        if not self.frozen:
            return self._maps(self.classifier(self._patches(images_n3SS, drop_nL2)))
        # a head on features in bf16 would measure its own rounding
        with torch.autocast(images_n3SS.device.type, enabled=False):
            x_nND = self.patches(images_n3SS).contiguous()
            if moments_2D is None:
                x_gMD = x_nND.view(-1, self.group * x_nND.shape[1], x_nND.shape[2])
                variance_g1D, mean_g1D = torch.var_mean(x_gMD, 1, correction=0, keepdim=True)
                normed_nND = ((x_gMD - mean_g1D) / (variance_g1D + EPS).sqrt()).view_as(x_nND)
            else:
                normed_nND = (x_nND - moments_2D[0]) / (moments_2D[1] + EPS).sqrt()
            return self._maps(self.classifier(normed_nND))

    def patches(self, images_n3SS: Tensor) -> Tensor:
        """Normed patch tokens (n, N, D) without a gradient, in the images' type; of several blocks joined."""
        with torch.no_grad():
            return self._patches(images_n3SS, None).to(images_n3SS.dtype)

    def _patches(self, images_n3SS: Tensor, drop_nL2: Tensor | None) -> Tensor:
        how = {"taps": self.blocks, "joined": True} if self.blocks else {}
        return self.encoder(images_n3SS, drop_BL2=drop_nL2, **how)[:, self.encoder.prefix_tokens :]  # type: ignore[no-any-return]

    def _maps(self, logits_nNK: Tensor) -> Tensor:
        grid = self.encoder.grid
        return logits_nNK.mT.reshape(len(logits_nNK), -1, grid, grid)


class Segmentation:
    """The method; see `Verifiable` and `Multiplies`.

    Draws: `mask` uint8 (n, S, S), from the reader, 255 where a pixel does not count; `drop` (n, 1, L, 2) where the
    encoder is trained and its blocks drop.
    """

    views = 1

    def __init__(self, setting: Setting, options: SegmentationOptions) -> None:
        model = setting.model
        self.setting, self.options, self.taps = setting, options, (model.depth,)
        self.rates = drawing.drop_rates(0.0 if options.frozen else model.drop_path or 0.0, model.depth)
        encoder = setting.encoder_of(options.encoder_kind)
        self.module: nn.Module = Segmenter(encoder, model.width, options, setting.group)

    def init_distribution(self, name: str, shape: torch.Size) -> InitDistribution:
        """The head normal with 0.01; `init` replaces the encoder's."""
        if name.endswith("bias"):
            return InitDistribution("constant", 0.0)
        return InitDistribution("constant", 1.0) if len(shape) == 1 else InitDistribution("normal", _STD)

    def multipliers(self, name: str) -> tuple[float, float]:
        """The layer decay to the power of the layers above the parameter's; the weight decay is left as it is."""
        depth = self.setting.model.depth
        return self.options.layer_decay ** (depth + 1 - layer_of(name, depth)), 1.0

    def draw(
        self,
        numbers: Tensor,
        device: torch.device,
        *,
        names: Collection[str] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Draws:
        """`drop` by sample number, where blocks drop."""
        if not any(self.rates) or (names is not None and DROP not in names):
            return {}
        seed, count = self.setting.seed, 2 * len(self.rates)
        words = view_words(seed, numbers.to(device), 1, {Purpose.DROP_PATH: count})[Purpose.DROP_PATH]
        return {DROP: drawing.drop_path(words, self.rates, dtype)}

    def accept(self, given: Draws, count: int) -> Draws:
        """The masks, checked; without `drop` nothing drops."""
        size = self.setting.image_size
        shapes = {MASK: (count, size, size), DROP: (count, 1, self.setting.model.depth, 2)}
        check_draws(given, shapes, [MASK])
        mask, classes = given[MASK], self.options.classes
        if mask.is_floating_point() or bool(((mask < 0) | ((mask >= classes) & (mask != IGNORED))).any()):
            problem = f"holds other values than the classes 0 to {classes - 1} and {IGNORED}, which does not count"
            raise SpecError(Fault(f"draws.{MASK}", problem, "fix the array"))
        return given

    def loss(self, forward: Forward, images: Tensor, draws: Draws) -> Losses:
        """Cross-entropy, the mean over the labelled pixels of a group; 0 for a group without any."""
        drop = draws.get(DROP)
        logits_nKGG = forward(images[:, 0], None if drop is None else drop[:, 0]).to(images.dtype)
        logits_nKSS = upsampled(logits_nKGG, self.setting.image_size, self.setting.image_size)
        labelled_nSS, group = draws[MASK] != IGNORED, self.setting.group
        target_nSS = torch.where(labelled_nSS, draws[MASK], 0).long()
        losses_nSS = F.cross_entropy(logits_nKSS, target_nSS, reduction="none")
        sums_g2 = group_sums(losses_nSS, labelled_nSS, group)
        hits_nSS = (logits_nKSS.argmax(1) == target_nSS).to(losses_nSS.dtype)
        scalars = {"pixel_accuracy": group_sums(hits_nSS, labelled_nSS, group)}
        return Losses(sums_g2[:, 0] / sums_g2[:, 1].clamp(min=1), scalars, {"prediction": logits_nKGG.detach()})

    def show_input(self, images: Tensor, draws: Draws, numbers: Tensor, *, grey: Tensor) -> list[Panel]:
        """Nothing: the encoder sees the view as it is."""
        return []


def upsampled(maps_nKGG: Tensor, height: int, width: int) -> Tensor:
    """Bilinear interpolation to (n, K, height, width), edges repeated, pixel centres mapped to pixel centres.

    The maps need not be square.

    Two matrix products: the gradient of torch's own is summed by atomic additions on GPUs, in no fixed order.
    """
    rows_HG = _weights(height, maps_nKGG.shape[-2], maps_nKGG)
    columns_WG = _weights(width, maps_nKGG.shape[-1], maps_nKGG)
    return rows_HG @ maps_nKGG @ columns_WG.T


def _weights(size: int, grid: int, like: Tensor) -> Tensor:
    """Share of each of `grid` cells in each of `size` pixels (size, grid); a triangle around the pixel's centre."""
    pixels = torch.arange(size, dtype=like.dtype, device=like.device)
    centres_S = ((pixels + 0.5) * (grid / size) - 0.5).clamp(0, grid - 1)
    distance_SG = centres_S[:, None] - torch.arange(grid, dtype=like.dtype, device=like.device)
    return (1 - distance_SG.abs()).clamp(min=0)


def build(setting: Setting) -> Segmentation:
    """The method with blank weights."""
    if not isinstance(setting.options, SegmentationOptions):
        raise TypeError(f"options {setting.options!r}: segmentation takes SegmentationOptions")
    return Segmentation(setting, setting.options)
