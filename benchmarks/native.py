"""What C gains in decoding and cropping: `python -m benchmarks.native`.

CPU seconds of this thread an image, from bytes to a view: with OpenCV alone; with the package in `native/`, which
resizes; and with only the region of a JPEG decoded that its crop shows (`region.c`), all its data read, so that damage
anywhere is found, or stopping below the crop. Both are compiled here; the latter needs libjpeg-turbo's headers. Every
view is compared with that of OpenCV alone. PNGs are decoded by OpenCV and, to compare, by Pillow.
"""

import argparse
import ctypes
import importlib.util
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import simplejpeg
from numpy.typing import NDArray

from benchmarks.reading import BATCH, CORPORA, DATA, Corpus, boxes_of
from benchmarks.rows import interleaved
from gmml_cluster.data.corpus.pin import pin
from gmml_cluster.data.random.philox import Ints
from gmml_cluster.data.reader import crop, decode
from gmml_cluster.data.reader.decode import Pixels, decode_noting
from gmml_cluster.data.reader.fetch import Fetcher, Wanted
from gmml_cluster.data.reader.views import PixelMemory
from gmml_cluster.spec.job import CorpusSpec

_COLUMNS = "| images | variant | us an image, median (least to most) | over OpenCV alone |\n|---|---|---|---:|"
_PLAIN = ("YCbCr", "Gray", "RGB")
View = Callable[[bytes, Ints, Pixels], None]
"""Makes the view of a box of an encoded image."""


def main() -> None:
    """Print a row for each corpus and variant."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DATA, help="folder with expand.py, which writes the shards")
    parser.add_argument("--only", nargs="+", default=[corpus.name for corpus in CORPORA], help="corpora")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=2 * BATCH)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        variants = Variants(Path(folder))
        subprocess.run([sys.executable, given.data / "expand.py", folder], check=True, stdout=sys.stderr)
        print(_COLUMNS)
        for corpus in CORPORA:
            if corpus.name in given.only:
                measure(corpus, folder, variants, given)


def measure(corpus: Corpus, folder: str, variants: "Variants", given: argparse.Namespace) -> None:
    """Compare the views of all variants and print their rows."""
    pinned = pin([CorpusSpec(url=f"{folder}/{corpus.shards}")])
    some = [Wanted(0, y) for y in range(min(given.images, pinned.shapes[0].samples))]
    encoded = [bytes(data) for data in Fetcher(pinned).fetch(some)]
    named: dict[str, View] = {"OpenCV alone": variants.opencv, "resized in C": variants.native}
    if encoded[0][:2] == b"\xff\xd8":
        encoded = [data for data in encoded if simplejpeg.decode_jpeg_header(data)[2] in _PLAIN]
        named |= {"region": variants.region, "region, stopping below it": variants.region_stopped}
        named["region, resized in C"] = variants.region_native
    else:
        named["decoded by Pillow"] = variants.pillow
    boxes, shape = boxes_of(encoded), (3, corpus.size, corpus.size)
    for data, box in zip(encoded, boxes, strict=True):
        expected = view_of(variants.opencv, data, box, shape)
        for name, view in named.items():
            assert np.array_equal(view_of(view, data, box, shape), expected), f"{name} gives other pixels"
    found = interleaved({name: timed(view, encoded, boxes, shape) for name, view in named.items()}, given.rounds)
    for name, seconds in found.items():
        low, middle, high = (1e6 * value for value in (min(seconds), statistics.median(seconds), max(seconds)))
        over = statistics.median([one / base for one, base in zip(seconds, found["OpenCV alone"], strict=True)])
        print(f"| {corpus.name}, {corpus.size} px | {name} | {middle:.0f} ({low:.0f} to {high:.0f}) | {over:.2f} |")


def view_of(view: View, data: bytes, box: Ints, shape: tuple[int, ...]) -> Pixels:
    """The view of one image."""
    out = np.empty(shape, np.uint8)
    view(data, box, out)
    return out


def timed(view: View, encoded: Sequence[bytes], boxes: Ints, shape: tuple[int, ...]) -> Callable[[], float]:
    """Measures CPU seconds an image."""
    out = np.empty(shape, np.uint8)

    def run() -> float:
        began = time.thread_time()
        for data, box in zip(encoded, boxes, strict=True):
            view(data, box, out)
        return (time.thread_time() - began) / len(encoded)

    return run


class Variants:
    """The ways from bytes to a view; compiles what is in C.

    Args:
        folder: for the compiled libraries.
    """

    def __init__(self, folder: Path) -> None:
        root, include = Path(__file__).parent, f"-I{sysconfig.get_path('include')}"
        native = _compiled(folder / "gmml_native.so", root.parent / "native" / "gmml_native.c", include, "-lm")
        spec = importlib.util.spec_from_file_location("gmml_native", native)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        self._native, self._scratch, self._got = module.cubic_planes, PixelMemory(), (ctypes.c_int * 2)()
        self._decode = ctypes.CDLL(str(_compiled(folder / "region.so", root / "region.c", "-ljpeg"))).decode_region
        pointer, number = ctypes.c_void_p, ctypes.c_int
        self._decode.argtypes = [ctypes.c_char_p, ctypes.c_ulong, pointer, number, pointer, pointer]

    def opencv(self, data: bytes, box: Ints, view_3SS: Pixels) -> None:
        """The reader where `native/` is not installed."""
        self._resize(decode_noting(data, 10**8, self._scratch).pixels, box, view_3SS)

    def native(self, data: bytes, box: Ints, view_3SS: Pixels) -> None:
        """The reader where it is."""
        self._resize(decode_noting(data, 10**8, self._scratch).pixels, box, view_3SS, self._native)

    def pillow(self, data: bytes, box: Ints, view_3SS: Pixels) -> None:
        """The reader without `native/`, a PNG decoded by Pillow."""
        self._resize(decode._decode_by_pillow(data, 10**8), box, view_3SS)

    def region(self, data: bytes, box: Ints, view_3SS: Pixels) -> None:
        """The region alone, all data read."""
        self._resize(*self._region(data, box, whole=True), view_3SS)

    def region_stopped(self, data: bytes, box: Ints, view_3SS: Pixels) -> None:
        """The region alone, no data below it read: damage there would not be found."""
        self._resize(*self._region(data, box, whole=False), view_3SS)

    def region_native(self, data: bytes, box: Ints, view_3SS: Pixels) -> None:
        """The region alone, all data read, and resized in C."""
        self._resize(*self._region(data, box, whole=True), view_3SS, self._native)

    @staticmethod
    def _resize(image: Pixels, box: Ints, view_3SS: Pixels, native: Callable[..., None] | None = None) -> None:
        crop.native_cubic = lambda: native  # type: ignore[assignment]
        crop.resize(image, box.tolist(), view_3SS)

    def _region(self, data: bytes, box: Ints, *, whole: bool) -> tuple[Pixels, Ints]:
        """The rows of the box, some columns more, and where the box lies in them."""
        height, width, _, _ = simplejpeg.decode_jpeg_header(data)
        buffer, numbers = self._scratch(3 * (height + 1) * width), box.astype(np.int32)
        failed = self._decode(data, len(data), numbers.ctypes.data, whole, buffer.ctypes.data, self._got)
        assert not failed
        wide, first = self._got
        rows: NDArray[np.uint8] = buffer[: 3 * wide * int(box[2])].reshape(int(box[2]), wide, 3)
        return rows, np.array([0, box[1] - first, box[2], box[3]])


def _compiled(library: Path, source: Path, *flags: str) -> Path:
    command = ["cc", "-O3", "-ffp-contract=off", "-shared", "-fPIC", "-o", library, source, *flags]
    subprocess.run(command, check=True)
    return library


if __name__ == "__main__":
    main()
