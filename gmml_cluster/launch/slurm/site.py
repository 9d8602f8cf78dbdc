"""What a site's controller says of its partitions, and how long before the kill its notices come."""

import re
from typing import TYPE_CHECKING

from gmml_cluster.launch.slurm.tools import call

if TYPE_CHECKING:
    from gmml_cluster.spec.cluster import SlurmSection

_WORD = re.compile(r"(\w+)=(\S*)")


def partitions(asked: str | None) -> list[dict[str, str]]:
    """Fields of the partitions that a job asks for, of the default one where it names none; empty without an answer."""
    names = (asked or "").split(",")
    shown = [dict(_WORD.findall(line)) for line in call("scontrol", "-o", "show", "partition").stdout.splitlines()]
    return [
        one for one in shown if one.get("PartitionName") in names or (names == [""] and one.get("Default") == "YES")
    ]


def configured(name: str) -> str:
    """The first word of a parameter of the controller; empty where it does not answer or has none of this name."""
    found = re.search(rf"^{name}\s*=\s*(\S+)", call("scontrol", "show", "config").stdout, re.MULTILINE)
    return found[1] if found else ""


def notices(section: "SlurmSection") -> dict[str, int]:
    """Seconds from a notice to the kill at least, of a `time_limit`, and of a `preemption` where the site has any.

    A preemption leaves GraceTime and then KillWait. QOS have a GraceTime of their own, which the controller does not
    show: where they decide, nothing is said of preemptions.
    """
    found = {"time_limit": round(section.notice)}
    kill_wait = configured("KillWait")
    if configured("PreemptType") == "preempt/partition_prio" and kill_wait.isdigit():
        taken = [one for one in partitions(section.partition) if one.get("PreemptMode") in ("REQUEUE", "CANCEL")]
        grace = [int(one["GraceTime"]) for one in taken if one.get("GraceTime", "").isdigit()]
        if grace:
            found["preemption"] = min(grace) + int(kill_wait)
    return found
