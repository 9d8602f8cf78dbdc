"""AMT in MAE, SimMIM, GMML and ConMIM in numpy float64, image by image; shares no code with the methods."""

from collections.abc import Sequence

import numpy as np

from gmml_cluster.data.random import philox
from tests.golden.simmim_oracle import Model, State, attention, erf, mlp, norm


def roles_of(seed: int, number: int, weights: np.ndarray, masked: int, thrown: int) -> np.ndarray:
    """Role of each item by the words of the attention's purpose: 0 visible, 1 masked, 2 thrown."""
    drawn = philox.words(seed, 35, np.array([number]), len(weights))[0]
    keys = [weight / -np.log(((int(word) >> 8) + 0.5) / 2**24) for word, weight in zip(drawn, weights, strict=True)]
    order = sorted(range(len(keys)), key=lambda item: (-keys[item], item))
    found = np.zeros(len(keys), np.uint8)
    found[order[:masked]], found[order[masked : masked + thrown]] = 1, 2
    return found


def sincos(width: int, grid: int) -> np.ndarray:
    """Fixed positions, the class token's row first: sines and cosines of the column, then of the row."""
    table = np.zeros((1 + grid**2, width))
    for place in range(grid**2):
        for half, coordinate in enumerate((place % grid, place // grid)):
            for k in range(width // 4):
                angle = coordinate / 10000 ** (k / (width // 4))
                table[1 + place, half * width // 2 + k] = np.sin(angle)
                table[1 + place, half * width // 2 + width // 4 + k] = np.cos(angle)
    return table


def blocks(
    x: np.ndarray, state: State, prefix: str, model: Model, drop: np.ndarray, places: Sequence[int]
) -> list[np.ndarray]:
    """What comes out of each block; `places` says where a token stands among all, 0 for the class token."""
    outs = []
    for layer in range(model["depth"]):
        name = f"{prefix}.{layer}"
        scales = [state.get(f"{name}.gamma_{k}", 1.0) for k in (1, 2)]
        seen = attention(norm(x, state, f"{name}.norm1"), state, f"{name}.attn", model, places)
        x = x + drop[layer, 0] * scales[0] * seen
        x = x + drop[layer, 1] * scales[1] * mlp(norm(x, state, f"{name}.norm2"), state, f"{name}.mlp")
        outs.append(x)
    return outs


def patch(image: np.ndarray, place: int, p: int) -> np.ndarray:
    row, column = divmod(place, image.shape[1] // p)
    return image[:, row * p : (row + 1) * p, column * p : (column + 1) * p]


def encode(
    image: np.ndarray, state: State, model: Model, held: Sequence[int], masked: Sequence[int], drop: np.ndarray
) -> list[np.ndarray]:
    """Outputs of the encoder's blocks for the class token and the patches held, some of which are the mask token."""
    p, width = model["patch_size"], model["width"]
    table = sincos(width, image.shape[1] // p) if model.get("sincos") else state.get("encoder.pos_embed", [None])[0]
    weight, shift = state["encoder.patch_embed.proj.weight"], state["encoder.patch_embed.proj.bias"]
    sequence = [state["encoder.cls_token"][0, 0]]
    for place in held:
        seen = (weight * patch(image, place, p)).sum((1, 2, 3)) + shift
        sequence.append(state["mask_token"][0, 0] if place in masked else seen)
    places = [0, *(1 + place for place in held)]
    x = np.stack(sequence) + (0 if table is None else table[places])
    return blocks(x, state, "encoder.blocks", model, drop, places)


def mae_errors(
    image: np.ndarray, state: State, model: Model, decoder: Model, role: np.ndarray, *, standardise: bool
) -> list[float]:
    """Mean square of each masked patch."""
    p, grid = model["patch_size"], image.shape[1] // model["patch_size"]
    visible, held = np.flatnonzero(role == 0), np.flatnonzero(role != 2)
    ones = np.ones((model["depth"], 2))
    tokens = norm(encode(image, state, {**model, "sincos": True}, visible, [], ones)[-1], state, "encoder.norm")
    small = tokens @ state["decoder.embed.weight"].T + state["decoder.embed.bias"]
    at = {place: small[1 + index] for index, place in enumerate(visible)}
    x = np.stack([small[0], *(at.get(place, state["decoder.mask_token"][0, 0]) for place in held)])
    places = [0, *(1 + place for place in held)]
    x = x + sincos(decoder["width"], grid)[places]
    out = blocks(x, state, "decoder.blocks", decoder, np.ones((decoder["depth"], 2)), places)[-1]
    made = norm(out, state, "decoder.norm") @ state["decoder.pred.weight"].T + state["decoder.pred.bias"]
    errors = []
    for index, place in enumerate(held):
        target = patch(image, place, p).transpose(1, 2, 0).ravel()
        if standardise:
            target = (target - target.mean()) / np.sqrt(target.var(ddof=1) + 1e-6)
        if role[place] == 1:
            errors.append(((made[1 + index] - target) ** 2).mean())
    return errors


def simmim_errors(
    image: np.ndarray, state: State, model: Model, role: np.ndarray, drop: np.ndarray
) -> list[np.ndarray]:
    """Absolute differences of the pixels of each masked patch."""
    held, masked = np.flatnonzero(role != 2), np.flatnonzero(role == 1)
    tokens = norm(encode(image, state, model, held, masked, drop)[-1], state, "encoder.norm")
    made = tokens @ state["head.weight"].T + state["head.bias"]
    return [
        np.abs(made[1 + index] - patch(image, place, model["patch_size"]).ravel())
        for index, place in enumerate(held)
        if place in masked
    ]


def gmml_errors(
    shown: np.ndarray, image: np.ndarray, state: State, model: Model, role: np.ndarray, drop: np.ndarray
) -> list[np.ndarray]:
    """Absolute differences of the pixels of each masked patch; the head reads the mean of the tapped blocks."""
    held = np.flatnonzero(role != 2)
    outs = encode(shown, state, model, held, [], drop)
    x = norm(np.mean([outs[tap - 1] for tap in model["taps"]], 0), state, "encoder.norm")
    for layer in (0, 2, 4):
        x = x @ state[f"head.mlp.{layer}.weight"].T + state[f"head.mlp.{layer}.bias"]
        x = 0.5 * x * (1 + erf(x / np.sqrt(2)))
    return [
        np.abs(
            np.tensordot(x[1 + index], state["head.convTrans.weight"], 1)
            + state["head.convTrans.bias"][:, None, None]
            - patch(image, place, model["patch_size"])
        )
        for index, place in enumerate(held)
        if role[place] == 1
    ]


def standardised(rows: np.ndarray) -> np.ndarray:
    return (rows - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-5)


def projected(tokens: list[np.ndarray], state: State) -> list[np.ndarray]:
    """Vectors of the patches of each image of a group, whose tokens are the rows of the batch norms."""
    rows = np.concatenate(tokens)
    for layer in (0, 3):
        rows = standardised(rows @ state[f"projector.{layer}.weight"].T)
        rows = np.maximum(rows * state[f"projector.{layer + 1}.weight"] + state[f"projector.{layer + 1}.bias"], 0)
    rows = standardised(rows @ state["projector.6.weight"].T)
    return [part[1:] for part in np.split(rows, np.cumsum([len(part) for part in tokens])[:-1])]


def conmim_loss(images: np.ndarray, state: State, model: Model, role: np.ndarray, temperature: float) -> float:
    """Loss of one group: images (G, 2, 3, S, S), roles (G, N)."""
    teacher = {name.removeprefix("teacher."): value for name, value in state.items() if name.startswith("teacher.")}
    ones, seen = np.ones((model["depth"], 2)), []
    for view, weights in enumerate((state, teacher)):
        tokens = []
        for pair, own in zip(images, role, strict=True):
            held = np.flatnonzero(own != 2)
            masked = np.flatnonzero(own == 1) if view == 0 else []
            out = encode(pair[view], weights, model, held, masked, ones)[-1]
            tokens.append(norm(out, weights, "encoder.norm"))
        vectors = projected(tokens, weights)
        seen.append([part / np.linalg.norm(part, axis=1, keepdims=True) for part in vectors])
    losses = []
    for query, key, own in zip(*seen, role, strict=True):
        logits = query @ key.T / temperature
        wanted = np.flatnonzero(own[own != 2] == 1)
        losses += [np.log(np.exp(logits[t]).sum()) - logits[t, t] for t in wanted]
    return float(np.mean(losses))
