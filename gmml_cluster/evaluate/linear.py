"""Linear probe on frozen features: MAE's head and optimiser (arXiv 2111.06377, A.1), with a rule for small sets.

The head is a batch normalisation without affine and one linear map, trained with LARS. Features are read once, without
augmentation, and heads for several learning rates train together.

MAE's rate alone leaves the head far from its optimum on some thousand images and would measure the optimiser. So
multiples of it are tried on nine tenths of the bank, judged on the held-out tenth, and the best trains on all of it.
The grid is extended while its edge is the best. A bank of less than ten batches is cut into ten. The queries choose
nothing, and the last epoch counts.

Legend: M samples of the bank, B of a batch, D width of a feature, C classes, R learning rates tried together.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from gmml_cluster.data.random.philox_torch import normals, words
from gmml_cluster.errors import DataError, Fault
from gmml_cluster.evaluate.features import Labelled
from gmml_cluster.evaluate.score import Score
from gmml_cluster.progress import progress
from gmml_cluster.wording import counted

ORDER, INIT, HOLD_OUT = 64, 65, 66

BATCH = 1024
EPOCHS = 90
WARMUP = 10
BASE_LR = 0.1
LR_PER = 256
FACTORS = (1.0, 3.0, 10.0, 30.0, 100.0)
LOWER, HIGHER = (0.3, 0.1, 0.03, 0.01), (300.0, 1_000.0, 3_000.0, 10_000.0)
"""Multiples that are tried beyond FACTORS, two at a time, while the edge of what was tried is the best."""
MOMENTUM = 0.9
TRUST = 0.001
EPS = 1e-6
MOMENTS_KEPT = 0.9
INIT_STD = 0.01
TENTH = 10
LEAST = 30
SHARED_FROM = 2**25


@dataclass(frozen=True)
class ProbeHeads:
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
        """Number of samples that each head classifies correctly, with the running moments."""
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
    parameters = weight_RCD.requires_grad_(), bias_RC.requires_grad_()
    logits_BCR = torch.einsum("bd,rcd->bcr", x_BD, weight_RCD) + bias_RC.T
    losses_BR = functional.cross_entropy(logits_BCR, labels_B[:, None].expand(-1, len(bias_RC)), reduction="none")
    # the heads share no parameter, so one backward pass of the sum gives each its own gradient
    weight_gradient, bias_gradient = torch.autograd.grad(losses_BR.mean(0).sum(), parameters)
    return weight_gradient, bias_gradient


def batch_size(samples: int) -> int:
    """Samples of a batch: 1024, or a tenth of a small bank."""
    return min(BATCH, samples // TENTH)


def train(bank: Labelled, *, factors: Sequence[float], seed: int) -> ProbeHeads:
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
        for batch, rows in enumerate(torch.split(order[: batches * size], size)):
            x_BD = features_MD[rows]
            batch_variance, batch_mean = torch.var_mean(x_BD, 0, correction=0)
            mean = MOMENTS_KEPT * mean + (1 - MOMENTS_KEPT) * batch_mean
            variance = MOMENTS_KEPT * variance + (1 - MOMENTS_KEPT) * batch_variance
            x_BD = (x_BD - batch_mean) / (batch_variance + EPS).sqrt()
            weight_gradient, bias_gradient = gradients(x_BD, bank.labels[rows], weight, bias)
            weight_speed = MOMENTUM * weight_speed + trust_ratio(weight.detach(), weight_gradient) * weight_gradient
            bias_speed = MOMENTUM * bias_speed + bias_gradient
            lr = rate(epoch + batch / batches) * peak
            weight = weight.detach() - lr[:, None, None] * weight_speed
            bias = bias.detach() - lr[:, None] * bias_speed
    return ProbeHeads(weight, bias, mean, variance)


def trust_ratio(weight_RCD: Tensor, gradient_RCD: Tensor) -> Tensor:
    """LARS's factor for each head's gradient, shape (R, 1, 1); 1 where a norm is 0."""
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
    hits: dict[float, int] = {}
    untried, next_factors = {-1: list(LOWER), 1: list(HIGHER)}, list(FACTORS)
    while next_factors:
        hits.update(zip(next_factors, train(rest, factors=next_factors, seed=seed).hits(tenth), strict=True))
        best = max(hits, key=lambda factor: (hits[factor], -factor))
        edge = 1 if best == max(hits) else -1 if best == min(hits) else 0
        beyond = untried.get(edge, [])
        next_factors, beyond[:2] = beyond[:2], []
    return best


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
        problem = f"the bank has {counted(len(bank.features), 'sample')}; the probe needs {LEAST}"
        raise DataError(Fault("linear", problem, "name a larger --bank"))
    size = batch_size(len(bank.features))
    products = size * bank.features.shape[1] * bank.classes * len(FACTORS)
    with progress(f"training the linear probe on {feature}"), fitting_threads(products):
        chosen = choose_factor(bank, seed=seed)
        factors = sorted({1.0, chosen})
        hits = train(bank, factors=factors, seed=seed).hits(query)
    unit = base_rate(size)
    return [
        Score("linear", feature, count, len(query.labels), {"lr": round(unit * factor, 6)}, main=factor == chosen)
        for factor, count in zip(factors, hits, strict=True)
    ]
