"""Random configurations of the methods that mask, each with the loss that an oracle in numpy has for its groups."""

from typing import Any

import numpy as np

from tests.drills.verify_cases import (
    MASKED,
    THROWN,
    Case,
    Rng,
    State,
    between,
    by_group,
    drop_of,
    even_mask,
    flag,
    grid_of,
    in_groups,
    model_of,
    pixels_of,
    roles_of,
    spec_of,
)
from tests.golden import amt_oracle, capi_oracle, conmim_oracle, ijepa_oracle, simmim_oracle

ITSELF, NOISE, ZEROS = -1, -2, -3


def random_source(rng: Rng, count: int, views: int, size: int, group: int) -> np.ndarray:
    """What each pixel shows; some pixel of each view is hidden and some is not."""
    source = rng.choice([ITSELF, ITSELF, NOISE, ZEROS, *range(group)], (count, views, size, size))
    source[..., 0, 0], source[..., -1, -1] = NOISE, ITSELF
    return source.astype(np.int16)


def shown(pixels: np.ndarray, noise: np.ndarray, source: np.ndarray, group: int) -> np.ndarray:
    """The corrupted views, pixel by pixel."""
    found = pixels.copy()
    for i, v, y, x in np.ndindex(source.shape):
        code = source[i, v, y, x]
        if code >= 0:
            found[i, v, :, y, x] = pixels[i // group * group + code, v, :, y, x]
        elif code != ITSELF:
            found[i, v, :, y, x] = noise[i, v, :, y, x] if code == NOISE else 0
    return found


def gmml(rng: Rng, *, thrown: bool = False) -> Case:
    model, views = model_of(rng, drops=True), between(rng, 1, 2)
    model["patch_size"], model["image_size"] = 2 + model["patch_size"], 0
    model["image_size"] = model["patch_size"] * between(rng, 2, 3)
    taps = sorted({*rng.choice(np.arange(1, model["depth"] + 1), 2).tolist(), model["depth"]})
    method = {"name": "gmml", "views": views, "taps": taps, "max_side": 1.0, "masked_only": flag(rng)}
    spec, count = spec_of(rng, model, {**method, **({"amt": True} if thrown else {})}, least=2)
    group, size, grid = spec["data"]["group"], model["image_size"], grid_of(model)
    pixels, noise = (pixels_of(rng, count, views, model) for _ in range(2))
    source, role = random_source(rng, count, views, size, group), np.zeros((count, views, grid**2), np.uint8)
    if thrown:
        role = roles_of(rng, count, views, grid**2)
        hidden = (role == MASKED).reshape(count, views, grid, grid).repeat(size // grid, 2).repeat(size // grid, 3)
        source = np.where(hidden, np.where(source == ITSELF, NOISE, source), ITSELF).astype(np.int16)
    drop, seen = drop_of(rng, count, views, model["depth"]), shown(pixels, noise, source, group)

    def losses(state: State) -> list[float]:
        found = []
        for members in in_groups(count, group):
            total, number = 0.0, 0
            for i in members:
                for v in range(views):
                    made = gmml_prediction(seen[i, v], state, {**model, "taps": taps}, role[i, v], drop[i, v])
                    error = np.abs(made - pixels[i, v]).mean(0)
                    held = (role[i, v] != THROWN).reshape(grid, grid).repeat(size // grid, 0).repeat(size // grid, 1)
                    counted = source[i, v] != ITSELF if method["masked_only"] else held
                    total, number = total + error[counted].sum(), number + counted.sum()
            found.append(float(total / number))
        return found

    draws = {"source": source, "noise": noise, "drop": drop, **({"role": role} if thrown else {})}
    return Case(spec, pixels, draws, losses)


def gmml_tokens(image: np.ndarray, state: State, model: dict[str, Any], role: np.ndarray, drop: Any) -> np.ndarray:
    held = np.flatnonzero(role != THROWN)
    outs = amt_oracle.encode(image, state, model, held, [], drop)
    return simmim_oracle.norm(np.mean([outs[tap - 1] for tap in model["taps"]], 0), state, "encoder.norm")


def gmml_prediction(image: np.ndarray, state: State, model: dict[str, Any], role: np.ndarray, drop: Any) -> np.ndarray:
    """The predicted view; nothing where a patch was thrown away."""
    p, grid = model["patch_size"], grid_of(model)
    x, made = gmml_tokens(image, state, model, role, drop), np.full_like(image, np.nan)
    for layer in (0, 2, 4):
        x = x @ state[f"head.mlp.{layer}.weight"].T + state[f"head.mlp.{layer}.bias"]
        x = 0.5 * x * (1 + amt_oracle.erf(x / np.sqrt(2)))
    for index, place in enumerate(np.flatnonzero(role != THROWN)):
        row, column = divmod(int(place), grid)
        pixels = (
            np.tensordot(x[1 + index], state["head.convTrans.weight"], 1) + state["head.convTrans.bias"][:, None, None]
        )
        made[:, row * p : (row + 1) * p, column * p : (column + 1) * p] = pixels
    return made


def mae(rng: Rng, *, thrown: bool = False) -> Case:
    model, heads = model_of(rng), between(rng, 1, 2)
    small = {"width": 4 * heads * between(rng, 1, 2), "heads": heads, "depth": between(rng, 1, 2)}
    options = {f"decoder_{name}": value for name, value in small.items()} | {"standardise": flag(rng)}
    spec, count = spec_of(rng, model, {"name": "mae", **options, **({"amt": True} if thrown else {})})
    patches, pixels = grid_of(model) ** 2, pixels_of(rng, count, 1, model)
    role = roles_of(rng, count, patches) if thrown else even_mask(rng, count, patches).astype(np.uint8)
    decoder = {**small, "image_size": model["image_size"], "patch_size": model["patch_size"]}

    def losses(state: State) -> list[float]:
        def errors(i: int) -> list[float]:
            how = {"standardise": options["standardise"]}
            return amt_oracle.mae_errors(pixels[i, 0], state, model, decoder, role[i], **how)

        return by_group([float(np.mean(errors(i))) for i in range(count)], spec["data"]["group"])

    return Case(spec, pixels, {"role": role} if thrown else {"mask": role == MASKED}, losses)


def celled(model: dict[str, Any]) -> int:
    """A side of cells that divides the grid, and leaves four of them at least."""
    return 2 if grid_of(model) == 4 else 1


def simmim(rng: Rng, *, thrown: bool = False) -> Case:
    model = model_of(rng, drops=True)
    options = {"plain": flag(rng), "cell": celled(model), "final_norm": thrown or flag(rng)}
    spec, count = spec_of(rng, model, {"name": "simmim", **options, **({"amt": True} if thrown else {})})
    group, patches, pixels = spec["data"]["group"], grid_of(model) ** 2, pixels_of(rng, count, 1, model)
    role = roles_of(rng, count, patches) if thrown else even_mask(rng, count, patches).astype(np.uint8)
    drop, p = drop_of(rng, count, 1, model["depth"]), model["patch_size"]

    def losses(state: State) -> list[float]:
        found = []
        for members in in_groups(count, group):
            if thrown:
                values = [amt_oracle.simmim_errors(pixels[i, 0], state, model, role[i], drop[i, 0]) for i in members]
                flat = np.concatenate([np.ravel(each) for each in values])
                found.append(float(flat.sum() / 3 / (flat.size / 3 + 1e-5)))
                continue
            mask, how = role == MASKED, {"final_norm": options["final_norm"]}
            made = [
                simmim_oracle.reconstruction(pixels[i, 0], state, model, mask[i], drop[i, 0], **how) for i in members
            ]
            own = list(members)
            found.append(simmim_oracle.group_loss(np.stack(made), pixels[own, 0], mask[own], p))
        return found

    draws = {"drop": drop, **({"role": role} if thrown else {"mask": role == MASKED})}
    return Case(spec, pixels, draws, losses)


def conmim(rng: Rng, *, thrown: bool = False) -> Case:
    model = model_of(rng)
    options = {"projector": rng.integers(5, 12, 3).tolist(), "temperature": float(rng.uniform(0.1, 1))}
    options |= {"cell": celled(model), **({"amt": True} if thrown else {})}
    spec, count = spec_of(rng, model, {"name": "conmim", **options}, least=2)
    group, patches, pixels = spec["data"]["group"], grid_of(model) ** 2, pixels_of(rng, count, 2, model)
    role, mask = roles_of(rng, count, patches), rng.random((count, patches)) < rng.uniform(0.2, 0.9)
    mask[:, 0] |= ~mask.any(1)
    tau = options["temperature"]

    def losses(state: State) -> list[float]:
        if thrown:
            parts = [slice(members[0], members[-1] + 1) for members in in_groups(count, group)]
            return [amt_oracle.conmim_loss(pixels[part], state, model, role[part], tau) for part in parts]
        found = conmim_oracle.group_results(pixels, mask, state, model, group=group, temperature=tau)
        return [one.loss for one in found]

    return Case(spec, pixels, {"role": role} if thrown else {"mask": mask}, losses)


def capi(rng: Rng) -> Case:
    model = model_of(rng, drops=True, head=int(rng.choice([8, 12])))
    options = {
        "clusters": between(rng, 2, 9),
        "registers": 4 * between(rng, 1, 2),
        "predictor_depth": between(rng, 1, 2),
    }
    options["rope"] = str(rng.choice(["coupled", "halves"]))
    spec, count = spec_of(rng, model, {"name": "capi", **options}, least=2)
    patches, pixels = grid_of(model) ** 2, pixels_of(rng, count, 1, model)
    masked = between(rng, 1, patches - 1)
    order = np.argsort(np.argsort(rng.random((count, patches)), 1), 1)
    draws = {"mask": order < masked, "predict": order < between(rng, 1, masked)}
    draws["drop"] = drop_of(rng, count, 1, model["depth"] + options["predictor_depth"])
    shape = {name: model[name] for name in ("heads", "depth")} | {"patch": model["patch_size"], "grid": grid_of(model)}
    own = {name: options[name] for name in ("registers", "predictor_depth")} | {"halves": options["rope"] == "halves"}

    def losses(state: State) -> list[float]:
        settings = {**shape, **own, "group": spec["data"]["group"]}
        clustering, prediction = capi_oracle.group_losses(pixels[:, 0], state, draws, settings)
        return [float(one + other) for one, other in zip(clustering, prediction, strict=True)]

    return Case(spec, pixels, draws, losses, in_targets=("clusters.",), tolerance=1e-6)  # of a 1e-8 in other places


def ijepa(rng: Rng) -> Case:
    model, heads = model_of(rng), between(rng, 1, 2)
    options: dict[str, Any] = {
        "predictor_width": 4 * heads * between(rng, 1, 2),
        "predictor_heads": heads,
        "predictor_depth": between(rng, 1, 2),
        "targets": between(rng, 1, 4),
        "loss": str(rng.choice(["smooth_l1", "l2"])),
        "norm_target": flag(rng),
        "border": "full",
    }
    if flag(rng):
        options |= {"masks": "padded", "min_keep": 0, "cut": str(rng.choice(["none", "group"]))}
        options["target_scale"] = [0.3, 0.4]
    spec, count = spec_of(rng, model, {"name": "ijepa", **options})
    grid, pixels = grid_of(model), pixels_of(rng, count, 1, model)
    start = rng.integers(0, grid, (count, options["targets"], 2))
    target = np.concatenate([start, 1 + rng.integers(0, 100, start.shape) % (grid - start)], 2)
    context = rng.random((count, grid**2)) < rng.uniform(0.2, 1)
    context[:, 0] |= ~context.any(1)
    draws = {"target": target, "context": context}
    return Case(spec, pixels, draws, lambda state: ijepa_oracle.losses(spec, state, pixels, draws))
