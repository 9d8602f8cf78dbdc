"""Small real corpora: scikit-learn's digits in tars, and the photographs beside the repository."""

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from sklearn.datasets import load_digits

from gmml_cluster.data.corpus import listing
from gmml_cluster.store.posix import PosixStore
from gmml_cluster.store.protocol import Stat

DATA = Path(__file__).resolve().parents[3].parent / "shared" / "data"
needs_photos = pytest.mark.skipif(not (DATA / "photos").is_dir(), reason="no ../shared/data/photos")


def png(pixels):
    held = io.BytesIO()
    Image.fromarray(pixels).save(held, "PNG")
    return held.getvalue()


def write_tar(path, members):
    """A tar of (name, bytes)."""
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


@pytest.fixture(scope="session")
def digits():
    """(grey uint8 (8, 8) scaled to 0..255, class) of every digit."""
    found = load_digits()
    images = (found.images * 15.9).astype(np.uint8)
    return list(zip(images, found.target.tolist(), strict=True))


def write_digits(folder, digits, count):
    """So many digits as PNGs in two folders of classes, and a file that is no image."""
    for y in range(count):
        of_class = folder / f"class{y % 2}"
        of_class.mkdir(parents=True, exist_ok=True)
        (of_class / f"{y}.png").write_bytes(png(digits[y][0]))
    (folder / "class0" / "text.jpg").write_bytes(b"no image")
    return folder


@pytest.fixture
def digit_shards(tmp_path, digits):
    """A folder of shards of 5, 0, 17 and 1 digits, 23 in all."""
    folder, first = tmp_path / "digits", 0
    folder.mkdir()
    for number, count in enumerate([5, 0, 17, 1]):
        members = []
        for y in range(first, first + count):
            image, label = digits[y]
            members += [(f"d{y:04d}.png", png(image)), (f"d{y:04d}.cls", str(label).encode())]
        write_tar(folder / f"train-{number:03d}.tar", members)
        first += count
    return folder


class CountingStore:
    """A folder's store that calls itself a bucket, counts reads, and spoils the answers that a test asks it to."""

    def __init__(self, url, folder):
        self.inner, self.url = PosixStore(folder), url
        self.reads, self.spoil, self.version = [], 0, "etag"

    def get(self, name, start=0, length=None):
        data = self.inner.get(name, start, length)
        if name.endswith(".tar"):
            self.reads.append((name, start, length))
            if self.spoil:
                self.spoil -= 1
                return bytes(len(data))
        return data

    def stat(self, name):
        return Stat(name, self.inner.stat(name).size, self.version)

    def list_objects(self, prefix=""):
        return [self.stat(found.name) for found in self.inner.list_objects(prefix)]

    def __getattr__(self, name):
        return getattr(self.inner, name)


@pytest.fixture
def bucket(digit_shards, monkeypatch):
    """The digits' shards at s3://bucket/digits."""
    store = CountingStore("s3://bucket/digits", digit_shards)
    monkeypatch.setattr(listing, "open_store", lambda url: store if url.startswith("s3://") else PosixStore(url))
    listing.store_of.cache_clear()
    yield store
    listing.store_of.cache_clear()
