"""Long work shows a bar on a terminal, short work and pipes show nothing."""

import os
import pty
import subprocess
import sys

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
