"""Several ranks of this machine: one GPU visible to each, and what the others notice of a killed or stopped one."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
import yaml

from benchmarks.gpu_check.result import CannotRun, Result, Setting, verdict
from gmml_cluster.api import Run
from gmml_cluster.run.root import run_root
from gmml_cluster.store.posix import PosixStore
from gmml_cluster.train.ranks import groups
from gmml_cluster.train.ranks.devices import check_devices, choose_device, device_info, gather_devices
from gmml_cluster.train.ranks.rendezvous import RankInfo, meet

_NAME = "gpu-check"
_START_S, _NOTICE_S, _QUICK_NOTICE_S = 180.0, 60.0, 20.0


def several(variant: str, setting: Setting) -> Result:
    """`one GPU each`, `killed` or `stopped`; on a CPU two ranks of gloo."""
    ranks = 2 if setting.device == "cpu" else torch.cuda.device_count()
    if ranks < 2:
        raise CannotRun("one GPU only; this needs two or more")
    with tempfile.TemporaryDirectory() as folder:
        if variant == "one GPU each":
            return _one_each(Path(folder), ranks, setting)
        return _disturbed(Path(folder), ranks, setting, signal.SIGKILL if variant == "killed" else signal.SIGSTOP)


# ---- one GPU visible to each rank, as SLURM's --gpus-per-task does it --------------------------------------------


def _one_each(folder: Path, ranks: int, setting: Setting) -> Result:
    processes = []
    for rank in range(ranks):
        numbers = {"RANK": rank, "WORLD_SIZE": ranks, "LOCAL_RANK": rank, "LOCAL_WORLD_SIZE": ranks}
        visible = {} if setting.device == "cpu" else {"CUDA_VISIBLE_DEVICES": _visible(rank)}
        environment = {**os.environ, **{name: str(value) for name, value in numbers.items()}, **visible}
        command = [sys.executable, "-m", __name__, str(folder)]
        processes.append(subprocess.Popen(command, env=environment, stdout=subprocess.PIPE, text=True))
    printed = [process.communicate()[0] for process in processes]
    problems = [f"rank {rank}: exit code {p.returncode}" for rank, p in enumerate(processes) if p.returncode]
    found = [json.loads(text.splitlines()[-1]) for text in printed if text.strip()]
    problems += [f"rank {one['rank']} summed {one['sum']}" for one in found if one["sum"] != ranks * (ranks + 1) / 2]
    devices = [f"{one['name']} {one['id'][:12]}".strip() for one in found]
    if setting.device == "cuda" and len(set(devices)) < len(devices):
        problems.append("two ranks computed on one GPU")
    return verdict(problems, {"ranks": ranks, "devices": devices})


def _visible(rank: int) -> str:
    """The rank's entry of what is visible here: an index, or a UUID."""
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    return listed.split(",")[rank] if listed else str(rank)


def one_rank(folder: str) -> None:
    """A rank: meets the others, takes its GPU, joins, sums rank + 1 over the ranks, and prints what it found."""
    rank_info = RankInfo.from_environment()
    kv, _ = meet(PosixStore(folder), "start", rank_info)
    device = choose_device(rank_info)
    check_devices(gather_devices(kv, rank_info, device))
    groups.join(kv, rank_info, device)
    total = torch.full((), rank_info.rank + 1.0, device=device)
    dist.all_reduce(total)
    info = device_info(device)
    print(json.dumps({"rank": rank_info.rank, "sum": float(total), "name": info.name, "id": info.id}), flush=True)
    dist.barrier()  # rank 0 serves the store to all
    dist.destroy_process_group()


# ---- a run whose last rank is killed or stopped --------------------------------------------------------------------


def _disturbed(folder: Path, ranks: int, setting: Setting, what: signal.Signals) -> Result:
    """Submit a run, disturb its last rank, and wait for the `end` that the others write."""
    _submit(folder, ranks, setting)
    run = Run(run_root(str(folder / "runs"), _NAME))
    try:
        _until(lambda: any(entry["kind"] == "commit" for entry in run.log()), _START_S, "the first checkpoint", run)
        pids = ranks_of(folder)
        began = time.monotonic()
        os.kill(pids[ranks - 1], what)
        limit_s = _QUICK_NOTICE_S if setting.quick else _NOTICE_S
        figures: dict[str, Any] = {"ranks": ranks, "signal": what.name}
        while time.monotonic() < began + limit_s:
            ends = [entry for entry in run.log() if entry["kind"] == "end"]
            if ends:
                figures |= {"noticed_s": time.monotonic() - began, "cause": ends[0]["cause"]}
                return Result("ok", figures, _first_line(ends[0].get("message")))
            time.sleep(0.1)
        figures["noticed_s"] = None
        message = f"no rank ended the attempt within {limit_s:g} s"
        return Result("failed" if what is signal.SIGKILL else "ok", figures, message)
    finally:
        _stop_all(folder)


def _first_line(text: str | None) -> str:
    return text.splitlines()[0] if text else ""


def _submit(folder: Path, ranks: int, setting: Setting) -> None:
    from gmml_cluster.evaluate.demo.digits import pack_digits

    pack_digits(folder / "digits")
    job = {
        "name": _NAME,
        "model": {"width": 32, "depth": 2, "heads": 2, "patch_size": 4},
        "method": {"name": "gmml", "views": 1, "taps": [1, 2]},
        "data": {"corpora": [{"url": f"{folder}/digits/train"}], "image_size": 16, "group": 4, "lanes": 4 * ranks},
        "batch": {"size": 16 * ranks},
        "run": {"steps": 20000},  # minutes: a run that nobody could stop ends by itself
        "engine": {"zero": 1},
        "checkpoint": {"every": "20 steps"},
    }
    profile = {"launcher": "local", "root": str(folder / "runs"), "ranks_per_node": ranks}
    for name, content in (("job", job), ("profile", profile)):
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(content))
    program = str(Path(sys.executable).parent / "gmml-submit")
    home = {**os.environ, "HOME": str(folder), "XDG_STATE_HOME": str(folder / "state")}
    command = [program, str(folder / "job.yaml"), "--cluster", str(folder / "profile.yaml")]
    done = subprocess.run(command, env=home, cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"gmml-submit left with {done.returncode}: {done.stdout[-800:]}{done.stderr[-800:]}")


def _until(holds: Any, limit_s: float, what: str, run: Run) -> None:
    deadline = time.monotonic() + limit_s
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"{what} did not come within {limit_s:g} s:\n{run.logs()[-1500:]}")
        time.sleep(0.2)


def processes_of(folder: Path) -> dict[int, dict[str, str]]:
    """Environments of the processes, by pid, in whose command line the folder is named."""
    found = {}
    for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
        try:
            command = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace")
            environment = Path(f"/proc/{pid}/environ").read_bytes().decode(errors="replace")
        except OSError:
            continue
        if str(folder) in command:
            found[pid] = dict(re.findall(r"([^=\0]+)=([^\0]*)", environment))
    return found


def ranks_of(folder: Path) -> dict[int, int]:
    """Pid of each rank of the run below the folder."""
    return {int(of["RANK"]): pid for pid, of in processes_of(folder).items() if "RANK" in of}


def _stop_all(folder: Path) -> None:
    """Kill the supervisor first, which would start the ranks again, and then what is left of them."""
    own = os.getpid()
    while processes := {pid: of for pid, of in processes_of(folder).items() if pid != own}:
        for pid in sorted(processes, key=lambda pid: "RANK" in processes[pid]):
            with contextlib.suppress(ProcessLookupError):  # it left meanwhile
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)


if __name__ == "__main__":
    one_rank(sys.argv[1])
