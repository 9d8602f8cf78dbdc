"""What is known without torch of each method's encoder, and which of another run a job can begin from."""

from types import SimpleNamespace

import pytest

from gmml_cluster.launch.checks.encoders import encoder_misfits
from gmml_cluster.methods.build import blank
from gmml_cluster.methods.protocol import Setting, exported_name
from gmml_cluster.models.vit import VisionTransformer
from gmml_cluster.spec.loading.validate import parse_job
from gmml_cluster.spec.methods.encoder_kind import EncoderKind, Rotary
from gmml_cluster.spec.methods.plugins import BUILT_IN

AUGMENT = {"conmim": "conmim"}
CLASSIFIERS = ("supervised", "finetune", "linear", "attentive", "segmentation")
OPTIONS = {"gmml": {"taps": [1, 2]}, "attentive": {"queries": 8}}
ROTARY = {"rotary": {"registers": 4, "rope": "halves"}}
RELATIVE = {"positions": "relative", "key_bias": False, "layer_scale": True}


def job(name, **options):
    given = {"name": name, **OPTIONS.get(name, {}), **({"classes": 10} if name in CLASSIFIERS else {}), **options}
    return parse_job(
        {
            "name": "a",
            "init": {"run": "/other"} if name in CLASSIFIERS else None,
            "model": {"width": 32, "depth": 2, "heads": 2, "patch_size": 4},
            "method": given,
            "data": {
                "corpora": [{"url": "corpus"}],
                "image_size": 32,
                "group": 8,
                "augment": AUGMENT.get(name, "none"),
            },
            "batch": {"size": 64},
            "run": {"steps": 10},
        }
    )


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *((name, {}) for name in sorted(BUILT_IN)),
        ("simmim", {"plain": True}),
        ("relvit", {"position_embeddings": True}),
        ("finetune", {"encoder": RELATIVE}),
        ("attentive", {"encoder": {"class_token": False}}),
        ("capi", {"registers": 4, "rope": "halves"}),
        *((name, {"encoder": ROTARY}) for name in ("finetune", "attentive")),
        ("linear", {"encoder": ROTARY, "feature": "mean"}),
    ],
)
def test_a_methods_encoder_is_what_is_said_of_it(name, options):
    one = job(name, **options)
    method = blank(Setting.of(one))
    encoder = method.module.get_submodule(exported_name(method))
    said = one.method.encoder_kind
    if said.rotary is not None:
        (halves,) = {block.attn.halves for block in encoder.blocks}
        assert said.rotary == Rotary(encoder.reg_token.shape[1], halves=halves)
        return
    assert isinstance(encoder, VisionTransformer)
    state = dict(encoder.named_parameters())
    table = "none" if encoder.pos_embed is None else "learned" if "pos_embed" in state else "sincos"
    assert said == EncoderKind(
        positions="relative" if encoder.rel_pos_bias else table,
        class_token=encoder.cls_token is not None,
        key_bias="blocks.0.attn.qkv.bias" in state,
        layer_scale="blocks.0.gamma_1" in state,
    )


@pytest.mark.parametrize(
    ("classifier", "other", "message"),
    [
        (job("finetune"), job("ijepa"), "a plain one, but that of /x is {class_token: false}; write encoder: {class"),
        (
            job("attentive"),
            job("simmim"),
            "but that of /x is {positions: relative, key_bias: false, layer_scale: true}",
        ),
        (
            job("linear", encoder={"positions": "none"}),
            job("mae"),
            "{positions: none}, but that of /x is a plain one; leave",
        ),
        (
            job("finetune"),
            job("capi"),
            "a plain one, but that of /x is {rotary: {registers: 16, rope: coupled}}; write encoder: {rotary: {reg",
        ),
        (
            job("attentive", encoder=ROTARY),
            job("capi", registers=4),
            "{rotary: {registers: 4, rope: halves}}, but that of /x is {rotary: {registers: 4, rope: coupled}}; write",
        ),
        (
            job("mae"),
            job("gmml"),
            "init.run: /x was trained by gmml, whose encoder has learned positions and a class token; that of mae has"
            " fixed positions and a class token; name a run whose encoder is of that kind, such as one of mae, or",
        ),
        (
            job("gmml"),
            job("conmim"),
            "whose encoder has relative positions, a class token, no biases of keys and layer scale; that of gmml has",
        ),
        (
            job("simmim"),
            job("capi"),
            "has rotary positions (axes coupled), 16 registers and no class token; that of simmim has relative",
        ),
        (job("capi"), job("capi", registers=4), "16 registers and no class token; name a run"),
        (job("gmml"), job("ijepa"), "has fixed positions and no class token; that of gmml has learned"),
        (job("mae"), job("relvit"), "has no positions and a class token; that of mae has fixed positions"),
        (job("attentive"), job("finetune", encoder=RELATIVE), "method.encoder: a plain one, but that of /x is {pos"),
    ],
)
def test_another_encoder_than_the_one_it_begins_from_is_refused(classifier, other, message):
    (fault,) = encoder_misfits(classifier, other, "/x")
    assert message in str(fault)


@pytest.mark.parametrize(
    ("begun", "other"),
    [
        (job("finetune"), job("mae")),
        (job("finetune"), job("relvit")),
        (job("finetune", encoder={"class_token": False}), job("ijepa")),
        (job("finetune", encoder=ROTARY), job("capi", registers=4, rope="halves")),
        (job("finetune", encoder=RELATIVE), job("conmim")),
        (job("conmim"), job("simmim")),
        (job("gmml"), job("mae")),
        (job("gmml"), job("simmim", plain=True)),
        (job("relvit"), job("relvit")),
    ],
)
def test_what_fits_goes_on(begun, other):
    assert not encoder_misfits(begun, other, "/x")


def test_of_a_plug_in_that_does_not_say_its_kind_nothing_is_known():
    plug_in = job("gmml").model_copy(update={"method": SimpleNamespace(name="theirs")})
    assert not encoder_misfits(plug_in, job("capi"), "/x")
    assert not encoder_misfits(job("mae"), plug_in, "/x")
