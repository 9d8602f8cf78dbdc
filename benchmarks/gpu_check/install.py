"""What is installed, and whether DeepSpeed imports where there is no CUDA compiler."""

import os
import platform
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu_check.result import Result, Setting, verdict


def install(_variant: str, setting: Setting) -> Result:
    """DeepSpeed imports without nvcc, and torch finds what it needs of CUDA; versions of everything."""
    compiler = shutil.which("nvcc")
    imported = _import_without_compiler()
    problems = [] if imported.returncode == 0 else [f"import deepspeed: {(imported.stderr or imported.stdout)[-600:]}"]
    found = versions()
    if setting.device == "cuda":
        problems += [f"torch has no {name}" for name in ("cuda", "cudnn", "nccl") if found[name] is None]
        problems += _computes()
    return verdict(problems, {"nvcc": compiler or "not installed", "versions": found})


def _import_without_compiler() -> "subprocess.CompletedProcess[str]":
    """Import DeepSpeed in a process that finds no nvcc, though one be installed: clusters seldom have one on nodes."""
    folders = [part for part in os.environ["PATH"].split(os.pathsep) if not (Path(part) / "nvcc").exists()]
    environment = {name: value for name, value in os.environ.items() if name not in ("CUDA_HOME", "CUDA_PATH")}
    # no compiler's folder, no cached kernels: the import alone is checked
    command = [sys.executable, "-c", "import deepspeed; from deepspeed.accelerator import get_accelerator as g; g()"]
    return subprocess.run(
        command, env={**environment, "PATH": os.pathsep.join(folders)}, capture_output=True, text=True, check=False
    )


def versions() -> dict[str, Any]:
    """Of Python, packages, driver, and the parts of CUDA; null for what is not there."""
    packages = {name: _package(name) for name in ("torch", "deepspeed", "numpy", "gmml-cluster")}
    cuda = torch.version.cuda
    cudnn = torch.backends.cudnn.version() if cuda else None  # type: ignore[no-untyped-call]
    nccl = None
    if cuda and torch.distributed.is_nccl_available():
        nccl = ".".join(map(str, torch.cuda.nccl.version()))  # type: ignore[no-untyped-call]
    return {"python": platform.python_version(), **packages, "cuda": cuda, "cudnn": cudnn, "nccl": nccl, **_gpus()}


def _package(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _gpus() -> dict[str, Any]:
    """The driver's version, and model and memory of each GPU, as the driver says."""
    program = shutil.which("nvidia-smi")
    if program is None:
        return {"driver": None, "gpus": []}
    query = [program, "--query-gpu=driver_version,name,memory.total", "--format=csv,noheader"]
    listed = subprocess.run(query, capture_output=True, text=True, check=False)
    rows = [line.split(", ") for line in listed.stdout.splitlines()] if listed.returncode == 0 else []
    return {"driver": rows[0][0] if rows else None, "gpus": [" ".join(row[1:]) for row in rows]}


def _computes() -> list[str]:
    """Problems with a product and a convolution on the GPU: cuBLAS and cuDNN load when they are first used."""
    ones = torch.ones(64, 64, device="cuda")
    if float((ones @ ones).sum()) != 64**3:
        return ["a product of ones is wrong"]
    summed = torch.nn.functional.conv2d(torch.ones(1, 1, 8, 8, device="cuda"), torch.ones(1, 1, 8, 8, device="cuda"))
    return [] if float(summed) == 64 else ["a convolution of ones is wrong"]
