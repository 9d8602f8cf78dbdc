"""Where patches lie relative to each other and in the image: heads and losses.

Source: arXiv 2206.00481 and what its released code computes; constants: docs/reference/methods.md. Nothing couples
images. Pairs are scored by a matrix product of queries and keys: two patches' tokens are never put side by side.

Dims: B views, D width, N patches of an image, K patches that the encoder holds, T tokens, c classes, e width of a
class, g groups.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from gmml_cluster.methods.precision import no_autocast, unrounded
from gmml_cluster.methods.relation_targets import floor, targets
from gmml_cluster.spec.methods.relations import CLASSES, RelationTasks, class_width

CLASSIFIED = ("relations", "positions")
"""Tasks whose targets are classes; the others' are numbers."""


class PairHead(nn.Module):
    """A score of each ordered pair for each class: scaled product of one patch's query and the other's key."""

    def __init__(self, width: int, classes: int, class_width: int) -> None:
        super().__init__()
        self.classes = classes
        self.query = nn.Linear(width, classes * class_width, bias=False)
        self.key = nn.Linear(width, classes * class_width, bias=False)

    def forward(self, tokens_BKD: Tensor) -> Tensor:
        """Scores (B, c, K, K) in full precision; rows are the queries' patches."""
        B, K, _ = tokens_BKD.shape
        q_BcKe, k_BcKe = (
            unrounded(layer(tokens_BKD)).view(B, K, self.classes, -1).transpose(1, 2)
            for layer in (self.query, self.key)
        )
        with no_autocast(tokens_BKD.device):
            scores_BcKK: Tensor = (q_BcKe * q_BcKe.shape[3] ** -0.5) @ k_BcKe.mT
        return scores_BcKK


class RelationHeads(nn.Module):
    """One layer for each task that is on; the released code's value matrices, which nothing reads, are left out."""

    def __init__(self, options: RelationTasks, *, width: int, patches: int) -> None:
        super().__init__()
        self.tasks, self.add_class_token = options.tasks, options.add_class_token
        for task in self.tasks:
            if task == "positions":
                self.positions = nn.Linear(width, patches)
            else:
                classes = (CLASSES, class_width(options, width)) if task == "relations" else (1, width)
                self.add_module(task, PairHead(width, *classes))

    def predict(self, tokens_BTD: Tensor, *, prefix_tokens: int = 1) -> tuple[Tensor, ...]:
        """Predictions of each task that is on, in the order of `RelationTasks.tasks`.

        Args:
            tokens_BTD: normed.
            prefix_tokens: those before the patches' tokens.

        Returns:
            relations: logits (B, 9, K, K); positions: logits (B, K, N); distances, angles: (B, K, K).
        """
        # one copy: each linear layer would keep its own of a slice
        tokens_BKD = tokens_BTD[:, prefix_tokens:].contiguous()
        if self.add_class_token:
            tokens_BKD = tokens_BKD + tokens_BTD[:, :1]
        return tuple(self._predict(task, tokens_BKD) for task in self.tasks)

    def _predict(self, task: str, tokens_BKD: Tensor) -> Tensor:
        if task == "positions":
            with no_autocast(tokens_BKD.device):
                return self.positions(unrounded(tokens_BKD))  # type: ignore[no-any-return]
        scores_BcKK = self.get_submodule(task)(tokens_BKD)
        return scores_BcKK if task in CLASSIFIED else scores_BcKK[:, 0]  # type: ignore[no-any-return]


def relation_losses(
    predictions: dict[str, Tensor], places_BK: Tensor | None, *, grid: int, views: int
) -> tuple[Tensor, dict[str, Tensor]]:
    """The sum of the tasks' losses for each group, and metrics.

    Args:
        predictions: of `RelationHeads`, by task.
        places_BK: where in its image the patch of each token lies; None: token i holds patch i.
        grid: side of the patch grid.
        views: of a group.

    Returns:
        Losses (g,), and by name (g, 2): the loss of each task, the accuracy where it has classes, and as `floor` what a
        prediction that never changes reaches at best.
    """
    if places_BK is None:
        some = next(iter(predictions.values()))
        places_BK = torch.arange(grid**2, device=some.device).expand(len(some), -1)
    means: list[Tensor] = []
    scalars: dict[str, Tensor] = {}
    for task, prediction in predictions.items():
        target = targets(task, grid, places_BK)
        if task in CLASSIFIED:
            error, hit = _classified(prediction if task == "relations" else prediction.mT, target)
            scalars[f"accuracy_{task}"] = _sums(hit, views)
        else:
            error = (prediction - target.to(prediction.dtype)).square()
        loss = _sums(error, views)
        scalars[f"loss_{task}"] = loss
        scalars[f"floor_{task}"] = torch.stack([floor(task, grid) * loss[:, 1], loss[:, 1]], 1)
        means.append(loss[:, 0] / loss[:, 1])
    return torch.stack(means).sum(0), scalars


def _classified(logits_Bc: Tensor, target_B: Tensor) -> tuple[Tensor, Tensor]:
    """Cross-entropy over dimension 1, and 1 where the greatest logit is the target's."""
    error = F.cross_entropy(logits_Bc, target_B, reduction="none")
    return error, (logits_Bc.detach().argmax(1) == target_B).to(error.dtype)


def _sums(values: Tensor, views: int) -> Tensor:
    """Sum and count of each group (g, 2)."""
    grouped = values.reshape(len(values) // views, -1)
    return torch.stack([grouped.sum(1), torch.full_like(grouped[:, 0], grouped.shape[1])], 1)
