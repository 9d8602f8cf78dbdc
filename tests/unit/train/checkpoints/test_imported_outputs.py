"""An imported encoder computes what another library's model computes with the same weights."""

import pytest
import torch
from safetensors.torch import load_file

from gmml_cluster.export.formats import to_timm
from gmml_cluster.methods.build import build
from gmml_cluster.train.checkpoints.weight_file import read_weights
from tests.unit.train.checkpoints.test_public_names import JOB, job, of

BLOCK = {
    "layernorm_before": "norm1",
    "attention.output.dense": "attn.proj",
    "layernorm_after": "norm2",
    "intermediate.dense": "mlp.fc1",
    "output.dense": "mlp.fc2",
}
REST = {
    "cls_token": "embeddings.cls_token",
    "pos_embed": "embeddings.position_embeddings",
    "patch_embed.proj.weight": "embeddings.patch_embeddings.projection.weight",
    "patch_embed.proj.bias": "embeddings.patch_embeddings.projection.bias",
    "norm.weight": "layernorm.weight",
    "norm.bias": "layernorm.bias",
}


def timm_names(state, depth):
    """The tensors of transformers' ViT by timm's names, written here apart from the export."""
    found = {ours: state[theirs] for ours, theirs in REST.items()}
    for number in range(depth):
        theirs, ours = f"encoder.layer.{number}", f"blocks.{number}"
        for kind in ("weight", "bias"):
            qkv = [state[f"{theirs}.attention.attention.{part}.{kind}"] for part in ("query", "key", "value")]
            found[f"{ours}.attn.qkv.{kind}"] = torch.cat(qkv)
            found |= {f"{ours}.{name}.{kind}": state[f"{theirs}.{part}.{kind}"] for part, name in BLOCK.items()}
    return found


def imported(state, spec):
    """The encoder of a job that has taken these tensors."""
    encoder = build(spec).module.encoder
    taken = of(state, spec).weights
    encoder.load_state_dict({name.removeprefix("encoder."): value for name, value in taken.items()})
    return encoder.eval()


def test_an_imported_encoder_computes_what_transformers_vit_does(tmp_path):
    transformers = pytest.importorskip("transformers", minversion="5.0", reason="the oracle of the import")
    model = JOB["model"]
    config = transformers.ViTConfig(
        hidden_size=model["width"],
        num_hidden_layers=model["depth"],
        num_attention_heads=model["heads"],
        intermediate_size=4 * model["width"],
        hidden_dropout_prob=0.0,
        attention_probs_dropout_prob=0.0,
        layer_norm_eps=1e-6,
        image_size=16,
        patch_size=4,
    )
    theirs = transformers.ViTModel(config, add_pooling_layer=False).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in theirs.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2 + (parameter.dim() == 1) * 0.5)
    theirs.save_pretrained(tmp_path)  # its files' names are fixed, those of its modules are not
    ours = imported(timm_names(load_file(tmp_path / "model.safetensors"), model["depth"]), job())
    images = torch.randn(3, 3, 16, 16, generator=generator)
    with torch.no_grad():
        # in float64 the libraries' orders of summation differ by its last places alone, so one wrong value shows
        found, expected = ours.double()(images.double()), theirs.double()(images.double()).last_hidden_state
    torch.testing.assert_close(found, expected, rtol=0, atol=256 * 2.0**-52 * float(expected.abs().max()))


def test_what_is_exported_to_timm_comes_back_to_the_bit(tmp_path):
    spec = job()
    ours = build(job(seed=5)).module.encoder.eval()
    to_timm(ours, spec, tmp_path)
    weights, beside = read_weights("model.safetensors", (tmp_path / "model.safetensors").read_bytes())
    again = imported(weights, spec)
    images = torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(2))
    with torch.no_grad():
        assert torch.equal(again(images), ours(images))
    assert beside == []
