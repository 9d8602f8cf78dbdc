"""A file by its own URL: its digest by blocks, and its bytes only where they have it."""

import hashlib

import pytest

from gmml_cluster.errors import StorageError
from gmml_cluster.store import file
from gmml_cluster.store.posix import PosixStore
from gmml_cluster.store.protocol import NotFound

DATA = bytes(range(256))


@pytest.mark.parametrize("block", [1, 100, 128, 256, 1000])
def test_the_digest_is_that_of_the_whole_file_whatever_the_blocks(tmp_path, monkeypatch, block):
    monkeypatch.setattr(file, "_BLOCK_BYTES", block)
    (tmp_path / "w.pth").write_bytes(DATA)
    assert file.sha256_of(f"{tmp_path}/w.pth") == hashlib.sha256(DATA).hexdigest()


def test_a_damaged_answer_is_read_again_and_a_changed_file_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("gmml_cluster.store.verified.sleep", lambda seconds: None)
    (tmp_path / "w.pth").write_bytes(DATA)
    answers, url = [DATA[1:], DATA], f"{tmp_path}/w.pth"
    monkeypatch.setattr(PosixStore, "get", lambda self, name: answers.pop(0) if answers else b"")
    assert file.read_file(url, hashlib.sha256(DATA).hexdigest()) == DATA
    with pytest.raises(StorageError, match=rf"^{url}: has SHA-256 .*; restore the file"):
        file.read_file(url, hashlib.sha256(DATA).hexdigest())


def test_a_file_that_is_gone_is_not_found(tmp_path):
    for ask in (file.sha256_of, lambda url: file.read_file(url, "0")):
        with pytest.raises(NotFound):
            ask(f"{tmp_path}/w.pth")
