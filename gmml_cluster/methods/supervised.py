"""Supervised training: a linear head on the encoder, with mixed images and smoothed targets.

Sources: arXiv 2012.12877; constants and draws: docs/reference/methods.md. Mixing couples the images of a group.

Dims: n images, g groups, G images of a group, S side of an image, D width, L blocks, K classes.
"""

from collections.abc import Callable, Collection
from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gmml_cluster.data.random.philox import Purpose
from gmml_cluster.data.random.philox_torch import view_words
from gmml_cluster.methods import drawing
from gmml_cluster.methods.groups import group_sums
from gmml_cluster.methods.mixing import draw_mixing, mix_images, partners
from gmml_cluster.methods.panels import SEEN
from gmml_cluster.methods.protocol import (
    LABEL,
    Draws,
    EmaUpdate,
    Forward,
    InitDistribution,
    Losses,
    Panel,
    Setting,
    check_draws,
    check_labels,
)
from gmml_cluster.models.encoders import AnyEncoder
from gmml_cluster.spec.methods.classifier import MixingOptions
from gmml_cluster.spec.methods.supervised import SupervisedOptions

SHARE, BOX, DROP = "lambda", "box", "drop"
AVERAGE = "average"
"""Name of the averaged classifier in the module."""


class Classifier(nn.Module):
    """Encoder and linear head."""

    def __init__(self, encoder: AnyEncoder, width: int, options: MixingOptions) -> None:
        super().__init__()
        self.encoder, self.pool = encoder, options.pool
        self.classifier = nn.Linear(width, options.classes)

    def forward(self, images_n3SS: Tensor, drop_nL2: Tensor | None = None) -> Tensor:
        """Logits (n, K)."""
        if self.pool == "class":
            return self.classifier(self.encoder(images_n3SS, drop_BL2=drop_nL2)[:, 0])  # type: ignore[no-any-return]
        # the norm comes after the mean, as where mean pooling is fine-tuned, so that the head reads a normed vector
        tokens_nTD = self.encoder(images_n3SS, drop_BL2=drop_nL2, normed=False)
        return self.classifier(self.encoder.norm(tokens_nTD[:, self.encoder.prefix_tokens :].mean(1)))  # type: ignore[no-any-return]


class Supervised:
    """The method; see `Verifiable`, and `AfterStep`, which it is only where the weights are averaged.

    Draws: `label` int64 (n,), from the reader; `lambda` (g,), the share of the image itself, and `box` (g, 4), the top,
    left, bottom and right of what CutMix takes from the partner, zeros for mixup; `drop` (n, 1, L, 2).
    """

    views = 1
    after_step: Callable[[int, int], EmaUpdate]

    def __init__(self, setting: Setting, options: MixingOptions) -> None:
        model = setting.model
        self.setting, self.options, self.taps = setting, options, (model.depth,)
        self.rates = drawing.drop_rates(model.drop_path or 0.0, model.depth)
        self.module: nn.Module = self._classifier()
        if options.ema is not None:
            self.module.add_module(AVERAGE, self._classifier().requires_grad_(False))
            self.exported, self.after_step = f"{AVERAGE}.encoder", self._move_average

    def _classifier(self) -> Classifier:
        encoder = self.setting.encoder_of(self.options.encoder_kind)
        return Classifier(encoder, self.setting.model.width, self.options)

    def _move_average(self, step: int, steps: int) -> EmaUpdate:
        """The average follows encoder and head by an equal share in every step."""
        sources = tuple(name for name, _ in self.module.get_submodule(AVERAGE).named_parameters())
        assert self.options.ema is not None
        return EmaUpdate(tuple(f"{AVERAGE}.{name}" for name in sources), sources, 1 - self.options.ema)

    def init_distribution(self, name: str, shape: torch.Size) -> InitDistribution:
        """The patch projection as torch initialises it, all else normal with 0.02; the average begins as the rest."""
        if name.startswith(f"{AVERAGE}."):
            own = name.removeprefix(f"{AVERAGE}.")
            return replace(self.init_distribution(own, shape), like=own)
        if name.startswith("encoder.patch_embed."):
            return InitDistribution("uniform", (3 * self.setting.model.patch_size**2) ** -0.5)
        if name.endswith("bias"):
            return InitDistribution("constant", 0.0)
        return InitDistribution("constant", 1.0) if len(shape) == 1 else InitDistribution("normal", 0.02)

    def draw(
        self,
        numbers: Tensor,
        device: torch.device,
        *,
        names: Collection[str] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Draws:
        """Draws by sample number: `lambda` and `box` where images are mixed, `drop` where blocks drop."""
        numbers, seed = numbers.to(device), self.setting.seed
        draws: Draws = {}
        if self.options.mixes:
            mixup, cutmix, size = self.options.mixup, self.options.cutmix, self.setting.image_size
            firsts = numbers[:: self.setting.group]
            share, draws[BOX] = draw_mixing(seed, firsts, mixup=mixup, cutmix=cutmix, size=size)
            draws[SHARE] = share.to(dtype)
        if any(self.rates):
            words = view_words(seed, numbers, 1, {Purpose.DROP_PATH: 2 * len(self.rates)})[Purpose.DROP_PATH]
            draws[DROP] = drawing.drop_path(words, self.rates, dtype)
        return {name: value for name, value in draws.items() if names is None or name in names}

    def accept(self, given: Draws, count: int) -> Draws:
        """Draws from outside; without `box` images are blended, without `lambda` and `box` where none are mixed."""
        groups = count // self.setting.group
        shapes = {
            LABEL: (count,),
            SHARE: (groups,),
            BOX: (groups, 4),
            DROP: (count, 1, self.setting.model.depth, 2),
        }
        check_draws(given, shapes, [LABEL, SHARE] if self.options.mixes else [LABEL])
        check_labels(given[LABEL], self.options.classes)
        no_box = {BOX: torch.zeros(groups, 4, dtype=torch.int64)} if SHARE in given else {}
        return {**no_box, **given, LABEL: given[LABEL].long()}

    def loss(self, forward: Forward, images: Tensor, draws: Draws) -> Losses:
        """Cross-entropy with soft targets, the mean over the images of a group."""
        x_n3SS, labels, group, drop = images[:, 0], draws[LABEL], self.setting.group, draws.get(DROP)
        target_nK, dominant, share = self._targets(labels, images.dtype), labels, draws.get(SHARE)
        scalars: dict[str, Tensor] = {}
        if share is not None:
            x_n3SS = mix_images(x_n3SS, share, draws[BOX], group)
            own = share.to(images.dtype).repeat_interleave(group)
            target_nK = own[:, None] * target_nK + (1 - own[:, None]) * partners(target_nK, group)
            dominant = torch.where(own >= 0.5, labels, partners(labels, group))
            scalars["lambda"] = torch.stack([share, torch.ones_like(share)], 1)
        logits_nK = forward(x_n3SS, None if drop is None else drop[:, 0]).to(images.dtype)
        losses = -(target_nK * F.log_softmax(logits_nK, 1)).sum(1).view(-1, group).mean(1)
        scalars["top1"] = top1(logits_nK, dominant, group)
        return Losses(losses, scalars, {"prediction": logits_nK.detach()})

    def show_input(self, images: Tensor, draws: Draws, numbers: Tensor, *, grey: Tensor) -> list[Panel]:
        """The images as they are mixed; with CutMix the partner's box is outlined."""
        if SHARE not in draws:
            return []
        group, shares = self.setting.group, draws[SHARE].repeat_interleave(self.setting.group).tolist()
        others = partners(numbers, group).tolist()
        facts = [f"{own:.0%} itself, {1 - own:.0%} of n {other}" for own, other in zip(shares, others, strict=True)]
        corners = draws[BOX].repeat_interleave(group, 0)
        boxes = torch.cat([corners[:, :2], corners[:, 2:] - corners[:, :2]], 1)[:, None]
        return [Panel(SEEN, mix_images(images[:, 0], draws[SHARE], draws[BOX], group), facts, boxes)]

    def _targets(self, labels: Tensor, dtype: torch.dtype) -> Tensor:
        classes, smoothing = self.options.classes, self.options.smoothing
        # not `one_hot`, which on some devices waits to check its argument
        is_class_nK = labels[:, None] == torch.arange(classes, device=labels.device)
        return is_class_nK.to(dtype) * (1 - smoothing) + smoothing / classes


def top1(logits_nK: Tensor, labels: Tensor, group: int) -> Tensor:
    """Images of each group whose class has the greatest logit, and their number (g, 2)."""
    hits = (logits_nK.argmax(1) == labels)[:, None]
    return group_sums(hits.to(logits_nK.dtype), torch.ones_like(hits), group)


def build(setting: Setting) -> Supervised:
    """The method with blank weights."""
    if not isinstance(setting.options, SupervisedOptions):
        raise TypeError(f"options {setting.options!r}: supervised training takes SupervisedOptions")
    return Supervised(setting, setting.options)
