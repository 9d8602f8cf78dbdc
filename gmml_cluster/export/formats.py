"""The files of an exported encoder, one function a format; each returns how it is loaded, as Python."""

import json
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch.nn.attention import SDPBackend, sdpa_kernel

from gmml_cluster.errors import CheckpointError, Fault
from gmml_cluster.export.targets import (
    TRANSFORMERS_CLASS,
    family_of,
    plain_weights,
    timm_arguments,
    transformers_config,
    transformers_weights,
)
from gmml_cluster.models.encoders import AnyEncoder
from gmml_cluster.spec.job import JobSpec

WEIGHTS = "model.safetensors"
_BICUBIC = 3
"""Pillow's number of the filter, which transformers' files use."""
_OPSET = 18
_SAYS_WHAT_IS_MISSING = logging.getLogger("torch.onnx._internal.exporter._registration")
"""Warns of torchvision's operators, which no encoder has."""
_ONE_FILE_BYTES = 2**31 - 2**26
"""What protobuf allows a file, less what the graph itself may take: weights of ViT-H are more."""


def to_safetensors(encoder: AnyEncoder, _job: JobSpec, folder: Path) -> str:
    """The encoder's own tensors, by timm's names, without a configuration."""
    save_file(plain_weights(encoder), folder / WEIGHTS, {"format": "pt"})
    return f'from safetensors.torch import load_file\n\nweights = load_file("{WEIGHTS}")\n'


def to_timm(encoder: AnyEncoder, job: JobSpec, folder: Path) -> str:
    """Weights and arguments for `timm.create_model`."""
    architecture, arguments = timm_arguments(encoder, job.model, job.data.image_size)
    save_file(plain_weights(encoder), folder / WEIGHTS, {"format": "pt"})
    _write_json(folder / "config.json", {"architecture": architecture, "model_args": arguments, **_pixels(job)})
    return (
        "import json\n\nimport timm\n\n"
        'config = json.load(open("config.json"))\n'
        f'model = timm.create_model(config["architecture"], checkpoint_path="{WEIGHTS}", **config["model_args"])\n'
    )


def to_transformers(encoder: AnyEncoder, job: JobSpec, folder: Path) -> str:
    """A folder for `from_pretrained`, with the preparation of images."""
    size, name = job.data.image_size, TRANSFORMERS_CLASS[family_of(encoder)]
    save_file(transformers_weights(encoder), folder / WEIGHTS, {"format": "pt"})
    _write_json(folder / "config.json", transformers_config(encoder, job.model, size))
    pixels = _pixels(job)
    preparation = {
        "image_processor_type": "ViTImageProcessor",
        "do_resize": True,
        "size": {"height": size, "width": size},
        "resample": _BICUBIC,
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": pixels["mean"],
        "image_std": pixels["std"],
    }
    _write_json(folder / "preprocessor_config.json", preparation)
    return f'from transformers import {name}\n\nmodel = {name}.from_pretrained(".", add_pooling_layer=False)\n'


def to_onnx(encoder: AnyEncoder, job: JobSpec, folder: Path) -> str:
    """A graph from normalised images (B, 3, S, S) to normed tokens, for any number of images.

    Weights that one file cannot hold lie in a second one beside it.

    Raises:
        CheckpointError: the exporter's packages are not installed.
    """
    try:
        import onnxscript  # noqa: F401
    except ModuleNotFoundError as error:
        hint = "pip install 'gmml-cluster[export]'"
        raise CheckpointError(Fault("--to onnx", f"{error.name} is not installed", hint)) from error
    size = job.data.image_size
    _SAYS_WHAT_IS_MISSING.setLevel(logging.ERROR)
    # the fused kernel of attention with a bias has other strides when it is traced than when it runs (torch 2.13)
    with sdpa_kernel(SDPBackend.MATH), warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)  # of torch about torch: nothing that a user can do
        torch.onnx.export(
            encoder,
            (torch.zeros(2, 3, size, size),),
            str(folder / "model.onnx"),
            input_names=["images"],
            output_names=["tokens"],
            dynamic_shapes=({0: torch.export.Dim("images")},),
            opset_version=_OPSET,
            external_data=sum(value.nbytes for value in encoder.state_dict().values()) > _ONE_FILE_BYTES,
            dynamo=True,
            verbose=False,
        )
    return 'import onnxruntime\n\nsession = onnxruntime.InferenceSession("model.onnx")\n'


FORMATS: dict[str, Callable[[AnyEncoder, JobSpec, Path], str]] = {
    "timm": to_timm,
    "transformers": to_transformers,
    "onnx": to_onnx,
    "safetensors": to_safetensors,
}


def _pixels(job: JobSpec) -> dict[str, list[float]]:
    return {"mean": list(job.data.normalise.mean), "std": list(job.data.normalise.std)}


def _write_json(path: Path, document: dict[str, Any]) -> None:
    path.write_text(json.dumps(document, indent=2) + "\n")
