"""What a method computes on given weights, images and draws: one process, arrays in, arrays out (docs/methods.md).

Dims: B images of whole groups, G images of a group, V views, S side of an image, N patches.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gmml_cluster.errors import Fault, SpecError
from gmml_cluster.methods.build import blank
from gmml_cluster.methods.protocol import MAP, ROLE, Draws, Guided, Method, Setting, Verifiable
from gmml_cluster.spec.loading.validate import parse_job
from gmml_cluster.spec.methods.registry import advised_group

Arrays = Mapping[str, NDArray[Any]]
TYPES = {"float32": torch.float32, "float64": torch.float64, "bf16": torch.float32}


@dataclass(frozen=True)
class Verification:
    """The results; also by key, as in `result["losses"]`.

    Attributes:
        losses: (B / G,).
        scalars: name to (B / G, 2), sum and count.
        outputs: of the method, such as `prediction` and `mask`.
        gradients: of the mean of the losses by parameter; None for a parameter that the loss does not depend on.
    """

    losses: NDArray[Any]
    scalars: dict[str, NDArray[Any]]
    outputs: dict[str, NDArray[Any]]
    gradients: dict[str, NDArray[Any] | None]

    def __getitem__(self, name: str) -> Any:
        return getattr(self, name)


def verify(
    spec: Mapping[str, Any],
    state: Arrays,
    images: NDArray[Any],
    draws: Mapping[str, Any],
    *,
    dtype: Literal["float32", "float64", "bf16"] = "float32",
    gradients: Sequence[str] = (),
) -> Verification:
    """Losses, scalars, outputs and gradients of a method at given weights, images and draws.

    Args:
        spec: `model` {width, depth, heads, patch_size, image_size, mlp_ratio, drop_path}, `method` with its options,
            `data` {group}, `seed`. Without a group it is the one that the method advises, or the largest below that of
            which `images` are a multiple.
        state: exactly the parameters, by name.
        images: (B, V, 3, S, S), cropped, flipped, coloured and normalised.
        draws: by name; absent ones are drawn for the sample numbers from `draws["first"]` on.
        dtype: type of the computation; `bf16` is float32 with the module under autocast.
        gradients: names of parameters.

    Raises:
        SpecError: arguments that do not fit, each named.
    """
    setting, real = _setting(spec, len(images)), TYPES[dtype]
    method = _verifiable(setting)
    _load(method, state, real)
    pixels = _images(images, method.views, setting).to(real)
    given = _draws(method, draws, setting.group, len(pixels), real)
    parameters = dict(method.module.named_parameters())
    if unknown := sorted(set(gradients) - set(parameters)):
        raise SpecError(Fault("gradients", f"{unknown}; the method has no such parameters", "choose among its own"))
    module = method.module
    forward = torch.autocast("cpu", torch.bfloat16)(module.__call__) if dtype == "bf16" else module
    losses = method.loss(forward, pixels, given)
    found: dict[str, Tensor | None] = dict.fromkeys(gradients)
    trained = {name: parameters[name] for name in gradients if parameters[name].requires_grad}
    if trained:
        made = torch.autograd.grad(losses.groups.mean(), list(trained.values()), allow_unused=True)
        found |= dict(zip(trained, made, strict=True))
    return Verification(
        losses=_array(losses.groups),
        scalars={name: _array(pair) for name, pair in losses.scalars.items()},
        outputs={name: _array(output) for name, output in losses.outputs.items()},
        gradients={name: None if value is None else _array(value) for name, value in found.items()},
    )


def draw(
    spec: Mapping[str, Any],
    numbers: Sequence[int] | NDArray[Any],
    *,
    names: Collection[str] | None = None,
    given: Arrays | None = None,
) -> dict[str, NDArray[Any]]:
    """The draws of sample numbers, as `verify` makes them.

    Args:
        spec: as in `verify`.
        numbers: sample numbers.
        names: which draws; None for all.
        given: what is not drawn, such as the `map` that masks follow with AMT.
    """
    method = _verifiable(_setting(spec))
    tensors = {name: torch.tensor(np.asarray(value)) for name, value in (given or {}).items()}
    host = torch.device("cpu")
    made = _drawing(method, tensors, torch.float32)(torch.as_tensor(numbers, dtype=torch.int64), host, names=names)
    return {name: _array(value) for name, value in made.items()}


def _verifiable(setting: Setting) -> Verifiable:
    method = blank(setting)
    if not isinstance(method, Verifiable):
        problem = f"{setting.options.name!r} has no `accept`, which takes draws from outside"
        raise SpecError(Fault("method.name", problem, "write it as docs/methods.md says"))
    return method


def _setting(spec: Mapping[str, Any], count: int = 0) -> Setting:
    """The setting of a specification for `count` images, checked as a job; fields that are not read are filled in."""
    model, method = dict(spec.get("model", {})), dict(spec.get("method", {}))
    if method.get("amt") is False:  # methods that cannot have it take no such field
        del method["amt"]
    # images come augmented; that views are aligned is what some methods ask of a job
    data = {
        "corpora": [{"url": "none"}],
        "augment": {"aligned": True},
        "image_size": model.pop("image_size", None),
        **spec.get("data", {}),
    }
    if data.get("group", "auto") == "auto":
        advised = advised_group(method.get("name")) or 1
        data["group"] = next(group for group in range(advised, 0, -1) if count % group == 0)
    # no weights are taken from there: a method that has to begin from another run is given its weights here
    rest = {"name": "verify", "init": {"run": "none"}, "run": {"steps": 1}, "batch": {"size": data["group"]}}
    return Setting.of(parse_job({**rest, **spec, "model": model, "method": method, "data": data}))


def _load(method: Method, state: Arrays, real: torch.dtype) -> None:
    shapes = {name: tuple(parameter.shape) for name, parameter in method.module.named_parameters()}
    problems = [
        f"{what} {sorted(names)}"
        for what, names in (("missing", set(shapes) - set(state)), ("extra", set(state) - set(shapes)))
        if names
    ]
    wrong = {name: np.shape(state[name]) for name in set(shapes) & set(state) if np.shape(state[name]) != shapes[name]}
    problems += [f"{name} of shape {wrong[name]}, not {shapes[name]}" for name in sorted(wrong)]
    if problems:
        problem = f"{', '.join(problems)}; it holds exactly the method's parameters"
        raise SpecError(Fault("state", problem, "fix the mapping"))
    tensors = {name: torch.tensor(np.asarray(value), dtype=real) for name, value in state.items()}
    method.module.load_state_dict(tensors, assign=True)


def _images(images: NDArray[Any], views: int, setting: Setting) -> Tensor:
    wanted = (views, 3, setting.image_size, setting.image_size)
    if np.shape(images)[1:] != wanted or not len(images) or len(images) % setting.group:
        rule = f"(B, {', '.join(map(str, wanted))}) is required, B a multiple of the group of {setting.group}"
        raise SpecError(Fault("images", f"shape {np.shape(images)}; {rule}", "fix the array"))
    return torch.tensor(np.asarray(images))


def _draws(method: Verifiable, draws: Mapping[str, Any], group: int, count: int, real: torch.dtype) -> Draws:
    made: Draws = {}
    given = {name: torch.tensor(np.asarray(value)) for name, value in draws.items() if name != "first"}
    typed = {name: value.to(real) if value.is_floating_point() else value for name, value in given.items()}
    if "first" in draws:
        first = int(draws["first"])
        if first < 0 or first % group:
            rule = f"groups of {group} begin at its multiples from 0"
            raise SpecError(Fault("draws.first", f"{first}; {rule}", "choose one of them"))
        numbers, host = torch.arange(first, first + count), torch.device("cpu")
        draw = _drawing(method, typed, real)
        absent = [name for name in draw(numbers, host) if name not in draws]
        # only what is absent: `short` belongs to the `source` it was drawn with, and not to one that is given
        made = draw(numbers, host, names=absent)
    return method.accept(made | typed, count)


def _drawing(method: Verifiable, given: Draws, real: torch.dtype) -> Callable[..., Draws]:
    """The method's `draw`, with what decides on masks where that is given."""
    decides = {name: given[name] for name in (MAP, ROLE) if name in given}
    if decides and isinstance(method, Guided) and method.amt is not None:
        return partial(method.draw, dtype=real, given=decides)
    return partial(method.draw, dtype=real)


def _array(value: Tensor) -> NDArray[Any]:
    return value.detach().cpu().numpy()
