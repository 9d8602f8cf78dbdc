"""Files of weights that others wrote: where the tensors lie in them, and that nothing of them is run."""

import argparse
import io
import os
import pickle

import pytest
import safetensors.torch
import torch

from gmml_cluster.errors import CheckpointError
from gmml_cluster.train.checkpoints.weight_file import read_weights

STATE = {"patch_embed.proj.weight": torch.arange(4.0), "norm.bias": torch.ones(2, dtype=torch.bfloat16)}


def saved(document):
    buffer = io.BytesIO()
    torch.save(document, buffer)
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("document", "beside"),
    [
        (STATE, []),
        ({"model": STATE, "optimizer": {"state": {}}, "epoch": 3}, ["optimizer", "epoch"]),
        ({"SiT_model": STATE, "args": argparse.Namespace(lr=1.0), "fp16_scaler": None}, ["args", "fp16_scaler"]),
        ({"student": {"other": torch.ones(1)}, "teacher": STATE}, ["student"]),
        ({"student": {"state_dict": STATE}}, []),
        ({**STATE, "arch": "vit"}, ["arch"]),
    ],
)
def test_weights_are_found_where_training_scripts_put_them(document, beside):
    found, left = read_weights("w.pth", saved(document))
    assert found.keys() == STATE.keys()
    assert all(torch.equal(found[name], value) for name, value in STATE.items())
    assert left == beside


def test_safetensors_are_read():
    found, _ = read_weights("w.safetensors", safetensors.torch.save(STATE))
    assert all(torch.equal(found[name], value) for name, value in STATE.items())


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


@pytest.mark.parametrize("inside", ["model", "args"])
def test_a_file_that_would_run_code_is_refused_and_runs_none(tmp_path, inside):
    document = {"model": STATE, inside: Malicious(str(tmp_path / "made"))}
    for data in (saved(document), pickle.dumps(document, protocol=2)):
        with pytest.raises(CheckpointError, match=r"w.pth: is not loaded: .*; take its .safetensors"):
            read_weights("w.pth", data)
    namespace = argparse.Namespace(inner=Malicious(str(tmp_path / "made")))
    with pytest.raises(CheckpointError, match=r"w.pth: is not loaded"):
        read_weights("w.pth", saved({"model": STATE, "args": namespace}))
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("url", "data", "message"),
    [
        ("w.pth", b"nothing of torch", "w.pth: is not loaded: it is damaged"),
        ("w.pth", saved(STATE)[:-40], "w.pth: is not loaded: it is damaged"),
        ("w.safetensors", safetensors.torch.save(STATE)[:-1], "is no safetensors file"),
        ("w.pt", saved([torch.ones(1)]), "holds a list, not tensors by name"),
        ("w.pt", saved({"epoch": 3}), "holds no tensors by name, .*; it has epoch; save its state_dict"),
    ],
)
def test_what_is_no_file_of_weights_is_refused_by_name(url, data, message):
    with pytest.raises(CheckpointError, match=message):
        read_weights(url, data)
