"""Shards of a corpus by its URL: braces, `*` and folders. Needs no numpy."""

import itertools
import os
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import lru_cache

from gmml_cluster.data.corpus.foreign import PARQUET_SUFFIX, explain
from gmml_cluster.data.corpus.parquet import demand_pyarrow, is_parquet, splits_of
from gmml_cluster.errors import DataError, Fault, SpecError
from gmml_cluster.spec.base import Refused
from gmml_cluster.spec.braces import expand_braces
from gmml_cluster.store.open import open_store, scheme_of
from gmml_cluster.store.protocol import Stat, Store
from gmml_cluster.wording import counted

SHARD_SUFFIX = ".tar"
"""Of the shards that are made here."""
INDEX_SUFFIX = ".index"
PACKING_PLAN = ".packing/plan.json"
"""Lies beside shards as long as a corpus is being packed."""
_WORD = re.compile("[A-Za-z]+")
_STAR = r"(?!(?<![^/])\.)[^/]*"  # anything but hidden names, such as the folder in which a corpus is being packed
_ANYTHING = f"(?:{_STAR}/)*{_STAR}"


@dataclass(frozen=True)
class ShardFile:
    """A shard as its store lists it, and what its corpus takes for images."""

    url: str
    """Folder or `s3://` URL with the name, absolute."""
    size: int
    """Bytes."""
    version: str
    """ETag, or a file's mtime in nanoseconds."""
    image: str = ""
    """Field that holds the images; empty takes each sample's first image."""
    has_index: bool | None = field(default=None, compare=False)
    """Whether the listing showed an index beside the shard; None where nothing was listed."""

    @property
    def name(self) -> str:
        """Name without its folder."""
        return self.url.rpartition("/")[2]


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


def index_name(name: str, image: str) -> str:
    """Name of a shard's index in the shard's folder."""
    return f"{name}.{image}{INDEX_SUFFIX}" if image else name + INDEX_SUFFIX


def list_shards(url: str, image: str | None = None) -> list[ShardFile]:
    """The shards of a corpus: braces in their order, each listing in the order of names.

    Args:
        url: a path or `s3://` URL of `.tar` or `.parquet` files, with braces or `*`, or a folder, whose files of that
            kind are taken at any depth. Files and folders whose names begin with a dot are left out unless they are
            named.
        image: field or column that holds the images, where the corpus names it.

    Raises:
        DataError: a shard that is named does not exist, one is named twice, is a link to nothing, none is found,
            shards may lie behind a link to a folder, or they are of both kinds, or of several splits.
        PreflightError: they are parquet files, and pyarrow is not installed here.
        SpecError: no store has the URL's scheme, or its braces make no list.
        StorageError: the store does not answer, or a folder of it cannot be read.
    """
    found = list_files(url, (SHARD_SUFFIX, PARQUET_SUFFIX), image or "")
    rows = [shard.name for shard in found if is_parquet(shard.url)]
    if not rows:
        return found
    if len(rows) < len(found):
        tar = next(shard.name for shard in found if not is_parquet(shard.url))
        what = f"holds {rows[0]} and {tar}; the shards of a corpus are of one kind"
        raise DataError(Fault(url, what, "name one kind by a pattern such as '*.parquet'"))
    splits = splits_of(rows)
    if len(splits) > 1 and not set(splits) <= set(_WORD.findall(url)):
        what = f"holds files of several splits ({', '.join(splits)}), and does not name them"
        raise DataError(Fault(url, what, f"name those that are wanted, as in '{splits[-1]}-*.parquet'"))
    demand_pyarrow(found[0].url)
    return found


def shared_shards(corpus: Collection[str], other: Collection[str], name: str) -> str:
    """Which shards of a corpus, by their URLs, are also those of another, in words; empty where none is."""
    shared = set(corpus) & set(other)
    return f"shares {counted(len(shared), 'shard')} of {len(corpus)} with {name} ({min(shared)})" if shared else ""


def list_files(url: str, suffixes: tuple[str, ...], image: str = "") -> list[ShardFile]:
    """As `list_shards`, of files that end in any of these suffixes: shards, and what shards can be made of."""
    patterns = [_absolute(pattern) for pattern in _expanded(url)]
    plain = [pattern for pattern in patterns if "*" not in pattern and pattern.endswith(suffixes)]
    known = {shard.url: shard for shard in stat_all(plain, image)}
    shards: list[ShardFile] = []
    for pattern in patterns:
        if pattern in known:
            shards.append(known[pattern])
        elif "*" not in pattern and pattern.endswith(suffixes):
            raise DataError(Fault(url, f"{pattern} does not exist; every shard that is named must", "check the URL"))
        else:
            shards += _match(pattern, suffixes, image)
    if not shards:
        raise DataError(_no_shards(url, patterns))
    twice, times = Counter(shard.url for shard in shards).most_common(1)[0]
    if times > 1:
        raise DataError(Fault(url, f"names {twice} twice; each shard counts once", "correct the pattern"))
    return shards


def stat_all(urls: Iterable[str], image: str = "") -> Iterator[ShardFile]:
    """Those of the shards that exist, by one listing of each folder.

    Raises:
        StorageError: a store does not answer.
    """
    by_folder = itertools.groupby(sorted(urls), key=lambda url: split_url(url)[0])
    for folder, members in by_folder:
        names = {split_url(url)[1] for url in members}
        listed = store_of(folder).list_objects(common_beginning(min(names), max(names)))
        yield from _shards(folder, listed, names.__contains__, image)


def _expanded(url: str) -> list[str]:
    try:
        return expand_braces(url)
    except Refused as error:
        raise SpecError(Fault(url, error.problem, error.hint)) from error


def _absolute(url: str) -> str:
    if scheme_of(url) == "s3":
        return url.rstrip("/")
    return os.path.abspath(os.path.expanduser(url.removeprefix("file://")))


def common_beginning(least: str, greatest: str) -> str:
    """The longest text that both begin with, and so all that sort between them."""
    pairs = enumerate(zip(least, greatest, strict=False))
    return least[: next((at for at, (a, b) in pairs if a != b), len(least))]


def _match(pattern: str, suffixes: tuple[str, ...], image: str) -> list[ShardFile]:
    """The files of a folder, or of a pattern with `*`."""
    if "*" not in pattern:
        return _list(pattern, "", suffixes, _ANYTHING, _ANYTHING, image)
    folder = split_url(pattern[: pattern.index("*")])[0]
    inside = pattern[len(folder.rstrip("/")) + 1 :]
    parts = inside.split("/")
    passed = "|".join(_starred("/".join(parts[:depth])) for depth in range(1, len(parts)))
    return _list(folder, inside.partition("*")[0], suffixes, _starred(inside), passed, image)


def _starred(pattern: str) -> str:
    return _STAR.join(re.escape(part) for part in pattern.split("*"))


def _list(folder: str, prefix: str, suffixes: tuple[str, ...], wanted: str, passed: str, image: str) -> list[ShardFile]:
    """Files whose names in the folder match `wanted`; folders on the way to them match `passed`."""
    store = store_of(folder)
    listed = store.list_objects(prefix)
    if prefix:
        listed += store.list_objects(PACKING_PLAN)
    if scheme_of(folder) == "file":
        _refuse_links(folder, re.compile(passed))
    _refuse_unfinished(folder, listed)
    pattern = re.compile(wanted)
    return list(
        _shards(folder, listed, lambda name: name.endswith(suffixes) and pattern.fullmatch(name) is not None, image)
    )


def _refuse_unfinished(folder: str, listed: Sequence[Stat]) -> None:
    plan = next((found.name for found in listed if f"/{found.name}".endswith(f"/{PACKING_PLAN}")), None)
    if plan is not None:
        where = f"{folder}/{plan.removesuffix(PACKING_PLAN)}".rstrip("/")
        what = "is being packed, or its packing was broken off; its shards are not all there"
        raise DataError(Fault(where, what, "wait, or repeat its `gmml corpus pack`, or remove it"))


def _shards(folder: str, listed: Sequence[Stat], wanted: Callable[[str], bool], image: str) -> Iterator[ShardFile]:
    """The wanted shards of a listing, which also shows which of them have an index beside them."""
    names = {found.name for found in listed}
    for found in listed:
        if not wanted(found.name):
            continue
        url = f"{folder.rstrip('/')}/{found.name}"
        if not found.version:
            rule = "is a link that leads nowhere; a corpus has all of its shards"
            raise DataError(Fault(url, rule, "fix or remove the link"))
        yield ShardFile(url, found.size, found.version, image, index_name(found.name, image) in names)


def _refuse_links(top: str, passed: re.Pattern[str]) -> None:
    for parent, folders, _ in os.walk(top):
        paths = {name: os.path.join(parent, name) for name in folders}
        folders[:] = [name for name, path in paths.items() if passed.fullmatch(os.path.relpath(path, top))]
        link = next((paths[name] for name in folders if os.path.islink(paths[name])), None)
        if link is not None:
            rule = "is a link to a folder; a corpus follows none below its folder, as a shard might count twice"
            raise DataError(Fault(link, rule, "name it in the URL by braces, or move it away"))


def _no_shards(url: str, patterns: Sequence[str]) -> Fault:
    """That nothing was found, and how to make shards where the URL names, or its folder holds, another form of data."""
    folders = (split_url(pattern[: pattern.index("*")])[0] if "*" in pattern else pattern for pattern in patterns)
    listed = (found.name for folder in folders for found in store_of(folder).list_objects())
    rule = f"no shards; a corpus has at least one {SHARD_SUFFIX} or {PARQUET_SUFFIX} file"
    explained = explain(patterns) or explain(listed)
    return Fault(url, f"{rule}; {explained}") if explained else Fault(url, rule, "check the URL")
