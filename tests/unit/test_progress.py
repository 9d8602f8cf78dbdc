"""Long work shows a bar on a terminal, short work and pipes show nothing."""

import json
import os
import pty
import subprocess
import sys

import pytest
from click.testing import CliRunner

from gmml_cluster.cli.main import group
from gmml_cluster.progress import LINES
from tests.fixtures.reports import preempted_run

SCRIPT = """
import time
from gmml_cluster import progress
progress.QUIET_S = {quiet}
with progress.progress("indexing", 3) as advance:
    for _ in range(3):
        time.sleep(0.2)
        advance(1)
print("done")
"""


def output_on_a_terminal(quiet):
    mine, theirs = pty.openpty()
    process = subprocess.Popen(
        [sys.executable, "-c", SCRIPT.format(quiet=quiet)], stdout=subprocess.PIPE, stderr=theirs
    )
    os.close(theirs)
    assert process.wait(timeout=240) == 0
    seen = b""
    while True:
        try:
            part = os.read(mine, 4096)
        except OSError:  # the other side is closed and everything was read
            break
        if not part:
            break
        seen += part
    os.close(mine)
    return seen


def test_work_that_lasts_shows_a_bar_on_a_terminal():
    assert b"indexing" in output_on_a_terminal(quiet=0.05)


def test_work_that_is_soon_done_shows_nothing():
    assert output_on_a_terminal(quiet=60) == b""


def test_a_pipe_gets_no_bar():
    done = subprocess.run([sys.executable, "-c", SCRIPT.format(quiet=0)], capture_output=True, check=True)
    assert (done.stdout, done.stderr) == (b"done\n", b"")


@pytest.mark.parametrize(
    ("line", "shown"),
    [
        ("report one two -o page.html", [("reading the runs", 2), ("drawing the page", None)]),
        ("log one --check", [("checking the log", None)]),
        ("diff one two", [("comparing the runs", None)]),
        ("rm one --yes", [("deleting", None)]),
    ],
)
def test_commands_that_may_take_long_say_what_they_are_at(line, shown, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("one", "two"):
        preempted_run("runs", name, 10)
    command = [*line.split(), "--root", "runs"]
    monkeypatch.setenv("GMML_PROGRESS", "lines")
    printed = CliRunner().invoke(group, command, catch_exceptions=False).stdout.splitlines()
    begun = [json.loads(each.removeprefix(LINES)) for each in printed if each.startswith(LINES)]
    assert [(each["what"], each["total"]) for each in begun if each["done"] == 0] == shown


def test_an_export_says_what_it_is_at_and_a_pipe_gets_none_of_it(tmp_path, monkeypatch):
    from gmml_cluster.export import __main__ as export

    monkeypatch.setattr(export, "export_encoder", lambda run, target, output, *_: output.mkdir() or 7)
    asked = ["--root", str(tmp_path), "--run", "one", "--to", "timm", "--output"]
    assert CliRunner().invoke(export.main, [*asked, f"{tmp_path}/a"], catch_exceptions=False).stderr == ""
    monkeypatch.setenv("GMML_PROGRESS", "lines")
    printed = CliRunner().invoke(export.main, [*asked, f"{tmp_path}/b"], catch_exceptions=False).stdout
    assert printed.startswith(f'{LINES}{{"what": "writing {tmp_path}/b"')
