"""Linear probe on frozen features: MAE's head and optimiser, with a rule for small sets (METHODS.md 7.2).

The head is a normalisation by batch without affine and one linear map, trained with LARS. Features are read once,
without augmentation. The softmax regression's gradient is written out, so several learning rates train at once.

MAE's rate alone leaves the head far from its optimum on some thousand images and would measure the optimiser: so
multiples of it are tried on nine tenths of the bank, judged on the held-out tenth, and the best trains on all of it.
A bank of less than ten batches is cut into ten. The queries choose nothing, and the last epoch counts.

Legend: M samples of the bank, B of a batch, D width of a feature, C classes, R learning rates tried together.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from gmml_cluster.data.random.philox_torch import words
from gmml_cluster.errors import DataError
from gmml_cluster.evaluate.features import Labelled
from gmml_cluster.evaluate.score import Score
from gmml_cluster.methods.drawing import normals

ORDER, INIT, HOLD_OUT = 64, 65, 66

BATCH = 1024
EPOCHS = 90
WARMUP = 10
BASE_LR = 0.1
LR_PER = 256
FACTORS = (1.0, 3.0, 10.0, 30.0, 100.0)
MOMENTUM = 0.9
TRUST = 0.001
EPS = 1e-6
MOMENTS_KEPT = 0.9
INIT_STD = 0.01
TENTH = 10
LEAST = 30
SHARED_FROM = 2**25


@dataclass(frozen=True)
class Heads:
    """R linear heads behind one normalisation.

    Attributes:
        weight: weights (R, C, D).
        bias: biases (R, C).
        mean: running mean of the features (D,).
        variance: running variance of the features (D,).
    """

    weight: Tensor
    bias: Tensor
    mean: Tensor
    variance: Tensor

    def hits(self, samples: Labelled) -> list[int]:
        """Samples that each head classifies rightly, by the running moments."""
        x_MD = (samples.features - self.mean) / (self.variance + EPS).sqrt()
        logits_RMC = torch.einsum("md,rcd->rmc", x_MD, self.weight) + self.bias[:, None]
        return [int(n) for n in (logits_RMC.argmax(2) == samples.labels).sum(1)]


def base_rate(batch: int) -> float:
    """Peak learning rate of the protocol: 0.1 for each 256 samples of a batch."""
    return BASE_LR * batch / LR_PER


def rate(progress_epochs: float) -> float:
    """Learning rate over its peak: linear warm-up over 10 epochs, then half a cosine to 0 at epoch 90."""
    if progress_epochs < WARMUP:
        return progress_epochs / WARMUP
    return 0.5 * (1 + math.cos(math.pi * (progress_epochs - WARMUP) / (EPOCHS - WARMUP)))


def shuffled(count: int, seed: int, purpose: int, stream: int = 0) -> Tensor:
    """A permutation of `count` items, a function of its arguments alone; int64 on the CPU."""
    items = torch.arange(count)
    return ((words(seed, purpose, items, 1, stream)[:, 0] << 31) + items).argsort()


def initial_weights(classes: int, width: int, seed: int) -> Tensor:
    """Normal weights of standard deviation 0.01, float32 (C, D) on the CPU."""
    drawn = words(seed, INIT, torch.arange(classes), width + width % 2)
    return INIT_STD * normals(drawn)[:, :width]


def gradients(x_BD: Tensor, labels_B: Tensor, weight_RCD: Tensor, bias_RC: Tensor) -> tuple[Tensor, Tensor]:
    """Gradients of the mean cross-entropy of each head by its weight and bias."""
    R, C, _ = weight_RCD.shape
    logits_BRC = (x_BD @ weight_RCD.flatten(0, 1).T).view(-1, R, C) + bias_RC
    error_BRC = (logits_BRC.softmax(2) - functional.one_hot(labels_B, C)[:, None]) / len(x_BD)
    return (error_BRC.flatten(1).T @ x_BD).view_as(weight_RCD), error_BRC.sum(0)


def batch_size(samples: int) -> int:
    """Samples of a batch: 1024, or a tenth of a small bank."""
    return min(BATCH, samples // TENTH)


def train(bank: Labelled, *, factors: Sequence[float], seed: int) -> Heads:
    """One head for each multiple of the protocol's rate, all from the same start and over the same whole batches.

    Args:
        bank: what it trains on.
        factors: multiples of the rate; LARS gives the weight a trust ratio, the bias none.
        seed: of the start and the order.
    """
    features_MD, device, width, classes = bank.features, bank.features.device, bank.features.shape[1], bank.classes
    weight = initial_weights(classes, width, seed).to(device).repeat(len(factors), 1, 1)
    bias = torch.zeros(len(factors), classes, device=device)
    mean, variance = torch.zeros(width, device=device), torch.ones(width, device=device)
    size = batch_size(len(features_MD))
    batches = len(features_MD) // size
    peak = torch.tensor(factors, device=device) * base_rate(size)
    weight_speed, bias_speed = torch.zeros_like(weight), torch.zeros_like(bias)
    for epoch in range(EPOCHS):
        order = shuffled(len(features_MD), seed, ORDER, epoch).to(device)
        for place, rows in enumerate(torch.split(order[: batches * size], size)):
            x_BD = features_MD[rows]
            batch_variance, batch_mean = torch.var_mean(x_BD, 0, correction=0)
            mean = MOMENTS_KEPT * mean + (1 - MOMENTS_KEPT) * batch_mean
            variance = MOMENTS_KEPT * variance + (1 - MOMENTS_KEPT) * batch_variance
            x_BD = (x_BD - batch_mean) / (batch_variance + EPS).sqrt()
            weight_gradient, bias_gradient = gradients(x_BD, bank.labels[rows], weight, bias)
            weight_speed = MOMENTUM * weight_speed + trust_ratio(weight, weight_gradient) * weight_gradient
            bias_speed = MOMENTUM * bias_speed + bias_gradient
            lr = rate(epoch + place / batches) * peak
            weight, bias = weight - lr[:, None, None] * weight_speed, bias - lr[:, None] * bias_speed
    return Heads(weight, bias, mean, variance)


def trust_ratio(weight_RCD: Tensor, gradient_RCD: Tensor) -> Tensor:
    """LARS's factor for each head's gradient, 1 where a norm is 0; (R, 1, 1)."""
    weight_norm = torch.linalg.vector_norm(weight_RCD, dim=(1, 2), keepdim=True)
    gradient_norm = torch.linalg.vector_norm(gradient_RCD, dim=(1, 2), keepdim=True)
    known = (weight_norm > 0) & (gradient_norm > 0)
    return torch.where(known, TRUST * weight_norm / gradient_norm, torch.ones_like(weight_norm))


@contextmanager
def fitting_threads(products: int) -> Iterator[None]:
    """One thread of torch on the CPU where a batch takes fewer products than SHARED_FROM.

    Threads that share operations of some microseconds spend most of the time waiting for each other: four times the
    processor time of one thread was measured with 1,297 features of 64 numbers, more where others use the cores.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1 if products < SHARED_FROM else before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def choose_factor(bank: Labelled, *, seed: int) -> float:
    """The multiple of the protocol's rate that does best on a held-out tenth of the bank; the least of equals."""
    order = shuffled(len(bank.features), seed, HOLD_OUT).to(bank.features.device)
    tenth, rest = (
        Labelled(bank.features[rows], bank.labels[rows]) for rows in order.tensor_split([len(order) // TENTH])
    )
    hits = train(rest, factors=FACTORS, seed=seed).hits(tenth)
    return FACTORS[hits.index(max(hits))]


def linear(bank: Labelled, query: Labelled, *, feature: str, seed: int) -> list[Score]:
    """Top-1 accuracy of the probe at the rate that the held-out tenth chose (main) and at the protocol's own.

    Args:
        bank: what the head trains on.
        query: what is classified.
        feature: name of the feature, for the scores.
        seed: of the start, the order and the held-out tenth.

    Raises:
        DataError: the bank is too small to hold a tenth out.
    """
    if len(bank.features) < LEAST:
        raise DataError(f"linear: the bank has {len(bank.features)} samples; it needs {LEAST}; name a larger --bank")
    size = batch_size(len(bank.features))
    with fitting_threads(size * bank.features.shape[1] * bank.classes * len(FACTORS)):
        chosen = choose_factor(bank, seed=seed)
        factors = sorted({1.0, chosen})
        hits = train(bank, factors=factors, seed=seed).hits(query)
    unit = base_rate(size)
    return [
        Score("linear", feature, count, len(query.labels), {"lr": round(unit * factor, 6)}, main=factor == chosen)
        for factor, count in zip(factors, hits, strict=True)
    ]
