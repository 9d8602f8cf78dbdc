"""A rank that fails on its way to its peers: its own error is the last it prints."""

import subprocess
import sys

from gmml_cluster.run.codes import UNMET

BROKEN = """
import sys
sys.modules["torch"] = None
from gmml_cluster.train.worker import main
main("--root r --run a --submit t --job 17 --restart 0".split())
"""


def test_a_rank_that_cannot_import_torch_says_so_and_exits_with_a_code_of_its_own():
    done = subprocess.run([sys.executable, "-c", BROKEN], capture_output=True, text=True)
    assert done.returncode == UNMET, done.stderr
    assert "ModuleNotFoundError: import of torch" in done.stderr


TERMINATED = """
import os, signal, sys, threading, types
signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGTERM, signal.SIGUSR2])
import traceback
from gmml_cluster.train.worker import main
from gmml_cluster.train.ranks import signals

failed = types.ModuleType("gmml_cluster.train.attempt")
def run_attempt(start, thread, evaluate):
    raise OSError("the network is down")
failed.run_attempt = run_attempt
sys.modules["gmml_cluster.train.attempt"] = failed
sys.modules["gmml_cluster.train.ranks.agreement"] = types.SimpleNamespace(StartInfo=lambda *_: None)

format_exc = traceback.format_exc
def terminate_then_format():  # SIGTERM comes in the middle of the rank's own failure
    os.kill(os.getpid(), signal.SIGTERM)
    threading.Event().wait(3 * signals.TICK_S)
    return format_exc()
traceback.format_exc = terminate_then_format
main("--root r --run a --submit t --job 17 --restart 0".split())
"""


def test_a_signal_in_the_middle_of_a_failure_takes_neither_the_last_line_nor_the_code():
    done = subprocess.run([sys.executable, "-c", TERMINATED], capture_output=True, text=True)
    assert done.returncode == UNMET, done.stderr
    assert done.stderr.strip().splitlines()[-1] == "OSError: the network is down"
    assert "SIGTERM" not in done.stderr
