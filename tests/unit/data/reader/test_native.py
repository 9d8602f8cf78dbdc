"""The optional package in `native/`: OpenCV's bits, and nothing is lost where it is not installed."""

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
    ours, opencvs = np.empty((2, size, size, 3), np.uint8)
    native.resize_cubic(IMAGE, 140, top, left, height, width, ours, size)
    cv2.ipp.setUseIPP(False)
    cv2.resize(IMAGE[top : top + height, left : left + width], (size, size), opencvs, interpolation=cv2.INTER_CUBIC)
    assert np.array_equal(ours, opencvs)


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
    view = np.empty((8, 8, 3), np.uint8)
    *box, size = (right[name] for name in ("whole", "top", "left", "height", "width", "size"))
    with pytest.raises(ValueError, match="the box leaves the image"):
        native.resize_cubic(IMAGE, *box, view, size)


@pytest.fixture
def chosen(monkeypatch):
    """Chooses anew what resizes, with the module that it is given in the place of the package."""

    def choose(module):
        monkeypatch.setitem(sys.modules, "gmml_native", module)
        native_cubic.cache_clear()
        return native_cubic()

    yield choose
    native_cubic.cache_clear()


BOXES = [(0, 0, 130, 140), (3, 5, 20, 30), (1, 2, 129, 20), (7, 0, 24, 24)]


def views(size):
    found = np.empty((len(BOXES), size, size, 3), np.uint8)
    for box, view in zip(BOXES, found, strict=True):
        resize(IMAGE, np.array(box), view)
    return found


@pytest.mark.parametrize("size", [24, 60, 64, 30])
def test_views_are_the_same_with_it_and_without(native, chosen, size):
    assert chosen(None) is None  # None in sys.modules: an import fails
    without = views(size)
    calls = []
    counting = SimpleNamespace(resize_cubic=lambda *given: calls.append(given) or native.resize_cubic(*given))
    assert chosen(counting) is not None
    calls.clear()
    assert np.array_equal(views(size), without)
    assert bool(calls) == (size % 8 == 0)


def test_it_is_not_used_where_it_gives_other_pixels(native, chosen, caplog):
    def off_by_one(*given):
        native.resize_cubic(*given)
        given[6][0, 0, 0] ^= 1

    assert chosen(SimpleNamespace(resize_cubic=off_by_one)) is None
    assert "other pixels than OpenCV" in caplog.text
    assert crop.native_cubic() is None
