"""A command that is used wrongly exits with 2, whatever is wrong with it, and leaves nothing behind."""

import sys

import numpy as np
import pytest

from gmml_cluster.cli import run_command
from gmml_cluster.cli.main import group
from gmml_cluster.cli.submit import command as submit
from tests.fixtures.reports import preempted_run
from tests.unit.data.conftest import png

UNKNOWN_STORES = ("gs://bucket/x", "S3://bucket/x", "s3:/bucket/x", "s3:///x", "")
NO_LISTS = ("x-{0..}.tar", "x-{0..3.tar", "x-{3..1}.tar", "x-{1}.tar", "x-{1,2,1}.tar")
JOB = """\
name: tiny
model: {size: tiny}
method: {name: mae}
data: {corpora: [{url: "%s"}], image_size: 32}
batch: {size: 64}
run: {steps: 10}
"""
WITH_RUN = (
    "status {}",
    "logs {}",
    "wait {}",
    "cancel {}",
    "resume {}",
    "log {}",
    "log {} --check",
    "metrics {}",
    "track {}",
    "order {}",
    "see {}",
    "eval {}",
    "export {} --to timm",
    "replay {}",
    "diff {} {}",
    "compare {}",
    "report {}",
    "rm {} --yes",
)
WITH_ROOT = (*(each.format(*["one"] * each.count("{}")) for each in WITH_RUN), "status", "top --once", "cancel --all")
WITH_STORE = ("corpus pack {} out", "corpus pack photos {}", "corpus pack photos out --masks {}")
WITH_SHARDS = ("corpus pack {} out", "corpus index {}")


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """A folder with a run under `runs` and images under `photos`; no test leaves anything in it."""
    folder = tmp_path_factory.mktemp("desk")
    preempted_run(folder / "runs", "one", 10)
    (folder / "photos" / "cat").mkdir(parents=True)
    for name, grey in (("a", 0), ("b", 255)):
        (folder / "photos" / "cat" / f"{name}.png").write_bytes(png(np.full((8, 8, 3), grey, np.uint8)))
    return folder


@pytest.fixture
def desk(shared, monkeypatch):
    """That folder is the current one, and home."""
    for name in ("HOME", "XDG_STATE_HOME"):
        monkeypatch.setenv(name, str(shared / "home"))
    monkeypatch.chdir(shared)
    return shared


def code_of(line, monkeypatch, *values):
    """Exit code of a command line, a value in place of each `{}`."""
    filled = iter(values)
    words = [next(filled, values[-1]) if word == "{}" else word for word in line.split()]
    command, words = (submit, words[1:]) if words[0] == "gmml-submit" else (group, words)
    monkeypatch.setattr(sys, "argv", ["gmml", *words])
    with pytest.raises(SystemExit) as left:
        run_command.run(command)
    return left.value.code


def wrong(line, desk, monkeypatch, value):
    before = sorted(str(path) for path in desk.rglob("*"))
    assert code_of(line, monkeypatch, value) == 2
    assert sorted(str(path) for path in desk.rglob("*")) == before


@pytest.mark.parametrize("url", UNKNOWN_STORES)
@pytest.mark.parametrize("line", [*WITH_STORE, "corpus index {}", "corpus index photos --root {}"])
def test_a_corpus_in_no_known_store(line, url, desk, monkeypatch):
    wrong(line, desk, monkeypatch, url)


@pytest.mark.parametrize("url", UNKNOWN_STORES)
@pytest.mark.parametrize("line", ["eval one --root runs --corpus {}", "report one --root runs --images {}"])
def test_what_is_scored_or_shown_lies_in_no_known_store(line, url, desk, monkeypatch):
    wrong(line, desk, monkeypatch, url)


@pytest.mark.parametrize("url", ["gs://bucket/x", "s3://"])
@pytest.mark.parametrize("line", WITH_RUN)
def test_a_run_in_no_known_store(line, url, desk, monkeypatch):
    wrong(line, desk, monkeypatch, url)


@pytest.mark.parametrize("root", ["gs://bucket/x", "s3://", "", "nowhere"])
@pytest.mark.parametrize("line", WITH_ROOT)
def test_a_root_that_is_in_no_known_store_or_is_not_there(line, root, desk, monkeypatch):
    wrong(f"{line} --root {{}}", desk, monkeypatch, root)


@pytest.mark.parametrize("name", ["two", "two-*", ""])
@pytest.mark.parametrize("line", WITH_RUN)
def test_a_run_that_is_not_there(line, name, desk, monkeypatch):
    wrong(f"{line} --root runs", desk, monkeypatch, name)


@pytest.mark.parametrize("url", NO_LISTS)
@pytest.mark.parametrize("line", WITH_SHARDS)
def test_braces_that_make_no_list(line, url, desk, monkeypatch):
    wrong(line, desk, monkeypatch, url)


@pytest.mark.parametrize("url", [*UNKNOWN_STORES, *NO_LISTS])
@pytest.mark.parametrize("line", ["gmml-submit job.yaml --dry-run", "gmml-submit job.yaml", "order job.yaml"])
def test_a_corpus_of_a_job(line, url, desk, monkeypatch):
    (desk / "job.yaml").write_text(JOB % url)
    wrong(line, desk, monkeypatch, "")


@pytest.mark.parametrize("url", UNKNOWN_STORES)
@pytest.mark.parametrize(
    "line", ["gmml-submit job.yaml --dry-run --cluster mine.yaml", "gmml-submit job.yaml --cluster mine.yaml"]
)
def test_a_root_of_a_profile(line, url, desk, monkeypatch):
    (desk / "job.yaml").write_text(JOB % "x.tar")
    (desk / "mine.yaml").write_text(f"{{launcher: local, root: '{url}'}}")
    wrong(line, desk, monkeypatch, "")


@pytest.mark.parametrize(
    "line",
    [
        "gmml-submit nowhere.yaml",
        "gmml-submit nowhere",
        "gmml-submit quickstart --cluster nowhere",
        "gmml-submit quickstart --cluster nowhere.yaml",
        "gmml-submit quickstart --dry-run no.such.field=1",
        "gmml-submit quickstart --sweep no.such.field=1,2",
        "drill nowhere.yaml",
        "drill quickstart --cluster nowhere",
        "order nowhere.yaml",
        "schema nowhere",
        "completion nowhere",
        "cancel",
        "resume",
        "corpus pack photos out --cluster nowhere",
        "corpus index photos --cluster nowhere",
        "eval one --root runs --with nothing",
        "report one --root runs -o nowhere/report.html",
        "metrics one --root runs --tensorboard photos/cat/a.png",
        "nowhere",
        "corpus nowhere",
    ],
)
def test_a_name_of_nothing(line, desk, monkeypatch):
    wrong(line, desk, monkeypatch, "")


@pytest.mark.parametrize("out", ["out/x-{0..3}", "photos/out", "photos/cat/a.png", "runs", "out/*"])
def test_a_place_where_no_corpus_can_be_made(out, desk, monkeypatch):
    wrong("corpus pack photos {}", desk, monkeypatch, out)


def test_a_job_that_is_there_already(desk, monkeypatch):
    (desk / "tiny.yaml").touch()
    wrong("new tiny", desk, monkeypatch, "")


@pytest.mark.parametrize("line", ["corpus pack nowhere out", "corpus index nowhere", "corpus index photos"])
def test_what_lies_there_or_does_not_is_no_wrong_use(line, desk, monkeypatch):
    assert code_of(line, monkeypatch, "") == 3


def test_a_profile_with_a_wrong_root_does_not_stop_commands_that_need_none(desk, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clusters").mkdir()
    (tmp_path / "clusters" / "mine.yaml").write_text("{launcher: local, root: 'gs://bucket'}")
    assert code_of("status", monkeypatch, "") == 0
    assert "gs://bucket: no store for 'gs'" in capsys.readouterr().err
