"""Random configurations of the methods that learn from classes or masks, on every kind of encoder."""

from collections.abc import Sequence
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
    in_groups,
    model_of,
    pixels_of,
    spec_of,
)
from tests.drills.verify_relations import beside
from tests.golden import amt_oracle, capi_oracle, simmim_oracle

IGNORED = 255


class Encoder:
    """An encoder of a random kind, and its oracle.

    Attributes:
        model: of the specification.
        options: what `method.encoder` says of it.
        prefix: tokens before those of the patches.
    """

    def __init__(self, rng: Rng, *, drops: bool = False) -> None:
        self.registers, self.halves = 4 * between(rng, 1, 2), flag(rng)
        self.rotary = bool(rng.random() < 0.25)
        self.model = model_of(rng, drops=drops, head=int(rng.choice([8, 12])) if self.rotary else None)
        positions = str(rng.choice(["learned", "relative", "none"]))
        class_token = positions == "relative" or flag(rng)
        switches = {"positions": positions, "class_token": class_token, "key_bias": flag(rng), "layer_scale": flag(rng)}
        rotary = {"rotary": {"registers": self.registers, "rope": "halves" if self.halves else "coupled"}}
        self.options: dict[str, Any] = rotary if self.rotary else switches
        self.prefix = self.registers if self.rotary else int(class_token)
        self.has_class_token = class_token and not self.rotary

    def stream(self, image: np.ndarray, state: State, drop: np.ndarray) -> np.ndarray:
        """Tokens behind as many blocks as `drop` has, before the final norm."""
        model = {**self.model, "depth": len(drop)}
        if self.rotary:
            shape = {"patch": model["patch_size"], "prefix": "", "halves": self.halves}
            return capi_oracle.stream(image, state, np.arange(grid_of(model) ** 2), drop, {**model, **shape})[0]
        kernel, shift = state["encoder.patch_embed.proj.weight"], state["encoder.patch_embed.proj.bias"]
        tiles = [amt_oracle.patch(image, place, model["patch_size"]) for place in range(grid_of(model) ** 2)]
        x = np.stack([(kernel * tile).sum((1, 2, 3)) + shift for tile in tiles])
        x = np.concatenate([state["encoder.cls_token"][0], x]) if self.has_class_token else x
        x = x + state["encoder.pos_embed"][0] if "encoder.pos_embed" in state else x
        places = range(1 - self.prefix, 1 + len(tiles))
        return amt_oracle.blocks(x, state, "encoder.blocks", model, drop, places)[-1]

    def norm(self, x: np.ndarray, state: State) -> np.ndarray:
        return capi_oracle.rms_norm(x) if self.rotary else simmim_oracle.norm(x, state, "encoder.norm")

    def normed(self, image: np.ndarray, state: State, drop: np.ndarray | None = None) -> np.ndarray:
        drop = np.ones((self.model["depth"], 2)) if drop is None else drop
        return self.norm(self.stream(image, state, drop), state)


def log_softmax(logits: np.ndarray) -> np.ndarray:
    shifted = logits - logits.max(-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(-1, keepdims=True)))


def mixed(x: np.ndarray, other: np.ndarray, share: float, box: np.ndarray) -> np.ndarray:
    if not box.any():
        return share * x + (1 - share) * other
    found = x.copy()
    found[:, box[0] : box[2], box[1] : box[3]] = other[:, box[0] : box[2], box[1] : box[3]]
    return found


def boxes_of(rng: Rng, groups: int, size: int) -> np.ndarray:
    """Of each group the edges of a box, or zeros."""
    edges = np.sort(rng.integers(0, size + 1, (groups, 2, 2)), 2).transpose(0, 2, 1).reshape(groups, 4)
    return edges * rng.integers(0, 2, (groups, 1))


def supervised(rng: Rng, name: str = "supervised", *, relations: bool = False) -> Case:
    encoder = Encoder(rng, drops=True)
    while relations and not encoder.has_class_token:
        encoder = Encoder(rng, drops=True)
    model, classes, mixes = encoder.model, between(rng, 2, 6), flag(rng)
    options = {"classes": classes, "smoothing": float(rng.choice([0, 0.1, 0.3])), "encoder": encoder.options}
    options |= {"mixup": 0.8 * mixes, "cutmix": 1.0 * mixes, "ema": 0.9 if flag(rng) else None}
    options["pool"] = str(rng.choice(["class", "mean"])) if encoder.has_class_token else "mean"
    spec, count = spec_of(rng, model, {"name": name, **options}, least=2)
    group = spec["data"]["group"] = 2 * -(-spec["data"]["group"] // 2)
    count = group * between(rng, 1, 2)
    pixels, label = pixels_of(rng, count, 1, model), rng.integers(0, classes, count)
    share, box = rng.random(count // group), boxes_of(rng, count // group, model["image_size"])
    drop = drop_of(rng, count, 1, model["depth"])

    def seen(i: int) -> np.ndarray:
        at, other = i // group, i // group * group + group - 1 - i % group
        return mixed(pixels[i, 0], pixels[other, 0], share[at], box[at]) if mixes else pixels[i, 0]

    def one(i: int, state: State) -> float:
        x, other = encoder.stream(seen(i), state, drop[i, 0]), i // group * group + group - 1 - i % group
        feature = encoder.norm(x[0] if options["pool"] == "class" else x[encoder.prefix :].mean(0), state)
        smooth, own = options["smoothing"], share[i // group] if mixes else 1.0
        target = np.full(classes, smooth / classes)
        target[label[i]] += own * (1 - smooth)
        target[label[other]] += (1 - own) * (1 - smooth)
        logits = state["classifier.weight"] @ feature + state["classifier.bias"]
        return float(-target @ log_softmax(logits))

    def losses(state: State) -> list[float]:
        return by_group([one(i, state) for i in range(count)], group)

    draws = {"label": label, "drop": drop, **({"lambda": share, "box": box} if mixes else {})}
    case = Case(spec, pixels, draws, losses)
    if not relations:
        return case

    def tokens(state: State, i: int, v: int) -> tuple[np.ndarray, Any]:
        return encoder.normed(seen(i), state, drop[i, v]), np.arange(grid_of(model) ** 2)

    return beside(rng, case, tokens, 1)


def standardised(x: np.ndarray) -> np.ndarray:
    return np.asarray((x - x.mean(0)) / np.sqrt(x.var(0) + 1e-6))


def linear(rng: Rng) -> Case:
    encoder, classes = Encoder(rng), between(rng, 2, 6)
    rates = [1.0, 3.0, 10.0][: between(rng, 1, 3)]
    feature = str(rng.choice(["class", "mean"])) if encoder.has_class_token else "mean"
    method = {"name": "linear", "classes": classes, "encoder": encoder.options, "rates": rates, "feature": feature}
    spec, count = spec_of(rng, encoder.model, method, least=2)
    pixels, label = pixels_of(rng, count, 1, encoder.model), rng.integers(0, classes, count)
    heads = [f"classifier.{number}" for number in range(len(rates))] if len(rates) > 1 else ["classifier"]

    def losses(state: State) -> list[float]:
        found = []
        for members in in_groups(count, spec["data"]["group"]):
            tokens = [encoder.normed(pixels[i, 0], state) for i in members]
            x = standardised(np.stack([t[0] if feature == "class" else t[encoder.prefix :].mean(0) for t in tokens]))
            logits = [log_softmax(x @ state[f"{head}.weight"].T + state[f"{head}.bias"]) for head in heads]
            found.append(sum(-np.mean([of[k, label[i]] for k, i in enumerate(members)]) for of in logits))
        return [float(loss) for loss in found]

    return Case(spec, pixels, {"label": label}, losses)


def attentive(rng: Rng) -> Case:
    encoder, classes = Encoder(rng), between(rng, 2, 6)
    width = encoder.model["width"]
    queries = int(rng.choice([number for number in range(1, width + 1) if width % number == 0]))
    method = {"name": "attentive", "classes": classes, "encoder": encoder.options, "queries": queries}
    spec, count = spec_of(rng, encoder.model, method, least=2)
    pixels, label = pixels_of(rng, count, 1, encoder.model), rng.integers(0, classes, count)

    def pooled(i: int, state: State) -> np.ndarray:
        patches, parts = encoder.normed(pixels[i, 0], state)[encoder.prefix :], []
        for query, own in zip(state["queries"], np.split(state["value.weight"], queries), strict=True):
            shares = np.exp(log_softmax(patches @ query / np.sqrt(width)))
            parts.append(own @ (shares @ patches))
        return np.concatenate(parts)

    def losses(state: State) -> list[float]:
        found = []
        for members in in_groups(count, spec["data"]["group"]):
            x = standardised(np.stack([pooled(i, state) for i in members]))
            logits = log_softmax(x @ state["classifier.weight"].T + state["classifier.bias"])
            found.append(float(-np.mean([logits[k, label[i]] for k, i in enumerate(members)])))
        return found

    return Case(spec, pixels, {"label": label}, losses)


def upsampled(maps: np.ndarray, size: int) -> np.ndarray:
    """Linear interpolation along both axes (K, S, S); the outermost values reach to the edge."""
    grid = maps.shape[-1]
    centres, at = (np.arange(grid) + 0.5) * size / grid, np.arange(size) + 0.5
    for axis in (1, 2):
        maps = np.apply_along_axis(lambda line: np.interp(at, centres, line), axis, maps)
    return maps


def segmentation(rng: Rng) -> Case:
    frozen, classes = flag(rng), between(rng, 2, 5)
    encoder = Encoder(rng, drops=not frozen)
    model, size = encoder.model, encoder.model["image_size"]
    depth = model["depth"]
    blocks = sorted({between(rng, 1, depth), depth}) if flag(rng) else None
    method = {
        "name": "segmentation",
        "classes": classes,
        "frozen": frozen,
        "blocks": blocks,
        "encoder": encoder.options,
    }
    spec, count = spec_of(rng, model, method)
    pixels = pixels_of(rng, count, 1, model)
    mask = rng.choice([*range(classes), IGNORED], (count, size, size)).astype(np.uint8)
    mask[:, 0, 0] = 0
    drop = np.ones((count, 1, depth, 2)) if frozen else drop_of(rng, count, 1, depth)

    def read(i: int, state: State, of: Sequence[int]) -> np.ndarray:
        behind = [encoder.normed(pixels[i, 0], state, drop[i, 0, :block])[encoder.prefix :] for block in of]
        return np.concatenate(behind, 1)

    def losses(state: State) -> list[float]:
        found = []
        for members in in_groups(count, spec["data"]["group"]):
            x = np.stack([read(i, state, blocks or [depth]) for i in members])
            x = standardised(x.reshape(-1, x.shape[2])).reshape(x.shape) if frozen else x
            total: list[float] = []
            for tokens, i in zip(x, members, strict=True):
                logits = tokens @ state["classifier.weight"].T + state["classifier.bias"]
                maps = upsampled(logits.T.reshape(classes, grid_of(model), -1), size)
                each = log_softmax(maps.transpose(1, 2, 0))
                total += [-each[y, x, k] for (y, x), k in np.ndenumerate(mask[i]) if k != IGNORED]
            found.append(float(np.mean(total)))
        return found

    return Case(spec, pixels, {"mask": mask, **({} if frozen else {"drop": drop})}, losses)
