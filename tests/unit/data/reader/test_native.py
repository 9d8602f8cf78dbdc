"""The optional package in `native/`: OpenCV's and numpy's bits, and nothing is lost where it is not installed."""

import importlib.util
import shlex
import subprocess
import sys
import sysconfig
import tomllib
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gmml_cluster.data.random import feistel
from gmml_cluster.data.random.feistel import native_permute, permutation_key, permute
from gmml_cluster.data.random.philox import Purpose
from gmml_cluster.data.reader import crop
from gmml_cluster.data.reader.crop import native_cubic, resize

SOURCE = Path(__file__).parents[4] / "native"
IMAGE = np.random.default_rng(2).integers(0, 256, (130, 140, 3), dtype=np.uint8)
IMAGE[::7] = 255
IMAGE[1::7] = 0


@pytest.fixture(scope="module")
def native(tmp_path_factory):
    """The extension, compiled here with the flags of its package."""
    (extension,) = tomllib.loads((SOURCE / "pyproject.toml").read_text())["tool"]["setuptools"]["ext-modules"]
    path = tmp_path_factory.mktemp("native") / "gmml_native.so"
    compiler = shlex.split(sysconfig.get_config_var("CC") or "cc")
    flags = [*extension["extra-compile-args"], "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC"]
    command = [*compiler, *flags, f"-I{sysconfig.get_path('include')}", SOURCE / "gmml_native.c", "-o", path, "-lm"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("no C compiler")
    if "Python.h" in done.stderr:
        pytest.skip("no Python.h")
    assert done.returncode == 0, done.stderr
    spec = importlib.util.spec_from_file_location("gmml_native", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@settings(max_examples=300, deadline=None)
@given(st.sampled_from([8, 16, 24, 48, 64]), st.data())
def test_any_box_gives_opencvs_bits(native, size, data):
    height, width = (data.draw(st.integers(1, min(2 * size - 1, side))) for side in IMAGE.shape[:2])
    top, left = data.draw(st.integers(0, 130 - height)), data.draw(st.integers(0, 140 - width))
    ours = np.empty((3, size, size), np.uint8)
    native.cubic_planes(IMAGE, 140, top, left, height, width, ours, size)
    cv2.ipp.setUseIPP(False)
    part = IMAGE[top : top + height, left : left + width]
    assert np.array_equal(ours.transpose(1, 2, 0), cv2.resize(part, (size, size), interpolation=cv2.INTER_CUBIC))


@pytest.mark.parametrize(
    "wrong",
    [
        {"top": -1},
        {"left": 131},
        {"height": 131},
        {"width": 0},
        {"whole": 141},
        {"size": 16},
        {"size": 0},
        {"width": 2**31 - 1},
    ],
)
def test_a_box_that_leaves_the_image_is_refused(native, wrong):
    right = {"whole": 140, "top": 0, "left": 0, "height": 10, "width": 10, "size": 8, **wrong}
    view = np.empty((3, 8, 8), np.uint8)
    *box, size = (right[name] for name in ("whole", "top", "left", "height", "width", "size"))
    with pytest.raises(ValueError, match="the box leaves the image"):
        native.cubic_planes(IMAGE, *box, view, size)


@pytest.fixture
def chosen(monkeypatch):
    """Chooses anew what resizes, with the module that it is given in the place of the package."""

    def choose(module):
        monkeypatch.setitem(sys.modules, "gmml_native", module)
        forget()
        return native_cubic()

    yield choose
    forget()


def forget():
    for function in (native_cubic, native_permute):
        function.cache_clear()


BOXES = [(0, 0, 130, 140), (3, 5, 20, 30), (1, 2, 129, 20), (7, 0, 24, 24)]


def views(size):
    found = np.empty((len(BOXES), 3, size, size), np.uint8)
    for box, view in zip(BOXES, found, strict=True):
        resize(IMAGE, box, view)
    return found


@pytest.mark.parametrize("size", [24, 60, 64, 30])
def test_views_are_the_same_with_it_and_without(native, chosen, size):
    assert chosen(None) is None  # None in sys.modules: an import fails
    without = views(size)
    calls = []
    counting = SimpleNamespace(cubic_planes=lambda *given: calls.append(given) or native.cubic_planes(*given))
    assert chosen(counting) is not None
    calls.clear()
    assert np.array_equal(views(size), without)
    assert bool(calls) == (size % 8 == 0)


def test_it_is_not_used_where_it_gives_other_pixels(native, chosen, caplog):
    def off_by_one(*given):
        native.cubic_planes(*given)
        given[6][0, 0, 0] ^= 1

    assert chosen(SimpleNamespace(cubic_planes=off_by_one)) is None
    assert "other pixels than OpenCV" in caplog.text
    assert crop.native_cubic() is None


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**32 - 1), st.lists(st.integers(1, 2**44), min_size=1, max_size=40), st.data())
def test_permutations_are_numpys(native, seed, sizes, data):
    positions = np.array([data.draw(st.integers(0, size - 1)) for size in sizes], np.int64)
    lanes, limits = np.arange(len(sizes)), np.array(sizes, np.uint64)
    key = permutation_key(seed, Purpose.LANE_WINDOW, (lanes, lanes, lanes % 3, lanes))
    items = positions.copy()
    native.permute(*key, limits, items)
    assert np.array_equal(items, feistel._in_parts(key, limits, positions))


def test_items_are_the_same_with_it_and_without(native, chosen):
    """One key for all positions, and more of them than numpy takes at once."""
    key = permutation_key(3, Purpose.SPANS, (np.zeros(1, np.int64),) * 4)
    positions = np.arange(10_000)
    chosen(None)
    without = permute(key, np.full_like(positions, 10_000), positions)
    assert np.array_equal(np.sort(without), positions)
    chosen(native)
    assert native_permute() is native.permute
    assert np.array_equal(permute(key, np.full_like(positions, 10_000), positions), without)


def test_one_that_permutes_otherwise_or_lacks_it_is_not_used(native, chosen, caplog):
    def off_by_one(*given):
        native.permute(*given)
        given[3][5] += 1

    chosen(SimpleNamespace(permute=off_by_one))
    assert native_permute() is None
    assert "permutes otherwise than numpy" in caplog.text
    assert chosen(SimpleNamespace()) is None
    assert native_permute() is None


@pytest.mark.parametrize(("size", "item"), [(5, 5), (5, -1), (0, 0), (2**53, 1)])
def test_a_position_outside_its_permutation_is_refused(native, size, item):
    one = np.ones(1, np.uint64)
    with pytest.raises(ValueError, match="outside its permutation"):
        native.permute(one, one, one * np.uint64(size), np.array([item]))
    with pytest.raises(ValueError, match="other lengths"):
        native.permute(one, one, np.ones(2, np.uint64), np.array([0]))
