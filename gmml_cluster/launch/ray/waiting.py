"""What a run waits for whose ranks found no room yet, by the dashboard's own lists; what submits needs no more of Ray.

A driver asks Ray Train for its ranks and that asks Ray for a placement group, which is PENDING until all of it fits.
"""

import logging
import re
from collections.abc import Mapping, Sequence
from typing import Any

from gmml_cluster.launch.ray.room import asked_for, is_selected, ranks_held, ranks_on
from gmml_cluster.wording import counted

_PENDING = {"limit": 10_000, "filter_keys": "state", "filter_predicates": "=", "filter_values": "PENDING"}
_USE = re.compile(
    r"(?P<used>\S+)/(?P<total>\S+) (?P<name>\S+)( \((?P<taken>\S+) used of (?P<reserved>\S+) reserved .*)?"
)
"""A line on a resource of a node: `1.0/2.0 CPU (0.0 used of 1.0 reserved in placement groups)`."""

_log = logging.getLogger(__name__)


def waits_for_room(client: Any, jobs: Sequence[Any]) -> dict[str, str]:
    """A line on what is asked for and what is free, for each of these jobs whose ranks have no room.

    Nothing where the dashboard does not answer as Ray 2.60 does: a run's state does not hang on it.

    Args:
        client: of the job API.
        jobs: as it lists them.

    Returns:
        submission id -> the line.
    """
    drivers = {job.job_id: job for job in jobs if job.job_id and str(job.status.value) == "RUNNING"}
    if not drivers:
        return {}
    try:
        pending = {group["creator_job_id"]: group for group in _listed(client, "placement_groups", **_PENDING)}
        mine = {job: group for job, group in pending.items() if job in drivers}
        if not mine:
            return {}
        nodes, used = _listed(client, "nodes", limit=10_000), _used(client)
        return {drivers[job].submission_id: _line(drivers[job], mine[job], nodes, used) for job in mine}
    except (OSError, ValueError, LookupError, TypeError, AttributeError) as error:
        _log.debug("what runs wait for is not known: %r", error)
        return {}


def _listed(client: Any, what: str, **asked: Any) -> list[dict[str, Any]]:
    """What Ray's state API lists, whatever the length of it."""
    answer = client._do_request("GET", f"/api/v0/{what}", params={"detail": "true", **asked})
    return answer.json()["data"]["result"]["result"]  # type: ignore[no-any-return]


def _used(client: Any) -> dict[str, str]:
    """What is used of each node's resources, by its id, as Ray's autoscaler saw it some seconds ago.

    The only list that has it, for its first version and its second. Without `nocache` the answer may be any age.
    """
    answer = client._do_request("GET", "/nodes", params={"view": "summary", "nocache": "1"})
    return answer.json()["data"]["nodeLogicalResources"]  # type: ignore[no-any-return]


def _line(job: Any, group: Mapping[str, Any], nodes: Sequence[Mapping[str, Any]], used: Mapping[str, str]) -> str:
    placement = (job.metadata or {}).get("placement", "PACK")
    selector, named = (group["bundles"][0][name] for name in ("label_selector", "unit_resources"))
    each = dict(sorted(named.items(), key=lambda need: (need[0] not in ("CPU", "GPU"), need[0])))
    waits = f"waits for room for {asked_for(len(group['bundles']), each, selector)}"
    there = [node["node_id"] for node in nodes if node["state"] == "ALIVE" and is_selected(node["labels"], selector)]
    if not there:
        return f"{waits}; no such node is there"
    free = [_free(used[node]) for node in there if node in used]
    if not free:
        return waits
    sums = ", ".join(f"{sum(node.get(name, 0.0) for node in free):g} {name}" for name in each)
    held = ranks_held([ranks_on(node, each) for node in free], placement)
    strict = f" by {placement}" if placement.startswith("STRICT") else ""
    return f"{waits}; free: {sums} on {counted(len(free), 'node')}, room for {held}{strict}"


def _free(lines: str) -> dict[str, float]:
    """What is free of a node: neither used nor set aside for placement groups; sizes in bytes are left out."""
    found = {}
    for line in lines.splitlines():
        use = _USE.fullmatch(line)
        if use is not None and not use["total"].endswith("B"):
            used, total, taken, reserved = (float(use[name] or 0) for name in ("used", "total", "taken", "reserved"))
            found[use["name"]] = total - used - (reserved - taken)
    return found
