"""Commands of `gmml corpus` on Ray: what is sent there, and what comes back."""

import contextlib
import io
import os
from itertools import pairwise

import click.testing
import pytest

from gmml_cluster.cli import corpus
from gmml_cluster.errors import SpecError
from gmml_cluster.launch.ray import corpus as on_ray
from gmml_cluster.launch.ray import marks
from gmml_cluster.progress import progress
from gmml_cluster.spec.cluster import ClusterProfile


@pytest.fixture
def sent(monkeypatch):
    found = []
    monkeypatch.setattr(on_ray, "follow_on_ray", lambda profile, words: found.append(words) or 5)
    return found


def gmml(*arguments):
    return click.testing.CliRunner().invoke(corpus.command, [*map(str, arguments)], standalone_mode=False)


def test_the_command_is_sent_as_it_was_given_with_absolute_paths(sent, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "ray.yaml").write_text("{launcher: ray, root: runs, ray: {address: 'http://head:8265'}}")
    options = ["--cluster", "ray.yaml", "--seed", 3, "--refuse-damaged", "--masks", "m", "--json", "--workers", 40]
    assert gmml("pack", "a-{0..3}.tar", "s3://bucket/out", *options).return_value == 5
    assert gmml("index", "out", "--anew", "--cluster", "ray.yaml").return_value == 5
    packing, indexing = sent
    assert packing[:3] == ["pack", f"{tmp_path}/a-{{0..3}}.tar", "s3://bucket/out"]
    pairs = dict(pairwise(packing))
    assert {name: pairs[name] for name in ("--seed", "--masks", "--workers")} == {
        "--seed": "3",
        "--masks": f"{tmp_path}/m",
        "--workers": "40",
    }
    assert {"--refuse-damaged", "--json"} <= set(packing)
    assert "--cluster" not in packing
    assert indexing == ["index", f"{tmp_path}/out", "--anew"]


def test_a_profile_of_another_launcher_is_refused():
    profile = ClusterProfile.model_validate({"launcher": "local", "root": "runs"})
    with pytest.raises(SpecError, match="launcher local; corpora are made here or on Ray"):
        on_ray.follow_on_ray(profile, ["index", "x"])


def test_marked_lines_come_back_as_they_were_printed_and_others_are_dropped(monkeypatch, capsys):
    here, there = os.pipe()
    for mark, text in ((marks.OUT, "a result\nand more\n"), (marks.ERR, "a fault\n")):
        with io.TextIOWrapper(io.BufferedWriter(marks.Marked(there, mark)), "utf-8") as stream:
            stream.write(text)
            if mark == marks.OUT:
                monkeypatch.setenv("GMML_PROGRESS", "lines")
                stream.flush()
                with contextlib.redirect_stdout(stream), progress("packing", 20) as advance:
                    advance(5)
                monkeypatch.delenv("GMML_PROGRESS")
    os.write(there, b"a line of Ray's\n")
    os.close(there)
    with open(here) as read:
        lines = read.read().splitlines()
    assert lines.count('gmml:progress {"what": "packing", "done": 0, "total": 20}') == 1
    with contextlib.ExitStack() as bars:
        shown = marks.MarkedOutput(bars)
        for line in lines:
            shown.line(line)
    assert capsys.readouterr() == ("a result\nand more\n", "a fault\n")
