"""Weights in a file that others wrote: safetensors, or what torch saved, read without running anything of it."""

import io
from argparse import Namespace
from collections.abc import Mapping
from typing import Any

import safetensors.torch
import torch
from torch import Tensor

from gmml_cluster.errors import CheckpointError, Fault

_NESTS = ("target_encoder", "teacher", "SiT_model", "model", "state_dict", "student")
"""Where training scripts put weights within what they save. Of a teacher and a student the teacher is what is used."""


def read_weights(url: str, data: bytes) -> tuple[dict[str, Tensor], list[str]]:
    """The tensors of a file by their names there, on the CPU, and what lay beside them.

    Args:
        url: names the file in faults; `.safetensors` at its end says that it is one.
        data: its bytes.

    Raises:
        CheckpointError: it is no such file, it is damaged, it would run code when loaded, or it holds no tensors.
    """
    document = _safetensors(url, data) if url.endswith(".safetensors") else _saved_by_torch(url, data)
    beside: list[str] = []
    while (nest := next((key for key in _NESTS if isinstance(document.get(key), Mapping)), None)) is not None:
        beside += [str(key) for key in document if key != nest]
        document = document[nest]
    weights = {str(name): value for name, value in document.items() if isinstance(value, Tensor)}
    if not weights:
        known = ", ".join(str(key) for key in list(document)[:5]) or "nothing"
        problem = f"holds no tensors by name, neither by themselves nor under {', '.join(_NESTS)}; it has {known}"
        raise CheckpointError(Fault(url, problem, "save its state_dict to a file of its own"))
    return weights, beside + [str(name) for name in document if str(name) not in weights]


def _safetensors(url: str, data: bytes) -> Mapping[str, Any]:
    try:
        return safetensors.torch.load(data)
    except Exception as error:  # its own exception, and whatever a cut header makes of JSON and of shapes
        raise CheckpointError(Fault(url, f"is no safetensors file ({_first_line(error)})", "fetch it again")) from error


def _saved_by_torch(url: str, data: bytes) -> Mapping[str, Any]:
    try:
        # training scripts save their arguments beside the weights: a Namespace is a bare holder of values, which are
        # held to the same rule
        with torch.serialization.safe_globals([Namespace]):
            document = torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except Exception as error:  # torch raises half a dozen kinds for files that are damaged or hold other objects
        problem = f"is not loaded: it is damaged, or holds more than weights and plain values ({_first_line(error)})"
        cure = "take its .safetensors, or, if you trust it, load it elsewhere and save its state_dict alone"
        raise CheckpointError(Fault(url, problem, cure)) from error
    if not isinstance(document, Mapping):
        problem = f"holds a {type(document).__name__}, not tensors by name"
        raise CheckpointError(Fault(url, problem, "save its state_dict to a file of its own"))
    return document


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if "GLOBAL" in line or "nsupported" in line]
    return f"{type(error).__name__}: {(lines or str(error).splitlines() or [''])[0][:200]}"
