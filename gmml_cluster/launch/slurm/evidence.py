"""Why a start on SLURM ended, from the controller's record of the job and the error files of its ranks.

What SLURM 22.05 writes in each case is in docs/reference/batch-script.md.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from gmml_cluster.launch.after.evidence import Evidence
from gmml_cluster.launch.after.exits import evidence_of
from gmml_cluster.launch.after.verdict import Allocation
from gmml_cluster.launch.slurm.logs import StartLogs
from gmml_cluster.run.ends.symptoms import of_kill, of_output

_NODE_FAILURE = re.compile(r"Node failure on \S+")
_DOWN = re.compile(r"(DOWN|FAIL|ERROR|NOT_RESPONDING)|\*")
# A node that drains runs its jobs on, but its site waits for them to leave it.
_UNSOUND = re.compile(rf"{_DOWN.pattern}|DRAIN")
# Limits are checked every 30 s, and sbatch's manual allows a signal to come 60 s early.
_EARLY_S = 60


def examine(job: str, nodes: str, errors: Path, *, seen: int, notice_s: int) -> Evidence:
    """Everything that is known of a start besides srun's exit code.

    Args:
        job: the line of `scontrol -o show job`; empty where the controller did not answer.
        nodes: `NAME=STATE` of each node that the job had; empty where they were not asked for or not answered.
        errors: error file of the script and of rank 0; those of the other ranks lie beside it.
        seen: lines in it that earlier starts wrote.
        notice_s: how long before its time limit the job asks for a notice.
    """
    record, logs = fields(job), StartLogs(errors, seen=seen)
    cause, proof = _killed_by(record, nodes, logs.script)
    notice, node = "", _lost_node(proof) if cause == "node_lost" else ""
    if cause is None:
        notice, proof = _notice(record, notice_s)
        if logs.hardware:
            cause, proof, node = "hardware", logs.hardware, (*logs.bad_nodes, "")[0]
        elif not notice:
            cause, proof, node = _ended_by_itself(record, logs)
    return Evidence(cause, proof, notice or None, logs.tail(), node=node, bad_nodes=logs.bad_nodes)


def _ended_by_itself(record: Mapping[str, str], logs: StartLogs) -> tuple[str | None, str, str]:
    """Cause, proof and node of the first rank of which srun or its own output proves how it ended.

    SLURM kills ranks too, so that a killed one proves something only while its job goes on.
    """
    if (symptom := of_output(logs.script)) is not None and symptom[0] == "out_of_memory":
        return *symptom, ""
    found = evidence_of(logs.left())
    if found.cause == "killed" and record.get("JobState") != "RUNNING":
        return None, "", ""
    return found.cause, found.proof, found.node


def _lost_node(proof: str) -> str:
    found = re.match(r"Node failure on (\S+)$|(\S+) is ", proof)
    return next(filter(None, found.groups()), "") if found else ""


def allocation(job: str, nodes: str, bad: Sequence[str], *, least: int, notice_s: int) -> Allocation:
    """What the job still has of its nodes.

    Args:
        job: the line of `scontrol -o show job`; empty where the controller did not answer.
        nodes: `NAME=STATE` of each node that it has; empty where they were not asked for or not answered.
        bad: nodes whose devices failed, in this start or an earlier one.
        least: fewest that the run can use.
        notice_s: how long before its time limit the job asks for a notice.
    """
    record, states = fields(job), fields(nodes)
    held = record.get("JobState") == "RUNNING" and not _notice(record, notice_s)[0]
    sound = tuple(node for node, state in states.items() if node not in bad and not _UNSOUND.search(state))
    return Allocation(held, sound, tuple(node for node in states if node not in sound), least)


def fields(shown: str) -> dict[str, str]:
    """`NAME=VALUE` of a line of `scontrol -o show`; a value ends at the first blank."""
    return dict(word.split("=", 1) for word in shown.split() if "=" in word)


def _killed_by(record: Mapping[str, str], nodes: str, script: Sequence[str]) -> tuple[str | None, str]:
    """Cause and proof where SLURM itself ended the job.

    SLURM gives no reason where a person cancels, but neither does it for some node failures: COMPLETING without a
    reason is a cancel only where every node is known to be up.
    """
    for line in reversed(script):
        if (killed := of_kill(line)) is not None:
            return killed
    for line in reversed(script):
        if found := _NODE_FAILURE.search(line):
            return "node_lost", found[0]
    if record.get("JobState") != "COMPLETING":
        return None, ""
    states = fields(nodes)
    down = [f"{node} is {state}" for node, state in states.items() if _DOWN.search(state)]
    if down:
        return "node_lost", ", ".join(down)
    return ("cancelled", "JobState=COMPLETING without a reason, all nodes up") if states else (None, "")


def _notice(record: Mapping[str, str], notice_s: int) -> tuple[str, str]:
    """Why SLURM signalled a job that still runs, and the field that shows it; empty where it does not show.

    Within a GraceTime the job stays RUNNING and SLURM writes nothing to its stderr; PreemptTime is the only trace.
    Times are compared by RunTime and TimeLimit: EndTime is in the controller's time zone, a container's may differ.
    """
    if record.get("JobState") != "RUNNING":
        return "", ""
    preempted = record.get("PreemptTime", "None")
    if preempted not in ("None", "Unknown", "N/A"):
        return "preempted", f"PreemptTime={preempted}"
    run, limit = seconds(record.get("RunTime", "")), seconds(record.get("TimeLimit", ""))
    if run is not None and limit is not None and limit - run <= notice_s + _EARLY_S:
        return "time_limit", f"RunTime={record['RunTime']} TimeLimit={record['TimeLimit']}"
    return "", ""


def seconds(shown: str) -> int | None:
    """A time as SLURM writes it, `D-HH:MM:SS` or `HH:MM:SS`; None for words such as UNLIMITED."""
    found = re.fullmatch(r"(?:(\d+)-)?(\d+):(\d+):(\d+)", shown)
    if found is None:
        return None
    days, hours, minutes, rest = (int(part or 0) for part in found.groups())
    return ((days * 24 + hours) * 60 + minutes) * 60 + rest
