import ctypes
import errno
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from gmml_cluster.errors import PreflightError, SpecError, StorageError
from gmml_cluster.store.open import open_store
from gmml_cluster.store.posix import TEMPORARY
from gmml_cluster.store.probe import probe
from gmml_cluster.store.protocol import AlreadyExists, NotFound


@pytest.fixture
def store(tmp_path):
    return open_store(tmp_path / "runs")


def test_a_created_object_is_never_overwritten(store):
    store.create("log/0", b"mine")
    with pytest.raises(AlreadyExists, match="log/0: exists already"):
        store.create("log/0", b"yours")
    assert store.get("log/0") == b"mine"


def test_of_many_creators_one_wins_and_its_bytes_stand(store):
    gate = threading.Barrier(8)

    def create(number):
        gate.wait()
        try:
            store.create("slot", b"%d" % number)
        except AlreadyExists:
            return None
        return number

    with ThreadPoolExecutor(8) as pool:
        winners = [number for number in pool.map(create, range(8)) if number is not None]
    assert [store.get("slot")] == [b"%d" % number for number in winners]


def test_put_replaces_and_ranges_read(store):
    store.put("a", b"old")
    store.put("a", memoryview(b"0123456789"))
    assert (store.get("a", 2, 3), store.get("a", 8), store.get("a", 9, 9), store.get("a", 20)) == (
        b"234",
        b"89",
        b"9",
        b"",
    )


def test_put_file_copies(store, tmp_path):
    (tmp_path / "f").write_bytes(b"x" * 1000)
    store.put_file("a/b", tmp_path / "f")
    assert store.get("a/b") == b"x" * 1000


@pytest.mark.parametrize("ask", ["get", "stat"])
@pytest.mark.parametrize("name", ["nothing", "file/below", "folder"])
def test_what_is_not_an_object_is_missing(store, ask, name):
    store.put("file", b"")
    store.put("folder/x", b"")
    with pytest.raises(NotFound):
        getattr(store, ask)(name)


def test_listing_is_sorted_recursive_and_by_prefix(store):
    for name in ("b/c/d", "b-a", "b/a", "c"):
        store.put(name, b"12")
    assert [found.name for found in store.list_objects()] == ["b-a", "b/a", "b/c/d", "c"]
    assert [found.name for found in store.list_objects("b/")] == ["b/a", "b/c/d"]
    assert [found.name for found in store.list_objects("b")] == ["b-a", "b/a", "b/c/d"]
    assert [found.name for found in store.child("b").list_objects("c/")] == ["c/d"]
    assert store.list_objects("z/") == []
    assert store.folders() == ["b"]
    assert store.list_objects("c")[0] == store.stat("c")
    assert open_store(f"{store.url}/none").list_objects() == open_store(f"{store.url}/none").folders() == []


def test_a_file_that_is_being_written_is_not_listed(store):
    store.put("a", b"")
    Path(store.url, f"{TEMPORARY}x").write_bytes(b"half")
    assert [found.name for found in store.list_objects()] == ["a"]


def test_delete_passes_over_what_is_missing_and_removes_empty_folders(store):
    store.put("a/b/c", b"")
    store.delete(["a/b/c", "a/b/c", "never"])
    assert os.listdir(store.url) == []


def test_a_failed_write_leaves_neither_the_name_nor_a_temporary_file(store, tmp_path):
    store.put("a", b"")
    with pytest.raises(StorageError):
        store.put_file("b", tmp_path / "not there")
    assert os.listdir(store.url) == ["a"]


@pytest.mark.parametrize("name", ["", "/etc/passwd", "../x", "a/../../x", "a//b", "a/"])
def test_names_stay_below_the_store(store, name):
    with pytest.raises(StorageError, match="relative"):
        store.put(name, b"")


def test_files_and_folders_take_the_mode_of_the_top_folder(tmp_path):
    top = tmp_path / "shared"
    top.mkdir()
    top.chmod(0o2770)
    open_store(top).child("run").put("log/0", b"")
    assert [oct((top / name).stat().st_mode & 0o7777) for name in ("run", "run/log", "run/log/0")] == [
        "0o2770",
        "0o2770",
        "0o660",
    ]


def test_a_scheme_without_a_store_is_refused_by_name():
    with pytest.raises(SpecError, match="gs"):
        open_store("gs://bucket")


def test_a_file_url_is_a_folder(tmp_path):
    assert open_store(f"file://{tmp_path}").url == open_store(tmp_path).url == str(tmp_path)


def test_the_probe_passes_and_leaves_nothing(store):
    probe(store)
    assert store.list_objects() == []


def test_the_probe_names_the_missing_right(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(PreflightError, match=r"file/runs: cannot create: .*Not a directory"):
        probe(open_store(tmp_path / "file" / "runs"))


@pytest.mark.parametrize(
    ("broken", "problem"),
    [
        ("create", "created again"),
        ("get", "returned other bytes"),
        ("list_objects", "not listed"),
        ("delete", "still listed"),
    ],
)
def test_the_probe_refuses_a_store_that_breaks_a_promise(store, broken, problem):
    with pytest.raises(PreflightError, match=problem):
        probe(Broken(store, broken))


class Broken:
    def __init__(self, store, method):
        self._store = store
        lies = {
            "create": store.put,
            "get": lambda *_: b"",
            "list_objects": lambda prefix: [],
            "delete": lambda names: None,
        }
        setattr(self, method, lies[method])

    def __getattr__(self, name):
        return getattr(self._store, name)


def killed_while_writing(store, name):
    path = Path(store.url) / name
    path = path.with_name(f"{TEMPORARY}{path.name}")
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"half")
    return path


def test_what_a_killed_writer_left_is_listed_apart_and_can_be_discarded(store):
    path = killed_while_writing(store, "checkpoints/1/a")
    killed_while_writing(store, "log/0")
    assert store.list_objects() == []
    store.discard(store.unfinished("checkpoints/"))
    assert [write.name for write in store.unfinished()] == [f"log/{TEMPORARY}0"]
    assert not path.parent.exists()


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_reported_with_its_own_hint(store, monkeypatch, number):
    def full(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match=rf"a: {os.strerror(number)}; the disk or your quota is full; free space"):
        store.put("a", b"x")


def failing(monkeypatch, folder, number):
    """Let one folder fail to be read."""
    scan = os.scandir

    def scandir(path):
        if os.fspath(path) == str(folder):
            raise OSError(number, os.strerror(number), str(folder))
        return scan(path)

    monkeypatch.setattr(os, "scandir", scandir)


@pytest.mark.parametrize("number", [errno.EACCES, errno.EIO])
def test_a_folder_that_cannot_be_read_is_named_where_the_prefix_reaches_it(store, tmp_path, monkeypatch, number):
    for name in ("a/1", "b/1"):
        store.put(name, b"")
    failing(monkeypatch, tmp_path / "runs" / "b", number)
    for prefix in ("", "b", "b/"):
        with pytest.raises(StorageError, match=r"/runs/b: .*; the folder must be readable"):
            store.list_objects(prefix)
    assert [found.name for found in store.list_objects("a")] == ["a/1"]


def test_a_folder_that_vanishes_while_it_is_listed_is_passed_over(store, tmp_path, monkeypatch):
    for name in ("a/1", "b/1"):
        store.put(name, b"")
    failing(monkeypatch, tmp_path / "runs" / "b", errno.ENOENT)
    assert [found.name for found in store.list_objects()] == ["a/1"]


def test_what_lies_behind_a_link_to_a_folder_is_not_listed(store, tmp_path):
    store.put("a", b"")
    (tmp_path / "others").mkdir()
    (tmp_path / "others" / "1").touch()
    (tmp_path / "runs" / "linked").symlink_to(tmp_path / "others")
    assert [found.name for found in store.list_objects()] == ["a"]


def test_many_objects_appear_complete_at_the_end_of_their_block(store, tmp_path):
    with store.put_many() as put:
        for number in range(3):
            put(f"folder/{number}", b"x" * number)
        assert store.list_objects() == []
    assert [(found.name, found.size) for found in store.list_objects()] == [(f"folder/{n}", n) for n in range(3)]
    assert store.unfinished() == []
    with store.put_many() as put:
        put("folder/1", b"other")
    assert store.get("folder/1") == b"other"


def test_a_block_that_fails_leaves_nothing_of_its_objects(store):
    store.put("a", b"old")

    def failing():
        with store.put_many() as put:
            put("a", b"new")
            put("b", b"new")
            raise ValueError("bang")

    with pytest.raises(ValueError, match="bang"):
        failing()
    assert (store.get("a"), len(store.list_objects()), store.unfinished()) == (b"old", 1, [])


def test_what_cannot_be_synchronised_is_a_fault_and_leaves_nothing(store, monkeypatch):
    def fails(descriptor):
        ctypes.set_errno(errno.ENOSPC)
        return -1

    monkeypatch.setattr("gmml_cluster.store.posix._LIBC.syncfs", fails)
    with pytest.raises(StorageError, match="the disk or your quota is full"), store.put_many() as put:
        put("a", b"new")
    assert (store.list_objects(), store.unfinished()) == ([], [])
