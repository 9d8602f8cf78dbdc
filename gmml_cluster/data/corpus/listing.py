"""Shards of a corpus by its URL: braces, `*` and folders. Needs no numpy."""

import itertools
import os
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import lru_cache

from gmml_cluster.errors import DataError
from gmml_cluster.spec.braces import expand_braces
from gmml_cluster.store.open import open_store
from gmml_cluster.store.protocol import Stat, Store

SHARD_SUFFIX = ".tar"
INDEX_SUFFIX = ".index"
_STAR = r"(?!(?<![^/])\.)[^/]*"  # anything but hidden names, such as the folder in which a corpus is being packed


@dataclass(frozen=True)
class ShardFile:
    """A shard as its store lists it."""

    url: str
    """Folder or `s3://` URL with the name, absolute."""
    size: int
    """Bytes."""
    version: str
    """ETag, or a file's mtime in nanoseconds."""

    @property
    def name(self) -> str:
        """Name without its folder."""
        return split_url(self.url)[1]


def split_url(url: str) -> tuple[str, str]:
    """Folder and name of a URL."""
    folder, _, name = url.rpartition("/")
    return folder or "/", name


@lru_cache(maxsize=256)
def store_of(folder: str) -> Store:
    """The store at a folder, opened once in a process."""
    return open_store(folder)


def indexes_below(root: str) -> Store:
    """Where the runs of a root hold indexes that do not lie beside their shards."""
    return open_store(root).child(".corpora")


def list_shards(url: str) -> list[ShardFile]:
    """The shards of a corpus: braces in their order, each listing in the order of names.

    Args:
        url: a path or `s3://` URL of `.tar` files, with braces or `*`, or a folder, whose `.tar` files are taken at
            any depth. Files and folders whose names begin with a dot are left out unless they are named.

    Raises:
        DataError: a shard that is named does not exist, one is named twice, is a link to nothing, none is found, or
            shards may lie behind a link to a folder.
        StorageError: the store does not answer, or a folder of it cannot be read.
    """
    patterns = [_absolute(pattern) for pattern in _expanded(url)]
    plain = [pattern for pattern in patterns if "*" not in pattern and pattern.endswith(SHARD_SUFFIX)]
    known = {shard.url: shard for shard in stat_all(plain)}
    shards = [shard for pattern in patterns for shard in _match(url, pattern, known)]
    if not shards:
        raise DataError(f"{url}: no shards; a corpus has at least one {SHARD_SUFFIX} file; check the URL")
    urls = [shard.url for shard in shards]
    twice = next((name for name in urls if urls.count(name) > 1), None) if len(set(urls)) < len(urls) else None
    if twice is not None:
        raise DataError(f"{url}: names {twice} twice; each shard counts once; correct the pattern")
    return shards


def _expanded(url: str) -> list[str]:
    try:
        return expand_braces(url)
    except ValueError as error:
        raise DataError(f"{url}: {error}") from error


def _absolute(url: str) -> str:
    if "://" in url and not url.startswith("file://"):
        return url.rstrip("/")
    return os.path.abspath(os.path.expanduser(url.removeprefix("file://")))


def stat_all(urls: Iterable[str]) -> Iterator[ShardFile]:
    """Those of the shards that exist, by one listing of each folder.

    Raises:
        StorageError: a store does not answer.
    """
    by_folder = itertools.groupby(sorted(urls), key=lambda url: split_url(url)[0])
    for folder, members in by_folder:
        names = {split_url(url)[1] for url in members}
        for found in store_of(folder).list_objects(_common_beginning(min(names), max(names))):
            if found.name in names:
                yield _shard(folder, found)


def _common_beginning(least: str, greatest: str) -> str:
    pairs = enumerate(zip(least, greatest, strict=False))
    return least[: next((place for place, (a, b) in pairs if a != b), len(least))]


def _match(url: str, pattern: str, known: dict[str, ShardFile]) -> list[ShardFile]:
    if "*" in pattern:
        folder = split_url(pattern[: pattern.index("*")])[0]
        inside = pattern[len(folder.rstrip("/")) + 1 :]
        parts = inside.split("/")
        passed = "|".join(_starred("/".join(parts[:depth])) for depth in range(1, len(parts)))
        return _list(folder, inside.partition("*")[0], _starred(inside), passed)
    if not pattern.endswith(SHARD_SUFFIX):
        anything = f"(?:{_STAR}/)*{_STAR}"
        return _list(pattern, "", anything, anything)
    if pattern not in known:
        raise DataError(f"{url}: {pattern} does not exist; every shard that is named must; check the URL")
    return [known[pattern]]


def _starred(pattern: str) -> str:
    return _STAR.join(re.escape(part) for part in pattern.split("*"))


def _list(folder: str, prefix: str, wanted: str, passed: str) -> list[ShardFile]:
    """Shards whose names in the folder are wanted; folders on the way to them are passed."""
    listed = store_of(folder).list_objects(prefix)
    if "://" not in folder:
        _refuse_links(folder, re.compile(passed))
    return [
        _shard(folder, found)
        for found in listed
        if found.name.endswith(SHARD_SUFFIX) and re.fullmatch(wanted, found.name)
    ]


def _refuse_links(top: str, passed: re.Pattern[str]) -> None:
    for parent, folders, _ in os.walk(top):
        paths = {name: os.path.join(parent, name) for name in folders}
        folders[:] = [name for name, path in paths.items() if passed.fullmatch(os.path.relpath(path, top))]
        link = next((paths[name] for name in folders if os.path.islink(paths[name])), None)
        if link is not None:
            rule = "a corpus follows none below its folder, lest a shard count twice"
            raise DataError(f"{link}: is a link to a folder; {rule}; name it in the URL by braces, or move it away")


def _shard(folder: str, found: Stat) -> ShardFile:
    url = f"{folder.rstrip('/')}/{found.name}"
    if not found.version:
        raise DataError(f"{url}: is a link that leads nowhere; a corpus has all of its shards; mend or remove the link")
    return ShardFile(url, found.size, found.version)
