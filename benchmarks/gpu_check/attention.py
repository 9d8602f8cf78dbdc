"""torch's attention backends against float64, on the shapes that vision transformers have."""

import math
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel

from benchmarks.gpu_check.result import CannotRun, Result, Setting, verdict

BACKENDS = {
    "math": SDPBackend.MATH,
    "efficient": SDPBackend.EFFICIENT_ATTENTION,
    "flash": SDPBackend.FLASH_ATTENTION,
    "cudnn": SDPBackend.CUDNN_ATTENTION,
}
SHAPES = {
    "ViT-B": (12, 197, 64),
    "ViT-L": (16, 197, 64),
    "ViT-L, kept by MAE": (16, 50, 64),
    "MAE's decoder": (16, 197, 32),
    "ViT-H/14": (16, 257, 80),
}
"""Heads, tokens, width of a head."""
QUICK_SHAPES = {"tiny": (2, 17, 16)}
MOST_ULPS = {torch.bfloat16: 8, torch.float32: 64}
"""Largest error in units in the last place of the largest value: a backend that is wrong is off by far more."""


def attention(variant: str, setting: Setting) -> Result:
    """Worst error of output and gradients, relative to their largest value, by type and shape."""
    shapes = QUICK_SHAPES if setting.quick else SHAPES
    figures: dict[str, Any] = {}
    problems, refused = [], []
    for dtype, ulps in MOST_ULPS.items():
        type_name = str(dtype).removeprefix("torch.")
        for name, shape in shapes.items():
            try:
                error = worst_error(BACKENDS[variant], dtype, shape, torch.device(setting.device))
            except RuntimeError as reason:
                refused.append(f"{type_name}, {name}: {str(reason).splitlines()[0]}")
                continue
            figures.setdefault(type_name, {})[name] = error
            if not error <= ulps * torch.finfo(dtype).eps:  # NaN is no less than anything
                problems.append(f"{type_name}, {name}: {error:.2g} is more than {ulps} ulp")
    if not figures:
        raise CannotRun(refused[0])
    result = verdict(problems, {"worst_relative_error": figures})
    return Result(result.outcome, result.figures, "; ".join(filter(None, [result.message, *refused])))


def worst_error(backend: SDPBackend, dtype: torch.dtype, shape: tuple[int, int, int], device: torch.device) -> float:
    """Of output and the three gradients the largest error, over the largest value of what it is an error of."""
    generator = torch.Generator().manual_seed(3)
    heads, tokens, width = shape
    given = [torch.randn(2, heads, tokens, width, generator=generator).to(dtype) for _ in range(4)]
    expected = _with_gradients([part.double() for part in given])
    with sdpa_kernel(backend):
        found = _with_gradients([part.to(device) for part in given], fused=True)
    errors = [
        float((one.cpu().double() - other).abs().max() / other.abs().max())
        for one, other in zip(found, expected, strict=True)
    ]
    return math.nan if any(map(math.isnan, errors)) else max(errors)


def _with_gradients(given: list[Tensor], *, fused: bool = False) -> list[Tensor]:
    """Output and gradients of q, k and v; the fourth given is the output's gradient."""
    q, k, v = (part.detach().requires_grad_() for part in given[:3])
    if fused:
        out = F.scaled_dot_product_attention(q, k, v)
    else:
        out = (q @ k.transpose(-2, -1) / math.sqrt(q.shape[-1])).softmax(-1) @ v
    torch.autograd.backward(out, given[3])
    return [out.detach(), *(part.grad for part in (q, k, v) if part.grad is not None)]
