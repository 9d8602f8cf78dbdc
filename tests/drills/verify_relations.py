"""Random configurations of RelViT, and of relations beside another method's loss."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from tests.drills.verify_cases import (
    Case,
    Rng,
    State,
    between,
    by_group,
    drop_of,
    flag,
    grid_of,
    model_of,
    pixels_of,
    spec_of,
)
from tests.drills.verify_masked import gmml, gmml_tokens, mae, shown
from tests.golden import amt_oracle, relvit_oracle, simmim_oracle


def relation_options(rng: Rng, width: int) -> dict[str, Any]:
    tasks = {task: flag(rng) for task in ("relations", "positions", "distances", "angles")}
    tasks |= {"relations": True} if not any(tasks.values()) else {}
    options = {**tasks, "add_class_token": flag(rng)}
    return options | ({"relation_width": between(rng, 1, 4)} if flag(rng) or width < 9 else {})


def relvit(rng: Rng) -> Case:
    model = model_of(rng, drops=True)
    options = relation_options(rng, model["width"]) | {"position_embeddings": flag(rng), "permute": flag(rng)}
    spec, count = spec_of(rng, model, {"name": "relvit", **options})
    patches, pixels = grid_of(model) ** 2, pixels_of(rng, count, 1, model)
    order, drop = np.argsort(rng.random((count, patches)), 1), drop_of(rng, count, 1, model["depth"])

    def losses(state: State) -> list[float]:
        each = [
            relvit_oracle.image_loss(pixels[i, 0], state, model, options, drop[i, 0], order[i]) for i in range(count)
        ]
        return by_group([sum(one.values()) for one in each], spec["data"]["group"])

    return Case(spec, pixels, {"order": order, "drop": drop}, losses)


def beside(rng: Rng, case: Case, tokens: Callable[[State, int, int], tuple[np.ndarray, Any]], views: int) -> Case:
    """A case with relations as a second loss.

    Args:
        tokens: of weights, image and view: the normed tokens that the encoder holds, the class token first, and the
            places of the patches.
        views: of an image that the student's encoder sees.
    """
    model, group = case.spec["model"], case.spec["data"]["group"]
    options = relation_options(rng, model["width"]) | {"weight": float(rng.uniform(0.1, 2))}

    def losses(state: State) -> list[float]:
        heads = {name.removeprefix("auxiliary."): value for name, value in state.items()}
        added = []
        for i in range(len(case.pixels)):
            for v in range(views):
                x, places = tokens(state, i, v)
                found = relvit_oracle.task_losses(x[1:], x[0], heads, options, places, grid_of(model))
                added.append(options["weight"] * sum(found.values()))
        return [one + other for one, other in zip(case.losses(state), by_group(added, group * views), strict=True)]

    return replace(case, spec={**case.spec, "auxiliary": options}, losses=losses)


def mae_beside(rng: Rng) -> Case:
    case = mae(rng)
    model, ones = {**case.spec["model"], "sincos": True}, np.ones((case.spec["model"]["depth"], 2))

    def tokens(state: State, i: int, v: int) -> tuple[np.ndarray, Any]:
        kept = np.flatnonzero(~case.draws["mask"][i])
        out = amt_oracle.encode(case.pixels[i, v], state, model, kept, [], ones)[-1]
        return simmim_oracle.norm(out, state, "encoder.norm"), kept

    return beside(rng, case, tokens, 1)


def gmml_beside(rng: Rng) -> Case:
    case = gmml(rng)
    model, group = case.spec["model"] | {"taps": case.spec["method"]["taps"]}, case.spec["data"]["group"]
    seen, all_held = shown(case.pixels, case.draws["noise"], case.draws["source"], group), np.zeros(grid_of(model) ** 2)

    def tokens(state: State, i: int, v: int) -> tuple[np.ndarray, Any]:
        drop = case.draws["drop"][i, v]
        return gmml_tokens(seen[i, v], state, model, all_held, drop), np.arange(len(all_held))

    return beside(rng, case, tokens, case.spec["method"]["views"])


def masked_beside(rng: Rng, of: Callable[[Rng], Case]) -> Case:
    """SimMIM, and ConMIM with the tokens of its student."""
    case = of(rng)
    model, mask = case.spec["model"], case.draws["mask"]
    drop = case.draws.get("drop", np.ones((len(mask), 1, model["depth"], 2)))

    def tokens(state: State, i: int, v: int) -> tuple[np.ndarray, Any]:
        return simmim_oracle.encoded(case.pixels[i, v], state, model, mask[i], drop[i, 0]), np.arange(mask.shape[1])

    return beside(rng, case, tokens, 1)
