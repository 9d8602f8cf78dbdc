"""Parameter, FLOP and activation counts against figures that were computed apart from the code."""

import pytest

from gmml_cluster.spec.job import Model
from gmml_cluster.spec.methods.counts import Stack, encoder_parameters
from gmml_cluster.spec.methods.gmml import GmmlOptions
from gmml_cluster.spec.methods.mae import MaeOptions

MIB = 2**20


def gmml(size, image_size=224, **options):
    return GmmlOptions(name="gmml", **options).counts(Model(size=size), image_size)


def mae(size):
    return MaeOptions(name="mae").counts(Model(size=size), 224)


@pytest.mark.parametrize(
    ("size", "encoder", "with_head"),
    [
        ("tiny", 5_524_416, 5_783_043),
        ("small", 21_665_664, 22_404_099),
        ("base", 85_798_656, 88_160_259),
        ("large", 303_301_632, 307_236_867),
        ("huge", 630_764_800, 636_436_483),
    ],
)
def test_parameters_of_encoder_and_gmml_are_exact(size, encoder, with_head):
    model = Model(size=size)
    assert encoder_parameters(model, (224 // model.patch_size) ** 2) == encoder
    assert gmml(size).trained == with_head
    assert gmml(size).frozen == 0


@pytest.mark.parametrize(
    ("size", "patch_size", "encoder"), [("tiny", 4, 5_360_832), ("tiny", 2, 5_390_784), ("small", 4, 21_338_496)]
)
def test_parameters_at_32_px_are_exact(size, patch_size, encoder):
    assert encoder_parameters(Model(size=size, patch_size=patch_size), (32 // patch_size) ** 2) == encoder


@pytest.mark.parametrize(
    ("size", "trained", "held"),
    [("small", 47_401_728, 47_578_240), ("base", 111_655_680, 111_907_840), ("large", 329_239_296, 329_541_888)],
)
def test_parameters_of_mae_are_exact(size, trained, held):
    assert mae(size).trained == trained
    assert mae(size).trained + mae(size).frozen == held


@pytest.mark.parametrize(
    ("size", "forward"), [("tiny", 2_506_982_400), ("small", 9_196_996_608), ("base", 35_126_120_448)]
)
def test_flops_of_the_encoder_are_what_torch_counts(size, forward):
    model = Model(size=size)
    projection = 6 * 196 * model.patch_size**2 * model.width
    assert Stack(model.depth, 197, model.width, model.heads).flops + projection == forward


@pytest.mark.parametrize(
    ("size", "gmml_forward", "gmml_step", "mae_step"),
    [
        ("tiny", 5.22, 15.65, 33.98),
        ("small", 18.97, 56.92, 39.03),
        ("base", 72.10, 216.31, 58.69),
        ("large", 249.30, 747.89, 124.54),
        ("huge", 674.98, 2024.94, 291.37),
    ],
)
def test_flops_of_a_step_are_those_of_the_table(size, gmml_forward, gmml_step, mae_step):
    assert gmml(size).forward_flops / 1e9 == pytest.approx(gmml_forward, abs=0.005)
    assert gmml(size).step_flops / 1e9 == pytest.approx(gmml_step, abs=0.005)
    assert mae(size).step_flops / 1e9 == pytest.approx(mae_step, abs=0.006)


def test_one_view_costs_half():
    one, two = gmml("small", views=1), gmml("small")
    assert two.forward_flops == 2 * one.forward_flops
    assert two.activation_bytes("fp32", checkpointing=False) == 2 * one.activation_bytes("fp32", checkpointing=False)


@pytest.mark.parametrize(
    ("size", "fp32", "autocast"),
    [
        ("tiny", 27.8, 15.6),
        ("small", 55.5, 31.3),
        ("base", 111.0, 62.5),
        ("large", 295.9, 166.6),
        ("huge", 643.1, 362.0),
    ],
)
def test_activations_of_the_trunk_are_those_of_the_table(size, fp32, autocast):
    (stack,) = gmml(size).stacks
    assert stack.activation_bytes("fp32", checkpointing=False) / MIB == pytest.approx(fp32, abs=0.05)
    assert stack.activation_bytes("bf16", checkpointing=False) / MIB == pytest.approx(autocast, abs=0.05)


@pytest.mark.parametrize(("width", "heads", "fp32", "autocast"), [(192, 3, 12_316, 6_940), (384, 6, 24_616, 13_864)])
def test_activations_of_a_block_and_token_are_those_measured(width, heads, fp32, autocast):
    stack = Stack(blocks=1, tokens=1, width=width, heads=heads)
    assert stack.activation_bytes("fp32", checkpointing=False) == fp32
    assert stack.activation_bytes("bf16", checkpointing=False) == autocast


def test_activations_of_all_of_gmml_tiny_are_those_measured():
    counts = gmml("tiny", views=1)
    inputs, one_block = 3 * 4 * 3 * 224**2, 197 * 12_316
    assert counts.activation_bytes("fp32", checkpointing=False) - inputs == 32_127_928
    assert counts.activation_bytes("fp32", checkpointing=True) - inputs - one_block == 4_828_456


def test_autocast_copies_24_bytes_of_a_blocks_squared_width():
    assert gmml("tiny").cast_bytes("bf16") == 12 * 24 * 192**2
    assert gmml("tiny").cast_bytes("fp32") == 0


def test_a_wider_mlp_counts_in_parameters_flops_and_activations():
    narrow, wide = (Stack(1, 10, 64, 2, ratio) for ratio in (4.0, 8.0))
    assert wide.parameters - narrow.parameters == 2 * 64 * 256 + 256
    assert wide.flops - narrow.flops == 2 * 10 * 2 * 64 * 256
    assert wide.activation_bytes("fp32", checkpointing=False) - narrow.activation_bytes(
        "fp32", checkpointing=False
    ) == (10 * 4 * 2 * 256)
