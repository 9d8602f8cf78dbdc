"""The profile as options of sbatch and srun, and which of its values must not reach the batch script."""

import math
import unicodedata
from collections.abc import Iterator
from typing import Any

from gmml_cluster.errors import Fault
from gmml_cluster.launch.protocol import Submission
from gmml_cluster.launch.slurm import containers

OURS = frozenset(
    [
        "array",
        "comment",
        "error",
        "export",
        "job-name",
        "nodes",
        "ntasks",
        "ntasks-per-node",
        "open-mode",
        "output",
        "requeue",
        "signal",
        "time",
    ]
)
_FIELDS = {
    "account": "account",
    "constraint": "constraint",
    "cpus-per-task": "cpus_per_rank",
    "exclude": "exclude",
    "mem": "memory_per_node",
    "partition": "partition",
    "qos": "qos",
    "reservation": "reservation",
}


def refused_options(submission: Submission) -> list[Fault]:
    """Options of sbatch that the profile must not give by name: the restart depends on them, or a field has them."""
    names = {name.replace("_", "-") for name in submission.profile.slurm.sbatch_args}
    faults = [
        Fault("slurm.sbatch_args", f"{name!r} is set by the launcher itself; it cannot be changed", "remove it")
        for name in names & OURS
    ]
    faults += [
        Fault("slurm.sbatch_args", f"{name!r} has a field of its own", f"write slurm.{_FIELDS[name]} instead")
        for name in names & _FIELDS.keys()
    ]
    return sorted(faults)


def control_characters(submission: Submission) -> list[Fault]:
    """Strings that hold a line break or another control character: no value may add a line to the script.

    submitit 1.5.4 quotes values for a shell, but sbatch reads `#SBATCH` lines without one, so a line break within
    quotes begins a line of its own there. Tabs are let through.
    """
    profile = submission.profile.model_dump(mode="json", include={"environment", "slurm"})
    rest = {"root": submission.root, "name": submission.name}
    problem = "a batch script cannot hold control characters"
    return [
        Fault(field, f"{value!r} holds {_names(value)}; {problem}", "write it on one line, a list of lines as a list")
        for field, value in _strings("", {**rest, **profile})
        if _controls(value)
    ]


def _strings(field: str, value: Any) -> Iterator[tuple[str, str]]:
    """Each string within a value, keys of mappings too, and the field that it is in."""
    if isinstance(value, str):
        yield field, value
    elif isinstance(value, dict):
        for name, inner in value.items():
            yield field, name
            yield from _strings(f"{field}.{name}".lstrip("."), inner)
    elif isinstance(value, list):
        for index, inner in enumerate(value):
            yield from _strings(f"{field}.{index}", inner)


def _controls(value: str) -> list[str]:
    return [character for character in value if unicodedata.category(character) == "Cc" and character != "\t"]


def _names(value: str) -> str:
    known = {"\n": "a line break", "\r": "a carriage return", "\0": "a NUL"}
    found = (known.get(character, f"the control character {character!r}") for character in _controls(value))
    return ", ".join(dict.fromkeys(found))


def shape(submission: Submission) -> dict[str, int]:
    """CPUs and tasks of a node.

    With `--ntasks-per-node` SLURM 22.05 gives a range of nodes fewer than are free (one for `1-3`), so a range asks for
    one task of a node's CPUs; srun divides it among the ranks.
    """
    ranks, cpus = submission.plan.ranks_per_node, submission.profile.slurm.cpus_per_rank
    if submission.plan.node_range.most > submission.plan.node_range.least:
        return {"cpus_per_task": ranks * cpus}
    return {"ntasks_per_node": ranks, "cpus_per_task": cpus}


def srun_arguments(submission: Submission) -> list[str]:
    """Arguments of srun, the profile's last.

    `--kill-on-bad-exit=1`: without it the other ranks run on after one was killed. `--export=ALL`: where the site or
    the user exports NONE, srun drops what the script exports and submitit fails at once.
    """
    tasks = [
        f"--ntasks-per-node={submission.plan.ranks_per_node}",
        f"--cpus-per-task={submission.profile.slurm.cpus_per_rank}",
    ]
    folders, kept = containers.own_folders(submission), containers.kept_variables(submission)
    image = containers.srun_arguments(submission.profile.slurm, folders, kept)
    return [*tasks, "--kill-on-bad-exit=1", "--export=ALL", *image, *submission.profile.slurm.srun_args]


def further_options(submission: Submission) -> dict[str, str | bool]:
    """Options of sbatch that submitit has no parameter for, and those that it would set otherwise.

    `--open-mode=append`: a restart truncates the output otherwise. `--signal=USR2@N` without `B:`: with it and the
    site's user-signal switch only the batch script would be warned, not the ranks. `--no-kill`: a job that can do with
    fewer nodes keeps the others when it loses one.
    """
    slurm, nodes = submission.profile.slurm, submission.plan.node_range
    options: dict[str, str | bool] = {"requeue": True, "open-mode": "append", "signal": f"USR2@{round(slurm.notice)}"}
    if nodes.most > nodes.least:
        options |= {"nodes": f"{nodes.least}-{nodes.most}", "no-kill": True}
    if slurm.reservation is not None:
        options["reservation"] = slurm.reservation
    if slurm.memory_per_node is not None:
        options["mem"] = f"{math.ceil(slurm.memory_per_node / 2**20)}M"
    given = {name.replace("_", "-"): value for name, value in slurm.sbatch_args.items() if value is not False}
    if not may_requeue(submission):
        del options["requeue"]
    return {**options, **given}


def may_requeue(submission: Submission) -> bool:
    """Whether the job may come back under its own number; the profile can forbid it."""
    given = {name.replace("_", "-"): value for name, value in submission.profile.slurm.sbatch_args.items()}
    return given.get("no-requeue", False) is False
