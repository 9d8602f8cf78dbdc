"""AMT's maps against the reference case, and against numpy that shares no code with them, image by image."""

import math

import numpy as np
import pytest
import torch
from PIL import Image

from gmml_cluster.data.reader.map_crop import crop_maps, crop_sums
from gmml_cluster.methods.build import blank
from gmml_cluster.methods.reference import _setting
from gmml_cluster.models.attention_map import attention_map, map_bytes
from gmml_cluster.models.vit import VisionTransformer
from tests.golden.test_methods import MAE, images, state

BYTES = [26, 115, 62, 18, 35, 43, 95, 197, 74, 184, 140, 66, 79, 128, 22, 120]


def encoder_of(spec, dtype=torch.float64):
    module = blank(_setting(spec)).module.encoder
    module.load_state_dict(
        {
            name.removeprefix("encoder."): torch.tensor(value, dtype=dtype)
            for name, value in state(spec).items()
            if name.startswith("encoder.")
        },
        assign=True,
    )
    return module.to(dtype).eval()


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-8), (torch.float32, 5e-6)])
def test_the_map_of_the_reference_case(dtype, tolerance):
    found = attention_map(encoder_of(MAE, dtype), torch.tensor(images(1)[:, 0], dtype=dtype))
    assert found.dtype == dtype
    assert found[0, :4].tolist() == pytest.approx([0.098827340, 0.450056785, 0.241479811, 0.066491987], abs=tolerance)
    assert float(found.sum()) == pytest.approx(40.426761198, abs=100 * tolerance)
    assert map_bytes(found)[0].tolist() == BYTES


def test_half_precision_around_it_leaves_the_last_row_in_full():
    encoder, given = encoder_of(MAE, torch.float32), torch.tensor(images(1)[:, 0], dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = attention_map(encoder, given)
    assert rounded.dtype == torch.float32
    assert (rounded - attention_map(encoder, given)).abs().max() < 0.1


def layer_norm(x, norm):
    centred = x - x.mean(-1, keepdims=True)
    return centred / np.sqrt((centred**2).mean(-1, keepdims=True) + norm.eps) * norm.weight.numpy() + norm.bias.numpy()


def softmax(x):
    powers = np.exp(x - x.max(-1, keepdims=True))
    return powers / powers.sum(-1, keepdims=True)


def map_by_numpy(encoder, image):
    """One image's map from the formulas: a loop over heads, without the encoder's own functions."""
    p, grid = encoder.patch_size, encoder.grid
    kernel = encoder.patch_embed.proj.weight.numpy()
    x = np.array(
        [
            [(kernel[d] * image[:, r * p : r * p + p, c * p : c * p + p]).sum() for d in range(len(kernel))]
            for r in range(grid)
            for c in range(grid)
        ]
    )
    x = np.concatenate([encoder.cls_token.numpy()[0], x + encoder.patch_embed.proj.bias.numpy()])
    if encoder.pos_embed is not None:
        x = x + encoder.pos_embed.numpy()[0]
    for number, block in enumerate(encoder.blocks):
        normed, attention = layer_norm(x, block.norm1), block.attn
        weight, width = attention.qkv.weight.numpy(), x.shape[1]
        q, k, v = (normed @ weight[at * width : (at + 1) * width].T for at in range(3))
        if attention.key_bias:
            q, k, v = (part + attention.qkv.bias.numpy()[at * width :][:width] for at, part in enumerate((q, k, v)))
        else:
            q, v = q + attention.q_bias.numpy(), v + attention.v_bias.numpy()
        d = width // attention.heads
        heads = [slice(h * d, h * d + d) for h in range(attention.heads)]
        logits = [q[:, head] @ k[:, head].T / math.sqrt(d) for head in heads]
        if encoder.rel_pos_bias is not None:
            logits = [each + bias_of_head(encoder, h) for h, each in enumerate(logits)]
        if number == len(encoder.blocks) - 1:
            rows = [softmax(each)[0, 1:] for each in logits]
            rows = [(row - row.min()) / (row.max() - row.min()) for row in rows]
            assert all(row.min() == 0 and row.max() == 1 for row in rows)
            return np.mean(rows, 0)
        seen = np.concatenate([softmax(each) @ v[:, head] for each, head in zip(logits, heads, strict=True)], 1)
        gammas = (block.gamma_1.numpy(), block.gamma_2.numpy()) if block.layer_scale else (1, 1)
        x = x + gammas[0] * (seen @ attention.proj.weight.numpy().T + attention.proj.bias.numpy())
        hidden = layer_norm(x, block.norm2) @ block.mlp.fc1.weight.numpy().T + block.mlp.fc1.bias.numpy()
        hidden = hidden * (1 + np.vectorize(math.erf)(hidden / math.sqrt(2))) / 2
        x = x + gammas[1] * (hidden @ block.mlp.fc2.weight.numpy().T + block.mlp.fc2.bias.numpy())
    raise AssertionError


def bias_of_head(encoder, h):
    table, g = encoder.rel_pos_bias.relative_position_bias_table.numpy()[:, h], encoder.grid
    size = 1 + g * g
    bias = np.empty((size, size))
    for i in range(size):
        for j in range(size):
            (r, c), (s, t) = divmod(i - 1, g), divmod(j - 1, g)
            row = (r - s + g - 1) * (2 * g - 1) + c - t + g - 1
            bias[i, j] = table[-1 if i == j == 0 else -3 if i == 0 else -2 if j == 0 else row]
    return bias


@pytest.mark.parametrize(
    ("positions", "depth", "heads", "plain"),
    [("learned", 2, 3, True), ("sincos", 1, 1, True), ("relative", 3, 2, False), ("none", 2, 2, False)],
)
def test_maps_of_all_kinds_of_encoders_are_those_of_the_formulas(positions, depth, heads, plain):
    generator = np.random.default_rng(depth)
    encoder = VisionTransformer(
        width=12, depth=depth, heads=heads, patch_size=2, image_size=6, positions=positions, key_bias=plain,
        layer_scale=not plain,
    ).double().eval()  # fmt: skip
    encoder.requires_grad_(False)
    for value in encoder.parameters():
        value.copy_(torch.tensor(generator.normal(size=value.shape) * 0.5))
    given = generator.normal(size=(2, 3, 6, 6))
    found = attention_map(encoder, torch.tensor(given)).numpy()
    expected = np.stack([map_by_numpy(encoder, image) for image in given])
    assert np.abs(found - expected).max() < 1e-12


def test_a_head_that_looks_everywhere_alike_has_ones():
    encoder = encoder_of(MAE)
    with torch.no_grad():
        encoder.blocks[-1].attn.qkv.weight[:16] = 0
        encoder.blocks[-1].attn.qkv.bias[:16] = 0
    found = attention_map(encoder, torch.tensor(images(1)[:, 0]))
    assert found.isfinite().all()
    assert (found >= 0.5).all(), "half of it is the head without queries"


def test_bytes_are_never_zero():
    assert map_bytes(torch.tensor([0.0, 0.0019, 0.002, 0.5, 0.999, 1.0])).tolist() == [1, 1, 2, 128, 255, 255]


def test_the_crop_of_the_reference_case():
    r, c = np.ogrid[:4, :4]
    cells = (5 * (4 * r + c)) % 16 + 1
    boxes, sides = np.array([[[30, 100, 200, 300]]]), np.array([[375, 500]])
    sums, whole = crop_sums(cells[None], boxes, sides, alignment="exact", patch_size=4)
    found = (sums / whole)[0, 0] / 16
    assert found[0].tolist() == pytest.approx([0.270833333, 0.375, 0.6875, 0.791666667], abs=1e-9)
    assert found[3].tolist() == pytest.approx([0.733333333, 0.8375, 0.3, 0.354166667], abs=1e-9)


def test_exact_crops_are_means_over_areas():
    """Against a fine raster: each patch of a view averages the cells that lie under its sample points."""
    generator = np.random.default_rng(3)
    for M in (3, 7, 14):
        cells = generator.integers(1, 256, (1, M, M))
        H, W = (int(side) for side in generator.integers(40, 400, 2))
        h, w = int(generator.integers(1, H + 1)), int(generator.integers(1, W + 1))
        i, j = int(generator.integers(0, H - h + 1)), int(generator.integers(0, W - w + 1))
        box, sides = np.array([[[i, j, h, w]]]), np.array([[H, W]])
        fine = 400
        offsets = (np.arange(M * fine) + 0.5) / (M * fine)
        rows, columns = ((M * (i + h * offsets)) / H).astype(int), ((M * (j + w * offsets)) / W).astype(int)
        expected = cells[0][rows][:, columns].reshape(M, fine, M, fine).mean((1, 3))
        sums, whole = crop_sums(cells, box, sides, alignment="exact", patch_size=16)
        assert np.abs(sums / whole - expected).max() < 0.6
        assert np.array_equal(whole[0, 0], np.full((M, M), h * w))
        found = crop_maps(cells, box, sides, alignment="exact", patch_size=16)
        assert np.array_equal(found, np.floor(sums / whole + 0.5))


def test_the_whole_image_keeps_its_map_and_a_hot_cell_lands_in_the_middle():
    cells = np.arange(1, 197).reshape(1, 14, 14)
    whole = crop_maps(cells, np.array([[[0, 0, 300, 420]]]), np.array([[300, 420]]), alignment="exact", patch_size=16)
    assert np.array_equal(whole[0, 0], cells[0])
    hot = np.ones((1, 14, 14), int)
    hot[0, 9, 3] = 255
    box = np.array([[[14 * 9 + 7 - 70, 0, 140, 98]]])  # cells of 14 pixels
    found = crop_maps(hot, box, np.array([[196, 196]]), alignment="exact", patch_size=16)[0, 0]
    row, column = np.unravel_index(found.argmax(), found.shape)
    assert row in (6, 7)
    assert column in (6, 7)


def test_released_crops_read_the_first_corner_as_a_resize_library_does():
    generator = np.random.default_rng(5)
    cells = generator.integers(1, 256, (1, 14, 14))
    for box, rows, columns in [
        ([30, 100, 200, 300], 2, 2),
        ([175, 100, 200, 300], 3, 2),
        ([0, 200, 374, 300], 2, 3),
        ([0, 0, 375, 500], 3, 3),
    ]:
        corner = Image.fromarray(cells[0, :rows, :columns].astype(np.float32))
        expected = np.asarray(corner.resize((224, 224), Image.Resampling.BILINEAR)).reshape(14, 16, 14, 16).mean((1, 3))
        found = crop_maps(cells, np.array([[box]]), np.array([[375, 500]]), alignment="released", patch_size=16)
        assert np.abs(found[0, 0] - expected).max() < 0.51, box
