"""Images a second of the reader, from shards on this machine."""

import tempfile
import time
from pathlib import Path

from benchmarks.gpu_check.result import CannotRun, Result, Setting
from gmml_cluster.data.corpus.pin import pin
from gmml_cluster.data.reader.order import Order
from gmml_cluster.data.reader.stream import Stream
from gmml_cluster.plan.sample_layout import make_layout
from gmml_cluster.spec.job import CorpusSpec, Data
from gmml_cluster.store.posix import PosixStore

_BATCH, _VIEWS = 64, 2
_STEPS, _QUICK_STEPS = 60, 4
_AHEAD_STEPS = 8
"""Steps that are not timed: the stream has decoded three ahead before the first is asked for."""


def reading(variant: str, setting: Setting) -> Result:
    """Batches of two views each with so many decode threads, while nothing else is done."""
    threads = int(variant)
    with tempfile.TemporaryDirectory() as folder:
        photos = not setting.quick and any(setting.data.glob("*.tar"))
        url, size = (str(setting.data), 224) if photos else (_digits(Path(folder)), 32)
        pinned = pin([CorpusSpec(url=url)], PosixStore(f"{folder}/indexes"))
        layout = make_layout(
            seed=7, batch=_BATCH, group=8, lanes="auto", window="auto", spans="auto", corpora=pinned.shapes
        )
        data = Data.model_validate({"corpora": [{"url": url}], "image_size": size})
        stream = Stream(
            Order(layout), pinned, data, seed=7, views=_VIEWS, ranks=1, rank=0, first_step=0, threads=threads
        )
        try:
            rate = _rate(stream, _QUICK_STEPS if setting.quick else _STEPS)
        finally:
            stream.close()
    kind = "photographs" if photos else "digits"
    samples = pinned.shapes[0].samples
    return Result("ok", {"images_per_s": rate, "views": _VIEWS, "size": size, "corpus": f"{samples} {kind}"})


def _rate(stream: Stream, steps: int) -> float:
    for _ in range(_AHEAD_STEPS):
        stream.next()
    began = time.monotonic()
    images = sum(len(stream.next().numbers) for _ in range(steps))
    return images / (time.monotonic() - began)


def _digits(folder: Path) -> str:
    try:
        from gmml_cluster.evaluate.demo.digits import pack_digits
    except ImportError as missing:
        raise CannotRun(f"no photographs at --data, and no digits: {missing}") from missing
    pack_digits(folder / "digits")
    return f"{folder}/digits/train"
