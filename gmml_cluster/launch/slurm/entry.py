"""What submitit runs in each rank: hold the signals back, unpack the code, become the worker.

Imports os and signal alone: until the signals are blocked a notice would be lost or would kill the rank. Blocked and
pending signals survive exec; the worker installs handlers and unblocks them.
"""

import os
import signal
import sys
from collections.abc import Mapping
from typing import NoReturn

HELD_BACK = (signal.SIGTERM, signal.SIGUSR2, signal.SIGCONT)


def main(archive: str, digest: str, root: str, name: str, token: str, module: str) -> NoReturn:
    """Replace this process by the worker of this rank.

    Args:
        archive: zip of the code, on a shared file system.
        digest: sha256 of the zip.
        root: where the run root lies.
        name: the run's name.
        token: token of the `submit` entry.
        module: what the rank runs.
    """
    hold_signals_back()
    try:
        _become_worker(archive, digest, module, "--root", root, "--run", name, "--submit", token)
    except BaseException:
        import traceback

        from gmml_cluster.run.codes import UNMET

        traceback.print_exc()
        sys.stderr.flush()
        os._exit(UNMET)


def _become_worker(archive: str, digest: str, module: str, *arguments: str) -> NoReturn:
    from gmml_cluster.launch.slurm.logs import start_line

    job, restart = os.environ["GMML_JOB"], os.environ["GMML_RESTART"]
    print(start_line(job, restart, os.environ["SLURM_PROCID"]), file=sys.stderr)
    environment = {**os.environ, **rank_environment(os.environ)}
    environment["PYTHONPATH"] = os.pathsep.join(_search_path(archive, digest))
    worker = [sys.executable, "-P", "-u", "-m", module, *arguments]
    start = ["--job", job, "--restart", restart]
    sys.stdout.flush()
    sys.stderr.flush()
    os.execve(sys.executable, worker + start, environment)


def hold_signals_back() -> None:
    """Block the signals of a notice in this thread, and whatever comes from others; URG (submitit's) is ignored.

    A library may have started threads that do not block them: what such a thread catches is raised again here, where
    it stays pending.
    """
    signal.pthread_sigmask(signal.SIG_BLOCK, HELD_BACK)
    for number in HELD_BACK:
        signal.signal(number, lambda caught, _: signal.raise_signal(caught))
    signal.signal(signal.SIGURG, signal.SIG_IGN)


def rank_environment(slurm: Mapping[str, str]) -> dict[str, str]:
    """The variables torch's launchers set, from those of a SLURM step (a step may use fewer nodes than its job)."""
    return {
        "RANK": slurm["SLURM_PROCID"],
        "WORLD_SIZE": slurm["SLURM_STEP_NUM_TASKS"],
        "LOCAL_RANK": slurm["SLURM_LOCALID"],
        "LOCAL_WORLD_SIZE": str(len(slurm["SLURM_GTIDS"].split(","))),
        "NODE_RANK": slurm["SLURM_NODEID"],
    }


def _search_path(archive: str, digest: str) -> list[str]:
    from pathlib import Path

    from gmml_cluster.launch.snapshot import cache_folder, unpack

    code = unpack(Path(archive).read_bytes(), digest, cache_folder())
    before = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    return [str(code), *(entry for entry in before if entry and entry != archive)]
