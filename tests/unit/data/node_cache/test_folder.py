"""The folder of a node cache: what has a name is whole, and there are never more files than the limit."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from gmml_cluster.data.node_cache import folder as module
from gmml_cluster.data.node_cache.folder import CacheFolder, Refusal, UnwrittenFile
from gmml_cluster.store.rehearsal import Rehearsal

KILLED = """
import sys, time
from pathlib import Path
from gmml_cluster.data.node_cache.folder import CacheFolder
part = CacheFolder(Path(sys.argv[1]), 3).claim("a")
Path(sys.argv[1], "a.gmml-part").write_bytes(b"half of")
print("writing", flush=True)
time.sleep(600)
"""
CROWDED = """
import random, sys
from pathlib import Path
from gmml_cluster.data.node_cache import folder as module
from gmml_cluster.data.node_cache.folder import CacheFolder, UnwrittenFile
module._LOCK_S = 600
folder, chance = CacheFolder(Path(sys.argv[1]), 5), random.Random(sys.argv[2])
most = 0
for _ in range(100):
    name = chance.choice("abcdefghij")
    claim = folder.claim(name)
    most = max(most, len(list(folder.path.glob("*.gmml-*"))))
    if isinstance(claim, UnwrittenFile):
        claim.publish(name.encode() * 9) if chance.random() < 0.8 else claim.abandon()
    elif chance.random() < 0.5:
        folder.remove([chance.choice("abcdefghij")])
    data = folder.read(name, 0, 9)
    assert data in (None, name.encode() * 9), data
print(most)
"""


def write(folder, name, data=b"data"):
    claim = folder.claim(name)
    assert isinstance(claim, UnwrittenFile)
    claim.publish(data)


def files(folder):
    return sorted(path.name for path in folder.path.iterdir())


def test_what_is_written_is_read_in_parts_and_is_not_written_again(tmp_path):
    folder = CacheFolder(tmp_path / "deep" / "cache", 3)
    assert folder.read("a", 0, 4) is None
    write(folder, "a", b"0123456789")
    assert folder.read("a", 3, 4) == b"3456"
    assert folder.read("a", 8, 4) == b"89"
    assert folder.claim("a") is Refusal.BUSY
    assert folder.names() == ["a"]
    assert (folder.path.stat().st_mode & 0o777, (folder.path / "a.gmml-block").stat().st_mode & 0o777) == (0o700, 0o600)


def test_a_shared_folder_gives_its_mode_to_the_files(tmp_path):
    tmp_path.chmod(0o2775)
    folder = CacheFolder(tmp_path, 3)
    write(folder, "a")
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o664}


def test_what_is_being_written_has_its_room_and_no_name(tmp_path):
    folder, other = CacheFolder(tmp_path, 2), CacheFolder(tmp_path, 2)
    claim = folder.claim("a")
    assert (other.claim("a"), other.names(), other.read("a", 0, 1)) == (Refusal.BUSY, [], None)
    write(other, "b")
    assert other.claim("c") is Refusal.FULL
    claim.abandon()
    write(other, "c")
    assert folder.claim("a") is Refusal.FULL
    assert folder.remove(["b", "never there"]) == 1
    write(folder, "a")
    assert sorted(other.names()) == ["a", "c"]


def test_a_killed_writer_leaves_nothing_that_is_taken_for_data(tmp_path):
    writer = subprocess.Popen([sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    try:
        assert writer.stdout.readline() == "writing\n"
        folder = CacheFolder(tmp_path, 3)
        assert folder.claim("a") is Refusal.BUSY
        folder.recount()
        assert files(folder) == ["a.gmml-part", "gmml-count"]  # one that is being written stays
        writer.send_signal(signal.SIGKILL)
    finally:
        writer.kill()
        writer.communicate()
    assert (folder.read("a", 0, 4), folder.names()) == (None, [])
    write(folder, "a", b"new")
    assert folder.read("a", 0, 9) == b"new"
    write(folder, "b")
    write(folder, "c")
    assert folder.claim("d") is Refusal.FULL


def test_the_room_of_a_killed_writer_is_there_again_for_the_next_process(tmp_path):
    folder = CacheFolder(tmp_path, 1)
    os.close(folder.claim("a")._descriptor)  # all that the kernel does for a killed process
    assert folder.claim("b") is Refusal.FULL
    CacheFolder(tmp_path, 1).recount()
    write(folder, "b")
    assert files(folder) == ["b.gmml-block", "gmml-count"]


@pytest.mark.parametrize("text", [b"", b"what", b"\0" * 20])
def test_a_damaged_count_is_made_again(tmp_path, text):
    folder = CacheFolder(tmp_path, 2)
    write(folder, "a")
    (tmp_path / "gmml-count").write_bytes(text)
    write(folder, "b")
    assert folder.claim("c") is Refusal.FULL


def test_a_lost_count_is_made_again(tmp_path):
    folder = CacheFolder(tmp_path, 2)
    write(folder, "a")
    (tmp_path / "gmml-count").unlink()
    write(folder, "b")
    assert folder.claim("c") is Refusal.FULL


def test_processes_together_never_have_more_files_than_the_limit(tmp_path):
    command = [sys.executable, "-c", CROWDED, str(tmp_path)]
    crowd = [subprocess.Popen([*command, str(seed)], stdout=subprocess.PIPE, text=True) for seed in range(3)]
    try:
        seen = [int(process.communicate()[0]) for process in crowd]
    finally:
        for process in crowd:
            process.kill()
            process.wait()
    assert max(seen) == 5
    assert int((tmp_path / "gmml-count").read_text()) == len(files(CacheFolder(tmp_path, 5))) - 1


def test_readers_see_whole_files_or_none_while_others_remove_and_write_them(tmp_path):
    folder, seen, over = CacheFolder(tmp_path, 1), set(), threading.Event()

    def read():
        while not over.is_set():
            seen.add(folder.read("a", 0, 9))

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(100):
        write(folder, "a", b"012345678")
        folder.remove(["a"])
    over.set()
    reader.join()
    assert seen <= {None, b"012345678"}


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    full = Rehearsal()
    full.fill(600)
    monkeypatch.setattr(module, "rehearsal", full)
    folder = CacheFolder(tmp_path, 1)
    with pytest.raises(OSError, match="No space left"):
        folder.claim("a").publish(b"data")
    assert files(folder) == ["gmml-count"]
    monkeypatch.setattr(module, "rehearsal", Rehearsal())
    write(folder, "b")


def test_a_stopped_process_that_holds_the_lock_is_not_waited_for_long(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_LOCK_S", 0.0)
    folder = CacheFolder(tmp_path, 2)
    write(folder, "a")
    with CacheFolder(tmp_path, 2)._counted():
        with pytest.raises(TimeoutError, match="its lock was held"):
            folder.claim("b")
        assert folder.read("a", 0, 4) == b"data"


def test_a_person_s_own_files_are_neither_counted_nor_removed(tmp_path):
    for name in ("thesis.tex", "count", "a"):
        (tmp_path / name).write_text("mine")
    folder = CacheFolder(tmp_path, 1)
    folder.recount()
    write(folder, "a")
    assert folder.names() == ["a"]
    assert folder.claim("b") is Refusal.FULL
    assert folder.remove(["a", "count", "thesis.tex"]) == 1
    (tmp_path / "gmml-count").unlink()
    write(folder, "b")
    assert files(folder) == ["a", "b.gmml-block", "count", "gmml-count", "thesis.tex"]
    assert (tmp_path / "a").read_text() == "mine"
