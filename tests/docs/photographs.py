"""Folders of photographs as the tutorial begins with, of real ones: `python -m tests.docs.photographs DATA DST`.

DATA has tar shards `photos/*.tar` with ImageNet's class numbers; DST gets animals and things, each in two parts.
"""

import sys
import tarfile
from pathlib import Path

ANIMALS = 398
"""Classes of ImageNet-1k below this number are animals."""
HELD_OUT = 4
"""One photograph in so many is for the test."""


def write(data: Path, folder: Path) -> None:
    """Write the photographs that have a class as files, by part and class."""
    images, classes = {}, {}
    for shard in sorted((data / "photos").glob("*.tar")):
        with tarfile.open(shard) as tar:
            for member in tar:
                key, _, field = member.name.partition(".")
                content = tar.extractfile(member).read()
                if field == "cls":
                    classes[key] = int(content)
                else:
                    images[key] = (member.name, content)
    for number, key in enumerate(sorted(key for key in images if classes[key] >= 0)):
        name, content = images[key]
        kind = "animal" if classes[key] < ANIMALS else "thing"
        path = folder / ("test" if number % HELD_OUT == 0 else "train") / kind / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)


if __name__ == "__main__":
    write(Path(sys.argv[1]), Path(sys.argv[2]))
