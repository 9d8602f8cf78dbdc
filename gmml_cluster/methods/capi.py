"""CAPI: predict which cluster a teacher's features of hidden patches belong to; clusters are balanced by Sinkhorn.

Source: arXiv 2502.08769; constants and draws: docs/reference/methods.md. Images are coupled within a group alone: by
the balance of the clusters, position by position.

Dims: n images of whole groups, g groups, G images of a group, N cells, v cells visible, P cells predicted, R registers,
D width, K clusters, L blocks of encoder and predictor.
"""

import math
from collections.abc import Collection
from fractions import Fraction
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gmml_cluster.data.random.philox import Purpose
from gmml_cluster.data.random.philox_torch import words
from gmml_cluster.errors import Fault, SpecError
from gmml_cluster.methods import drawing
from gmml_cluster.methods.masks.inverse_block import inverse_blocks, predicted_cells
from gmml_cluster.methods.panels import SEEN, hide, share_of
from gmml_cluster.methods.precision import no_autocast, unrounded
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
from gmml_cluster.models.rope_vit import RopeEncoder, RopePredictor
from gmml_cluster.spec.methods.capi import COSINE_SHARE, CapiOptions, cells_of

TARGET_TEMPERATURE, TEMPERATURE = 0.06, 0.12
ROUNDS = 3
SINKHORN_EPS = 1e-8
CLUSTERING_RATES = (0.5, 0.1)
"""Learning rate and decay of the clustering head over those of the job: 5e-4 and 0.01 where these are 1e-3 and 0.1."""
STEM_LR, NORM_DECAY = 0.2, 0.1


class ClusterHead(nn.Linear):
    """Logits of normalised features; trained by the clustering loss alone."""

    def forward(self, features: Tensor) -> Tensor:
        """Logits (..., K)."""
        return super().forward(F.normalize(features, dim=-1, eps=1e-7))


class PredictionHead(nn.Module):
    """Logits of normalised features; each row of the weight is a direction times a trained gain."""

    def __init__(self, width: int, clusters: int) -> None:
        super().__init__()
        self.weight_g = nn.Parameter(torch.ones(clusters))
        self.weight_v = nn.Parameter(torch.zeros(clusters, width))

    def forward(self, features: Tensor) -> Tensor:
        """Logits (..., K)."""
        lengths_K = self.weight_v.norm(dim=1) + 1e-8
        weight_KD = self.weight_v * (self.weight_g / lengths_K)[:, None]
        return F.linear(F.normalize(features, dim=-1, eps=1e-12), weight_KD)


class Branch(nn.Module):
    """Encoder and predictor: the student's, and again the teacher's."""

    def __init__(self, setting: Setting, options: CapiOptions) -> None:
        super().__init__()
        kind = options.encoder_kind
        assert kind.rotary is not None
        self.encoder = setting.encoder_of(kind)
        self.mask_token = nn.Parameter(torch.zeros(1, 1, setting.model.width))
        self.predictor = RopePredictor(
            setting.rotary_shape(kind.rotary), options.predictor_depth, checkpointing=setting.checkpointing
        )


class CapiModel(Branch):
    """The student, both heads, and the teacher, of whose predictor nothing is read in training."""

    def __init__(self, setting: Setting, options: CapiOptions) -> None:
        super().__init__(setting, options)
        self.head = PredictionHead(setting.model.width, options.clusters)
        self.clusters = ClusterHead(setting.model.width, options.clusters)
        self.teacher = Branch(setting, options).requires_grad_(False)

    def forward(
        self, images_n3SS: Tensor, keep_nv: Tensor, query_nP: Tensor, drop_nL2: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Logits of the teacher's features of all cells (n, N, K), and of the predictions (n, P, K)."""
        depth = len(self.encoder.blocks)
        drops = (None, None) if drop_nL2 is None else (drop_nL2[:, :depth], drop_nL2[:, depth:])
        with torch.no_grad():
            features_nND = self.teacher.encoder(images_n3SS)[:, self.encoder.prefix_tokens :]
        memory_nTD = self.encoder(images_n3SS, drop_BL2=drops[0], keep_BK=keep_nv)
        predicted_nPD = self.predictor(self.mask_token, memory_nTD, keep_nv, query_nP, drops[1])
        # in bf16 the Sinkhorn's targets move by 0.01 to 0.03 in L1 (measured on random features)
        with no_autocast(images_n3SS.device):
            return self.clusters(unrounded(features_nND)), self.head(unrounded(predicted_nPD))


class Capi:
    """The method; see `Verifiable`.

    Draws: `mask` (n, N), true where the encoder does not see; `predict` (n, N), true where it is predicted; `keep`
    (n, v) and `query` (n, P), their indices; `drop` (n, 1, L, 2), of the encoder's blocks and then the predictor's.
    """

    views = 1
    exported = "teacher.encoder"

    def __init__(self, setting: Setting, options: CapiOptions) -> None:
        model = setting.model
        self.setting, self.options, self.taps = setting, options, (model.depth,)
        self.grid = setting.image_size // model.patch_size
        self.cells = cells_of(options, self.grid)
        blocks = model.depth + options.predictor_depth
        self.rates = [Fraction(str(model.drop_path or 0.0))] * blocks
        self.module: nn.Module = CapiModel(setting, options)

    def init_distribution(self, name: str, shape: torch.Size) -> InitDistribution:
        """Matrices Xavier uniform, each of q, k and v by itself; the teacher's are the student's."""
        student = name.removeprefix("teacher.")
        found = self._student_distribution(student, shape)
        return found if student == name else InitDistribution(found.kind, found.scale, like=student)

    def _student_distribution(self, name: str, shape: torch.Size) -> InitDistribution:
        if name == "clusters.weight":
            return InitDistribution("normal", 1.0)
        if name.endswith(("_token", "weight_v")):
            return InitDistribution("normal", 0.02)
        if name == "encoder.patch_embed.proj.bias":
            return InitDistribution("uniform", (3 * self.setting.model.patch_size**2) ** -0.5)
        if len(shape) == 1:
            return InitDistribution("constant", 0.0 if name == "clusters.bias" else 1.0)
        rows = self.setting.model.width if name.endswith(("qkv.weight", "kv.weight")) else shape[0]
        return InitDistribution("uniform", (6 / (rows + shape[1:].numel())) ** 0.5)

    def draw(
        self,
        numbers: Tensor,
        device: torch.device,
        *,
        names: Collection[str] | None = None,
        dtype: torch.dtype = torch.float32,
    ) -> Draws:
        """Draws by sample number."""
        numbers, seed = numbers.to(device), self.setting.seed
        blocks = inverse_blocks(seed, numbers, grid=self.grid, visible=self.cells.visible)
        query = predicted_cells(seed, numbers, blocks.masked, self.cells.predicted)
        made = {
            "mask": self._flags(blocks.masked),
            "predict": self._flags(query),
            "keep": blocks.visible,
            "query": query,
        }
        if any(self.rates):
            drawn = words(seed, Purpose.DROP_PATH, numbers, 2 * len(self.rates))[:, None]
            made["drop"] = drawing.drop_path(drawn, self.rates, dtype)
        return {name: value for name, value in made.items() if names is None or name in names}

    def _flags(self, index_nM: Tensor) -> Tensor:
        none = torch.zeros(len(index_nM), self.cells.all, dtype=torch.bool, device=index_nM.device)
        return none.scatter_(1, index_nM, True)

    def accept(self, given: Draws, count: int) -> Draws:
        """Draws from outside; `keep` and `query` follow from the masks, and without `drop` nothing is dropped."""
        given = {name: value for name, value in given.items() if name not in ("keep", "query")}
        masks = {"mask": (count, self.cells.all), "predict": (count, self.cells.all)}
        check_draws(given, {**masks, "drop": (count, 1, len(self.rates), 2)}, list(masks))
        mask, predict = given["mask"].bool(), given["predict"].bool()
        for name, chosen in (("mask", ~mask), ("predict", predict)):
            numbers = sorted(set(chosen.sum(1).tolist()))
            if len(numbers) > 1 or numbers[0] == 0:
                rule = "it is the same number of each image, at least 1"
                what = "leaves" if name == "mask" else "chooses"
                raise SpecError(Fault(f"draws.{name}", f"{what} {numbers} patches; {rule}", "fix the array"))
        if bool((predict & ~mask).any()):
            raise SpecError(Fault("draws.predict", "chooses visible patches; only masked ones count", "fix the array"))
        indices = {"keep": (~mask).nonzero()[:, 1].view(count, -1), "query": predict.nonzero()[:, 1].view(count, -1)}
        return {**given, "mask": mask, "predict": predict, **indices}

    def loss(self, forward: Forward, images: Tensor, draws: Draws) -> Losses:
        """Cross-entropy of clustering over all cells of a group, plus that of prediction over the predicted ones."""
        drop, group = draws.get("drop"), self.setting.group
        clustering_nNK, prediction_nPK = forward(
            images[:, 0], draws["keep"], draws["query"], None if drop is None else drop[:, 0]
        )
        target_nNK = targets(clustering_nNK.detach(), group)
        index_nPK = draws["query"][:, :, None].expand(-1, -1, target_nNK.shape[2])
        clustering_nN = cross_entropy(clustering_nNK, target_nNK)
        prediction_nP = cross_entropy(prediction_nPK, target_nNK.gather(1, index_nPK))
        mean_gK = target_nNK.view(-1, group * self.cells.all, target_nNK.shape[2]).mean(1)
        perplexity_g = torch.special.entr(mean_gK).sum(1).exp()
        scalars = {
            "clustering_loss": _sums(clustering_nN, group),
            "prediction_loss": _sums(prediction_nP, group),
            "target_entropy": _sums(torch.special.entr(target_nNK).sum(2), group),
            "target_perplexity": torch.stack([perplexity_g, torch.ones_like(perplexity_g)], 1),
        }
        means = [pair[:, 0] / pair[:, 1] for pair in (scalars["clustering_loss"], scalars["prediction_loss"])]
        outputs = {"target": target_nNK, "prediction": prediction_nPK.detach(), "mask": draws["mask"]}
        return Losses(means[0] + means[1], scalars, {**outputs, "predict": draws["predict"]})

    def show_input(self, images: Tensor, draws: Draws, numbers: Tensor, *, grey: Tensor) -> list[Panel]:
        """The visible cells, and those whose clusters are predicted; the teacher sees the whole view."""
        hidden, predicted = draws["mask"], draws["predict"]
        seen = Panel(SEEN, hide(images[:, 0], hidden, grey), share_of(~hidden))
        return [seen, Panel("whose clusters are predicted", hide(images[:, 0], ~predicted, grey), share_of(predicted))]

    def summary(self, images: Tensor, encoder: nn.Module) -> Tensor:
        """The mean of what the teacher's predictor makes of queries at all cells in its first block, normed."""
        teacher, own = cast(Branch, self.module.get_submodule("teacher")), cast(RopeEncoder, encoder)
        cells_nN = torch.arange(own.grid**2, device=images.device).expand(len(images), -1)
        given = teacher.mask_token, own(images), cells_nN, cells_nN
        predicted_nND = teacher.predictor(*given, blocks=1, positions=own.positions)
        return predicted_nND.mean(1)  # type: ignore[no-any-return]

    def multipliers(self, name: str) -> tuple[float, float]:
        """Of learning rate and decay; with `optim.exempt: none` all is decayed but the bias of the stem."""
        if name.startswith("clusters."):
            return CLUSTERING_RATES
        lr = STEM_LR if name.startswith("encoder.patch_embed.") else 1.0
        if name == "encoder.patch_embed.proj.bias":
            return lr, 0.0
        return lr, NORM_DECAY if name.endswith(("norm1.weight", "norm2.weight")) else 1.0

    def after_step(self, step: int, steps: int) -> EmaUpdate:
        """Encoder, mask token and predictor of the teacher follow the student's."""
        targets = tuple(name for name, _ in self.module.named_parameters() if name.startswith("teacher."))
        sources = tuple(name.removeprefix("teacher.") for name in targets)
        return EmaUpdate(targets, sources, teacher_weight(self.options, step, steps))


def targets(logits_nNK: Tensor, group: int) -> Tensor:
    """Soft targets (n, N, K), balanced over the images of a group, each position by itself.

    Sinkhorn-Knopp as released: columns, then rows, are divided by their sums plus 1e-8. The released code first brings
    each column's maximum to exp(50), so that the first sum's 1e-8 does not show: that is a softmax over the images.
    """
    shares_gGNK = (logits_nNK.view(-1, group, *logits_nNK.shape[1:]) / TARGET_TEMPERATURE).softmax(1)
    for number in range(ROUNDS):
        if number > 0:
            shares_gGNK = shares_gGNK / (shares_gGNK.sum(1, keepdim=True) + SINKHORN_EPS)
        shares_gGNK = shares_gGNK / (shares_gGNK.sum(3, keepdim=True) + SINKHORN_EPS)
    return shares_gGNK.view_as(logits_nNK)


def cross_entropy(logits: Tensor, target: Tensor) -> Tensor:
    """Of soft targets, over the last dimension."""
    return -(target * (logits / TEMPERATURE).log_softmax(-1)).sum(-1)


def teacher_weight(options: CapiOptions, step: int, steps: int) -> float:
    """1 less the teacher's momentum: 0 at first, `1 - momentum` after the warm-up, then falling on a cosine."""
    warmup, peak = round(options.momentum_warmup * steps), 1 - options.momentum
    if step < warmup:
        return peak * step / max(1, warmup - 1)
    progress = COSINE_SHARE * min(1.0, (step - warmup) / max(1, steps - warmup))
    return peak * 0.5 * (1 + math.cos(math.pi * progress))


def _sums(values_nM: Tensor, group: int) -> Tensor:
    """Sum and number of the values of each group (g, 2)."""
    grouped = values_nM.reshape(-1, group * values_nM.shape[1])
    return torch.stack([grouped.sum(1), torch.full_like(grouped[:, 0], grouped.shape[1])], 1)


def build(setting: Setting) -> Capi:
    """The method with blank weights."""
    if not isinstance(setting.options, CapiOptions):
        raise TypeError(f"options {setting.options!r}: CAPI takes CapiOptions")
    return Capi(setting, setting.options)
