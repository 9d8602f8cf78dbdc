"""An imported encoder computes what another library's model computes with the same weights."""

import pytest
import torch

from gmml_cluster.errors import CheckpointError
from gmml_cluster.export.formats import to_timm, to_transformers
from gmml_cluster.methods.build import build
from gmml_cluster.models.vit import sincos_positions
from gmml_cluster.train.checkpoints.weight_file import read_weights
from tests.unit.train.checkpoints.test_public_names import JOB, MAE, job, of


def imported(state, spec):
    """The encoder of a job that has taken these tensors."""
    encoder = build(spec).module.encoder
    taken = of(state, spec).weights
    encoder.load_state_dict({name.removeprefix("encoder."): value for name, value in taken.items()})
    return encoder.eval()


SHAPE = {
    "hidden_size": JOB["model"]["width"],
    "num_hidden_layers": JOB["model"]["depth"],
    "num_attention_heads": JOB["model"]["heads"],
    "intermediate_size": 4 * JOB["model"]["width"],
    "layer_norm_eps": 1e-6,
    "image_size": 16,
    "patch_size": 4,
}
BEIT = {"use_shared_relative_position_bias": True, "layer_scale_init_value": 0.1, "use_mask_token": True}
OF_BEIT = {"positions": "relative", "key_bias": False, "layer_scale": True}
DINOV2 = {name: value for name, value in SHAPE.items() if name != "intermediate_size"}
CASES = {
    "ViTModel": ("ViTConfig", SHAPE, {}, ""),
    "ViTForImageClassification": ("ViTConfig", SHAPE, {}, "vit"),
    "ViTForMaskedImageModeling": ("ViTConfig", {**SHAPE, "encoder_stride": 4}, {}, "vit"),
    "BeitModel": ("BeitConfig", {**SHAPE, **BEIT, "use_mean_pooling": False}, OF_BEIT, ""),
    "BeitForMaskedImageModeling": ("BeitConfig", {**SHAPE, **BEIT, "vocab_size": 7}, OF_BEIT, "beit"),
    "IJepaModel": ("IJepaConfig", SHAPE, {"class_token": False}, ""),
    "Dinov2Model": ("Dinov2Config", DINOV2, {"layer_scale": True}, ""),
}


@pytest.fixture(scope="module")
def transformers():
    return pytest.importorskip("transformers", minversion="5.0", reason="the oracle of the import")


def made(transformers, name, config, shape):
    """A model of transformers in which no parameter is zero or one."""
    shape = {**shape, "hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    model = getattr(transformers, name)(getattr(transformers, config)(**shape)).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.requires_grad:
                drawn = torch.randn(parameter.shape, generator=generator)
                parameter.copy_(drawn * 0.2 + (parameter.dim() == 1) * 0.5)
    return model


def images():
    return torch.randn(3, 3, 16, 16, generator=torch.Generator().manual_seed(2))


def assert_equal_in_float64(found, expected):
    """The libraries' orders of summation differ by the last places alone, so that one wrong value shows."""
    torch.testing.assert_close(found, expected, rtol=0, atol=256 * 2.0**-52 * float(expected.abs().max()))


def of_file_and_memory(model, folder):
    """The tensors by the names in a file, and by those that version 5 has in memory, as `torch.save` writes them."""
    model.save_pretrained(folder)
    torch.save(model.state_dict(), folder / "memory.pth")
    for path in (folder / "model.safetensors", folder / "memory.pth"):
        yield read_weights(str(path), path.read_bytes())[0]


@pytest.mark.parametrize("name", CASES)
def test_an_imported_encoder_computes_what_transformers_does(transformers, tmp_path, name):
    config, shape, switches, inner = CASES[name]
    theirs = made(transformers, name, config, shape)
    spec = job({"name": "supervised", "classes": 3, "pool": "mean", "encoder": switches or None})
    whole = getattr(theirs, inner) if inner else theirs
    for weights in of_file_and_memory(theirs, tmp_path):
        ours = imported(weights, spec).double()
        with torch.no_grad():
            expected = whole.double()(images().double()).last_hidden_state
            if name == "BeitForMaskedImageModeling":  # the norm is beside its encoder
                expected = theirs.layernorm.double()(expected)
            assert_equal_in_float64(ours(images().double()), expected)


def test_a_mae_takes_encoder_and_decoder_of_transformers(transformers, tmp_path):
    decoder = {"decoder_hidden_size": 8, "decoder_num_hidden_layers": 1, "decoder_num_attention_heads": 1}
    shape = {**SHAPE, **decoder, "decoder_intermediate_size": 32, "mask_ratio": 0.75}
    theirs = made(transformers, "ViTMAEForPreTraining", "ViTMAEConfig", shape)
    for positions in (theirs.vit.embeddings.position_embeddings, theirs.decoder.decoder_pos_embed):
        # zeros in a new model; published files hold this
        positions.data.copy_(sincos_positions(positions.shape[2], 4))
    for weights in of_file_and_memory(theirs, tmp_path):
        module = build(job(MAE)).module
        taken = of(weights, job(MAE), decoder=True)
        assert taken.dropped == []
        module.load_state_dict(taken.weights)
        # theirs keeps the patches of the least noise, in its order
        noise, keep = torch.arange(16.0).expand(3, -1), torch.arange(4).expand(3, -1)
        with torch.no_grad():
            expected = theirs.double()(images().double(), noise=noise).logits
            torch.testing.assert_close(module.double()(images().double(), keep), expected, rtol=0, atol=1e-6)


def test_biases_of_each_block_are_refused_by_name(transformers, tmp_path):
    own = {**BEIT, "use_shared_relative_position_bias": False, "use_relative_position_bias": True}
    theirs = made(transformers, "BeitModel", "BeitConfig", {**SHAPE, **own})
    spec = job({"name": "supervised", "classes": 3, "pool": "mean", "encoder": OF_BEIT})
    for weights in of_file_and_memory(theirs, tmp_path):
        message = r"2 unknown here: .*encoder.blocks.0.attn.relative_position_bias_table \[52, 2\]"
        with pytest.raises(CheckpointError, match=message):
            of(weights, spec)


def test_what_is_exported_to_transformers_comes_back_to_the_bit(tmp_path):
    for method in ("gmml", "simmim", "ijepa"):
        ours = build(job({"name": method}, seed=5)).module.encoder.eval()
        (tmp_path / method).mkdir()
        to_transformers(ours, job(), tmp_path / method)
        path = tmp_path / method / "model.safetensors"
        taken = of(read_weights(str(path), path.read_bytes())[0], job({"name": method})).weights
        assert taken.keys() == {f"encoder.{name}" for name in ours.state_dict()}
        assert all(torch.equal(taken[f"encoder.{name}"], value) for name, value in ours.state_dict().items())


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
