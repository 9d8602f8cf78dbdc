"""What is computed in full precision within a module that runs under autocast."""

from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor


def no_autocast(device: torch.device) -> AbstractContextManager[object]:
    """Products within it keep the type of their factors; on devices without autocast, such as meta, nothing."""
    if torch.amp.is_autocast_available(device.type):
        return torch.autocast(device.type, enabled=False)
    return nullcontext()


def unrounded(x: Tensor) -> Tensor:
    """Float32 of what autocast made; other types stay."""
    return x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
