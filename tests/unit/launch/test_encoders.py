"""What is known without torch of each method's encoder, and what a classifier says of the one that it begins from."""

import pytest

from gmml_cluster.launch.encoders import encoder_misfits, switches_of
from gmml_cluster.methods.build import blank
from gmml_cluster.methods.protocol import Setting, exported_name
from gmml_cluster.models.vit import VisionTransformer
from gmml_cluster.spec.loading.validate import parse_job
from gmml_cluster.spec.methods.plugins import BUILT_IN

AUGMENT = {"conmim": "conmim"}
CLASSIFIERS = ("supervised", "finetune", "linear", "attentive")
OPTIONS = {"gmml": {"taps": [1, 2]}, "attentive": {"queries": 8}}
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
    ],
)
def test_a_methods_encoder_is_what_is_said_of_it(name, options):
    one = job(name, **options)
    method = blank(Setting.of(one))
    encoder = method.module.get_submodule(exported_name(method))
    said = switches_of(one.method)
    if said is None:
        assert not isinstance(encoder, VisionTransformer)
        return
    state = dict(encoder.named_parameters())
    built = {
        "positions": "relative" if encoder.rel_pos_bias else "none" if encoder.pos_embed is None else "learned",
        "class_token": encoder.cls_token is not None,
        "key_bias": "blocks.0.attn.qkv.bias" in state,
        "layer_scale": "blocks.0.gamma_1" in state,
    }
    assert {"positions": "learned", "class_token": True, "key_bias": True, "layer_scale": False, **said} == built


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
            "init.run: /x has an encoder of capi, from whose blocks finetune cannot be built",
        ),
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
        (job("gmml"), job("ijepa")),
    ],
)
def test_what_fits_and_what_is_not_known_here_goes_on(begun, other):
    assert not encoder_misfits(begun, other, "/x")
