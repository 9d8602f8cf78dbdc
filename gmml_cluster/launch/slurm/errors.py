"""SLURM's refusals in a sentence: which field of the profile is at fault, and where to look."""

import re

from gmml_cluster.errors import Fault
from gmml_cluster.launch.protocol import Submission
from gmml_cluster.wording import counted

_CURES = (
    (r"unrecognized option '--([\w-]+)", "slurm.sbatch_args", "sbatch has no such option; correct or remove it"),
    (r"invalid --([\w-]+) specification", "slurm.sbatch_args", "`man sbatch` has the values it takes"),
    (r"accounting/qos policy", "slurm.qos", "ask for less time or fewer nodes, or another; `sacctmgr show qos` lists"),
    (r"invalid account", "slurm.account", "`sacctmgr show associations user=$USER` lists yours"),
    (r"invalid partition", "slurm.partition", "`sinfo -s` lists them"),
    (r"invalid qos", "slurm.qos", "`sacctmgr show qos` lists them"),
    (r"reservation", "slurm.reservation", "`scontrol show reservation` lists them, with who may use each"),
    (r"invalid feature", "slurm.constraint", "`sinfo -o '%N %f'` lists the nodes' features"),
    (r"generic resource|\bgres\b", "slurm.gpus_per_node", "`sinfo -o '%N %G'` lists the nodes' GPUs"),
    (r"invalid node name", "slurm.exclude", "`sinfo -N` lists the nodes"),
    (r"time limit", "slurm.time", "`sinfo -o '%P %l'` lists the limits"),
    (r"memory", "slurm.memory_per_node", "`sinfo -o '%N %m'` lists it"),
    (r"processors|cpu count", "slurm.cpus_per_rank", "`sinfo -o '%N %c'` lists the nodes' CPUs"),
    (r"node configuration|node count|\bnodes?\b", "resources.nodes", "`sinfo -N -l` lists nodes, CPUs and memory"),
)
_PREAMBLE = re.compile(r"((sbatch|scancel|squeue): )?(error: )?(allocation failure: |Batch job submission failed: )?")


def refusal(stderr: str, submission: Submission) -> Fault:
    """SLURM's own reason as a sentence that names the field at fault and where to look."""
    why = reason(stderr)
    known = ((field, cure) for pattern, field, cure in _CURES if re.search(pattern, why, re.IGNORECASE))
    field, cure = next(known, ("SLURM", "ask the site, or try `sbatch --test-only` by hand"))
    return Fault(field, f"{_value(field, submission)}refused by SLURM: {why}", cure)


def reason(stderr: str) -> str:
    """The last line in which a SLURM tool says what is wrong, without its own name and preamble."""
    lines = [line for line in stderr.splitlines() if re.search("error|fail|unrecognized", line, re.IGNORECASE)]
    last = (lines or stderr.splitlines() or ["no reason given"])[-1].strip()
    return _PREAMBLE.sub("", last, count=1) or last


def _value(field: str, submission: Submission) -> str:
    if field == "resources.nodes":
        return _size(submission)
    given = getattr(submission.profile.slurm, field.removeprefix("slurm."), None)
    return "" if given is None else f"{given!r} "


def _size(submission: Submission) -> str:
    """All that no node may be large enough for: SLURM does not say which of it."""
    slurm, ranks = submission.profile.slurm, submission.plan.ranks_per_node
    cpus = counted(ranks * slurm.cpus_per_rank, "CPU")
    parts = [counted(ranks, "rank"), f"{cpus} (slurm.cpus_per_rank={slurm.cpus_per_rank})"]
    if slurm.memory_per_node is not None:
        parts.append(f"{slurm.memory_per_node / 2**30:g} GiB (slurm.memory_per_node)")
    return f"{submission.plan.node_range.least}..{submission.plan.node_range.most} nodes of {', '.join(parts)} "
