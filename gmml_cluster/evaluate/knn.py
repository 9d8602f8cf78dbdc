"""k nearest neighbours on frozen features, weighted as in DINO (arXiv 2104.14294).

Legend: M bank samples, Q queries, D width of a feature, K neighbours, C classes.
"""

import torch
from torch import Tensor
from torch.nn import functional

from gmml_cluster.evaluate.features import Labelled
from gmml_cluster.evaluate.score import Score

NEIGHBOURS = (10, 20, 100, 200)
MAIN = 20
TEMPERATURE = 0.07


def class_scores(similarity_QK: Tensor, label_QK: Tensor, classes: int) -> Tensor:
    """Sum of exp(similarity / 0.07) over the neighbours of each class, float64, shape (Q, C)."""
    weight_QK = torch.exp(similarity_QK.double() / TEMPERATURE)
    scores_QC = torch.zeros(len(weight_QK), classes, dtype=torch.float64, device=weight_QK.device)
    return scores_QC.scatter_add_(1, label_QK, weight_QK)


def nearest(bank_MD: Tensor, query_QD: Tensor, k: int, *, chunk: int = 1024) -> tuple[Tensor, Tensor]:
    """The k bank samples most similar to each query, the nearest first.

    Args:
        bank_MD: features of the bank; any length of vector.
        query_QD: features of the queries.
        k: neighbours, at most M.
        chunk: queries compared at once; it bounds memory and changes nothing.

    Returns:
        Cosine similarities and indices into the bank, both (Q, k).
    """
    bank_DM = functional.normalize(bank_MD, dim=1).T
    found = [(functional.normalize(part, dim=1) @ bank_DM).topk(k, dim=1) for part in torch.split(query_QD, chunk)]
    return torch.cat([part.values for part in found]), torch.cat([part.indices for part in found])


def knn(bank: Labelled, query: Labelled, *, feature: str) -> list[Score]:
    """Top-1 accuracy at k = 10, 20, 100 and 200, as far as the bank reaches; k = 20 is the number to report.

    Args:
        bank: what votes.
        query: what is classified; a class that the bank lacks is never predicted.
        feature: name of the feature, for the scores.
    """
    widest = min(max(NEIGHBOURS), len(bank.features))
    similarity, indices = nearest(bank.features, query.features, widest)
    label = bank.labels[indices]
    scores = []
    for k in sorted({min(k, widest) for k in NEIGHBOURS}):
        predicted = class_scores(similarity[:, :k], label[:, :k], bank.classes).argmax(1)
        hits = int((predicted == query.labels).sum())
        scores.append(Score("knn", feature, hits, len(query.labels), settings={"k": k}, main=k == min(MAIN, widest)))
    return scores
