"""What differs between two checkpoints is found to the bit and named."""

import math

import pytest
import torch

from gmml_cluster.train.checkpoints.compare import compare
from gmml_cluster.train.checkpoints.read import CheckpointReader
from tests.unit.train.checkpoints.test_save import cut, save


def tensors():
    generator = torch.Generator().manual_seed(0)
    return {name: torch.randn(shape, generator=generator) for name, shape in (("b", (3, 5)), ("a", (7,)))}


@pytest.fixture
def found(tmp_path):
    """What is found of two sets of tensors, saved by different ranks."""

    def compared(one, other, **state):
        saved = [
            save(tmp_path / str(index), cut(given, edges, len(edges) + 1), state=values)
            for index, (given, edges, values) in enumerate([(one, [4], None), (other, [], state or None)])
        ]
        return compare(*(CheckpointReader(store, each.folder, each.manifest_sha256) for store, each in saved))

    return compared


def test_equal_tensors_are_equal_however_they_were_cut(found):
    one = found(tensors(), tensors())
    assert one == {"tensors": 4, "differing": 0, "first": None, "state": {}, "missing": []}


def test_one_bit_of_one_weight_is_found_with_its_tensor_its_checksums_and_its_size(found):
    other = tensors()
    before = float(other["a"][3])
    other["a"][3] = 2 * before  # one bit of the exponent
    one = found(tensors(), other)
    assert one["differing"] == 2  # the moment of the stand-in is the negative weight
    first = one["first"]
    assert (first["tensor"], first["key"], first["elements"]) == ("a", "value", 1)
    assert first["greatest"] == pytest.approx(abs(before))
    assert first["crc32c"][0] != first["crc32c"][1]


def test_bits_are_compared_and_not_numbers(found):
    one, other = tensors(), tensors()
    one["b"][0, 0], other["b"][0, 0] = 0.0, -0.0
    one["a"][0] = other["a"][0] = math.nan
    assert found(one, other)["first"]["elements"] == 1


def test_a_tensor_of_one_side_another_shape_and_other_state_are_differences(found):
    other = {**tensors(), "c": torch.ones(1)}
    other["a"] = torch.ones(8)
    one = found(tensors(), other, adam_step=6, skipped_steps=[3])
    assert one["first"]["shapes"] == [[7], [8]]
    assert one["missing"] == ["c (exp_avg)", "c (value)"]
    assert one["state"] == {"adam_step": [5, 6]}
