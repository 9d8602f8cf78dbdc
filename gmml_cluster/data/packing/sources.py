"""Finding the images at a URL: folders of images, tar shards, compressed ones, or parquet files."""

import os
from collections.abc import Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory

from gmml_cluster.data.corpus.foreign import ARCHIVE_SUFFIXES, PARQUET_SUFFIX, explain
from gmml_cluster.data.corpus.listing import SHARD_SUFFIX, ShardFile, list_files
from gmml_cluster.data.corpus.tar import IMAGE_EXTENSIONS
from gmml_cluster.data.packing.folders import is_image, read_folder, walk
from gmml_cluster.data.packing.shards import Shards
from gmml_cluster.data.packing.source import ImageSource, Listing
from gmml_cluster.data.workers import InProcess
from gmml_cluster.errors import DataError, Fault, SpecError
from gmml_cluster.store.open import scheme_of
from gmml_cluster.wording import counted

_IMAGES_END_IN = ", ".join(f".{extension}" for extension in IMAGE_EXTENSIONS)
_PACKABLE = (SHARD_SUFFIX, *ARCHIVE_SUFFIXES, PARQUET_SUFFIX)
_EXPLAINED = 10_000


def list_source(url: str, image: str | None = None, masks: str | None = None) -> Listing:
    """The files at a URL: of a folder that holds image files, else of its shards or parquet files.

    Args:
        url: a folder of images, or shards (also compressed) or parquet files as a job names them.
        image: field, or column, that holds the images of shards or parquet files.
        masks: folder of the masks of a folder's images.

    Raises:
        DataError: nothing is found, or several kinds together; a file cannot be read; an image has no mask.
        SpecError: no store has the URL's scheme, or masks are given that are in no folder, or beside shards.
        StorageError: a store does not answer.
    """
    if masks is not None and scheme_of(masks) != "file":
        raise SpecError(Fault("--masks", f"{masks} is no folder; masks are read from one", "copy them to a folder"))
    folder = _path(url)
    in_folder = scheme_of(url) == "file" and folder.is_dir()
    if not in_folder or next(filter(is_image, walk(folder)), None) is None:
        if masks is not None:
            raise SpecError(Fault(url, "is no folder of images; shards have their masks inside", "leave --masks out"))
        packable = not in_folder or any(name.endswith(_PACKABLE) for name in walk(folder))
        if not packable:
            raise DataError(_nothing(url, folder))
        return _of_files(url, list_files(url, _PACKABLE), image)
    return read_folder(folder, None if masks is None else _path(masks), _PACKABLE)


def find_source(url: str, image: str | None = None, masks: str | None = None) -> ImageSource:
    """The images at a URL, read in this process; archives and parquet files are unpacked into TMPDIR.

    Raises:
        GmmlError: as `list_source` and `Listing.read`.
    """
    listing = list_source(url, image, masks)
    if isinstance(listing, ImageSource):
        return listing
    scratch = TemporaryDirectory(prefix="gmml-unpacked-")
    return replace(listing.read(scratch.name, InProcess()), scratch=scratch)


def demand_apart(source: str, destination: str) -> None:
    """Refuse a destination inside a source folder: packing again would pack the shards as well.

    Raises:
        SpecError: it is inside, or no store has one of the URLs' schemes.
    """
    if scheme_of(source) != scheme_of(destination):
        return
    inner, outer = (_resolved(url) for url in (destination, source))
    if inner.startswith(f"{outer}/"):
        what = f"lies inside the source {source}, whose files would be packed again with it the next time"
        raise SpecError(Fault(destination, what, "name a folder beside the source"))


def _path(url: str) -> Path:
    return Path(os.path.abspath(os.path.expanduser(url.removeprefix("file://"))))


def _resolved(url: str) -> str:
    return url.rstrip("/") if scheme_of(url) == "s3" else os.path.realpath(_path(url)).rstrip("/")


def _of_files(url: str, files: Sequence[ShardFile], image: str | None) -> Shards:
    kinds = ((SHARD_SUFFIX,), ARCHIVE_SUFFIXES, (PARQUET_SUFFIX,))
    found = [suffixes for suffixes in kinds if any(file.name.endswith(suffixes) for file in files)]
    if len(found) > 1:
        first, second = (next(f.name for f in files if f.name.endswith(suffixes)) for suffixes in found[:2])
        what = f"holds {first} and {second}; a source is of one kind"
        raise DataError(Fault(url, what, "name one kind by a pattern such as '*.tar'"))
    return Shards(url, tuple(files), image, found[0])


def _nothing(url: str, folder: Path) -> Fault:
    rule = f"images end in {_IMAGES_END_IN}, shards in {SHARD_SUFFIX}"
    what = f"neither images nor shards among {counted(sum(1 for _ in walk(folder)), 'file')}; {rule}"
    return Fault(url, what, explain(islice(walk(folder), _EXPLAINED)) or "check the source")
