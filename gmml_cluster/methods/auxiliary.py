"""Relations of patches beside a method's own loss: `auxiliary` of a job.

The heads read the normed tokens of the patches that the method's encoder holds, whatever the method hides or throws
away, and targets are by true places. The method itself knows nothing of it.

Dims: B views, T tokens, K patches held.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gmml_cluster.errors import Fault, SpecError
from gmml_cluster.methods.protocol import Draws, Forward, InitDistribution, Losses, Method, Setting
from gmml_cluster.methods.relations import RelationHeads, relation_losses
from gmml_cluster.spec.methods.relations import Auxiliary

HEADS = "auxiliary"
"""Name of the heads in the method's module."""


class _Predicted(NamedTuple):
    tasks: tuple[Tensor, ...]
    places: Tensor | None


def with_relations(method: Method, setting: Setting, options: Auxiliary) -> Method:
    """The method with heads for relations under `module.auxiliary` and their loss added to its own, in place.

    Raises:
        SpecError: the encoder has no class token to be added.
    """
    if options.add_class_token and getattr(method.module.get_submodule("encoder"), "cls_token", None) is None:
        problem = "true, but the encoder has no class token"
        raise SpecError(Fault("auxiliary.add_class_token", problem, "leave it out"))
    heads = RelationHeads(options, width=setting.model.width, patches=setting.patches)
    method.module.add_module(HEADS, heads)
    own_loss, own_distribution = method.loss, method.init_distribution

    def loss(forward: Forward, images: Tensor, draws: Draws) -> Losses:
        with _predicting(method.module.get_submodule("encoder"), heads) as found:
            losses = own_loss(forward, images, draws)
        (predicted,) = found
        groups = len(losses.groups)
        beside, scalars = relation_losses(
            dict(zip(options.tasks, predicted.tasks, strict=True)),
            predicted.places,
            grid=setting.image_size // setting.model.patch_size,
            views=len(predicted.tasks[0]) // groups,
        )
        return Losses(losses.groups + options.weight * beside, losses.scalars | scalars, losses.outputs)

    def init_distribution(name: str, shape: torch.Size) -> InitDistribution:
        if name.startswith(f"{HEADS}."):
            return InitDistribution("uniform", setting.model.width**-0.5)
        return own_distribution(name, shape)

    method.loss, method.init_distribution = loss, init_distribution  # type: ignore[method-assign]
    return method


@contextmanager
def _predicting(encoder: nn.Module, heads: RelationHeads) -> Iterator[list[_Predicted]]:
    """What the heads predict from each call of the encoder.

    They are called from a hook, so within the engine's forward: under its autocast, and where ZeRO-3 gathers weights.
    """
    found: list[_Predicted] = []

    def predict(encoder: Any, args: tuple[Any, ...], given: dict[str, Any], tokens_BTD: Tensor) -> None:
        normed_BTD = tokens_BTD if given.get("normed", True) else encoder.norm(tokens_BTD)
        predictions = heads.predict(normed_BTD, prefix_tokens=encoder.prefix_tokens)
        found.append(_Predicted(predictions, given.get("keep_BK")))

    handle = encoder.register_forward_hook(predict, with_kwargs=True)
    try:
        yield found
    finally:
        handle.remove()
