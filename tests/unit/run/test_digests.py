"""A file of a run whose digest is recorded is compared with it at every read."""

import hashlib
import json

import pytest

from gmml_cluster.errors import RunDamaged
from gmml_cluster.run.root import code_name, corpora_name, create_run, json_corpora_name
from gmml_cluster.store import verified
from gmml_cluster.store.posix import PosixStore
from tests.unit.run.test_root_versions import SPEC

OLD_CORPORA = {"corpora": [{"url": "/corpus", "shards": [["a.tar", 1, "v", 2, "c"]]}]}
OLD_DIGEST = hashlib.sha256(json.dumps(OLD_CORPORA["corpora"], sort_keys=True).encode()).hexdigest()
CORPORA = b"table 1"
CORPORA_DIGEST = hashlib.sha256(CORPORA).hexdigest()
CODE_DIGEST = hashlib.sha256(b"zip").hexdigest()


@pytest.fixture
def run(tmp_path, monkeypatch):
    monkeypatch.setattr(verified, "sleep", lambda seconds: None)
    run = create_run(str(tmp_path), "a", {"spec.yaml": SPEC, code_name(CODE_DIGEST): b"zip"}, {})
    run.store.put(corpora_name(CORPORA_DIGEST), CORPORA)
    run.store.put(json_corpora_name(OLD_DIGEST), json.dumps(OLD_CORPORA).encode())
    return run


READS = {
    "spec.yaml": lambda run: run.job({}),
    "run.json": lambda run: run.job({}),
    code_name(CODE_DIGEST): lambda run: run.code(CODE_DIGEST),
    corpora_name(CORPORA_DIGEST): lambda run: run.corpora(CORPORA_DIGEST),
    json_corpora_name(OLD_DIGEST): lambda run: run.corpora(OLD_DIGEST),
}


def test_files_as_they_were_submitted_are_read(run):
    assert run.job({}).run.steps == 10
    assert run.code(CODE_DIGEST) == b"zip"
    assert run.corpora(CORPORA_DIGEST) == CORPORA
    assert json.loads(run.corpora(OLD_DIGEST)) == OLD_CORPORA


@pytest.mark.parametrize("name", READS)
def test_an_edited_file_is_refused_by_name(run, name):
    data = run.store.get(name)
    run.store.put(name, data.replace(b"1", b"2") if b"1" in data else b"other")
    with pytest.raises(RunDamaged, match=f"{run.url}/{name}: has SHA-256 .* the log records .*; restore"):
        READS[name](run)


@pytest.mark.parametrize("name", READS)
def test_one_flipped_answer_is_read_again_and_is_no_damage(run, name, monkeypatch):
    get, flipped = PosixStore.get, []

    def flip_once(self, asked, *span):
        data = get(self, asked, *span)
        if asked == name and not flipped:
            flipped.append(asked)
            return bytes([data[0] ^ 1]) + data[1:]
        return data

    monkeypatch.setattr(PosixStore, "get", flip_once)
    READS[name](run)
    assert flipped == [name]


def test_a_run_of_an_earlier_version_has_no_digests_to_compare(run):
    entry = json.loads(run.store.get("log/00000000.json"))
    run.store.put("log/00000000.json", json.dumps({k: v for k, v in entry.items() if k != "files"}).encode())
    assert run.job({}).run.steps == 10
