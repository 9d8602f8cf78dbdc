import numpy as np
import pytest

from gmml_cluster.data.eval_reader import Samples
from gmml_cluster.errors import SpecError
from gmml_cluster.evaluate.demo import digits as demo
from gmml_cluster.evaluate.demo.digits import pack_digits, split


@pytest.fixture(scope="module")
def packed(digits, tmp_path_factory):
    folder = tmp_path_factory.mktemp("packed")
    return folder, pack_digits(folder)


def test_digits_are_16_wide_and_reach_from_black_to_white(digits):
    assert digits.images.shape == (1797, 16, 16)
    assert (digits.images.min(), digits.images.max()) == (0, 255)
    assert sorted(set(digits.labels.tolist())) == list(range(10))


def test_enlarging_keeps_the_mean_of_each_digit(digits):
    from sklearn.datasets import load_digits

    small = load_digits().images / 16
    np.testing.assert_allclose(digits.images.mean((1, 2)) / 255, small.mean((1, 2)), atol=2e-3)


def test_packed_digits_come_back_with_their_labels(digits, packed):
    folder, made = packed
    assert (made["train"].samples, made["test"].samples) == (1297, 500)
    for name, part in split(digits).items():
        samples = Samples(str(folder / name / "*.tar"))
        images, labels, members = samples.images(range(50)), samples.labels(), samples.names(range(len(samples)))
        for image, label, member in zip(images, labels[:50], members[:50], strict=True):
            index = int(member.split("-")[1].split(".")[0])
            assert (image == part.images[index][:, :, None]).all()
            assert label == part.labels[index]
        assert len(set(members)) == len(samples)


def test_the_split_is_fixed_stratified_and_leaves_nothing_out(digits):
    parts, again = split(digits), split(digits)
    assert all((parts[name].images == again[name].images).all() for name in parts)
    together = np.concatenate([parts["train"].images, parts["test"].images]).reshape(1797, -1)
    whole = digits.images.reshape(1797, -1)
    assert sorted(map(bytes, together)) == sorted(map(bytes, whole))
    assert np.bincount(parts["test"].labels).tolist() == pytest.approx([50] * 10, abs=2.1)


def test_the_job_normalises_by_what_the_packer_measured(packed):
    from pathlib import Path

    from gmml_cluster.spec.loading.validate import load_job

    found = packed[1]["train"]
    normalise = load_job(Path(demo.__file__).parents[3] / "jobs" / "quickstart.yaml").data.normalise
    np.testing.assert_allclose(found.mean, normalise.mean, atol=1e-4)
    np.testing.assert_allclose(found.std, normalise.std, atol=1e-4)


def test_packing_over_something_is_refused(tmp_path):
    (tmp_path / "train").mkdir()
    (tmp_path / "train" / "mine.txt").write_text("")
    with pytest.raises(SpecError, match="not empty"):
        pack_digits(tmp_path)
