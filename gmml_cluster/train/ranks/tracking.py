"""The process beside rank 0 that passes curves on (`gmml_cluster/track`): it may fail or hang and no rank notices."""

import logging
import subprocess
import sys

from gmml_cluster.spec.metrics import Metrics
from gmml_cluster.store.open import scheme_of

LAST_LOOK_S = 30.0

_log = logging.getLogger(__name__)


def start(url: str, metrics: Metrics) -> "subprocess.Popen[bytes] | None":
    """Start it; None where the job names no tracker, or the system has no room for another process.

    It leaves once this process has, by the pipe that is its standard input.

    Args:
        url: the run root.
        metrics: the job's.
    """
    asked = dict(metrics)
    if scheme_of(url) == "s3" and metrics.tensorboard == "auto":
        del asked["tensorboard"]
    if not any(asked.values()):
        return None
    command = [sys.executable, "-P", "-m", "gmml_cluster.track", url, "--follow"]
    try:
        return subprocess.Popen(command, stdin=subprocess.PIPE)
    except OSError as error:
        _log.warning("metrics: %s; no tracker gets curves of this attempt", error)
        return None


def finish(process: "subprocess.Popen[bytes] | None") -> None:
    """Let it pass on the last lines; a scheduler would end it with this process, and no other attempt follows."""
    if process is None or process.stdin is None:
        return
    process.stdin.close()
    try:
        process.wait(LAST_LOOK_S)
    except subprocess.TimeoutExpired:
        _log.warning("metrics: a tracker takes longer than %g s; `gmml track` passes on the rest", LAST_LOOK_S)
