"""The table of a soak, and its document."""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from benchmarks.soak.cost import Cost, costs, saves, step_s
from benchmarks.soak.disturb import Done
from benchmarks.soak.judge import attempts_by_cause
from benchmarks.soak.plan import WHAT
from benchmarks.soak.site import Site

VERSION = 1


@dataclass(frozen=True)
class Leg:
    """A run and what was done to it.

    Attributes:
        store: what its root lies on.
        wall_s: from the submission to the last disturbance's end and the checkpoint after it.
        last_step: of its last checkpoint.
        load: processes that wanted a core, mean of a minute: before and after.
        faults: what does not hold, by what must.
        compared: checkpoints that were compared with the undisturbed run's.
    """

    store: str
    site: Site
    done: Sequence[Done]
    wall_s: float
    last_step: int
    load: tuple[float, float]
    faults: Mapping[str, Sequence[str]]
    compared: int

    def document(self) -> dict[str, Any]:
        """All of it as JSON values; the run must still be there."""
        entries, goodput = self.site.entries(), self.site.status()["goodput"]
        return {
            "store": self.store,
            "disturbances": [asdict(each) for each in self.done],
            "wall_s": self.wall_s,
            "last_step": self.last_step,
            "step_s": step_s(saves(entries), self.done),
            "load": self.load,
            "attempts": attempts_by_cause(self.site.run.log.refresh()),
            "costs": {kind: asdict(cost) for kind, cost in costs(entries, self.done).items()},
            "goodput": goodput,
            "faults": self.faults,
            "checkpoints_compared": self.compared,
        }


def merged(documents: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """The figures of several legs as those of one: counts, seconds and steps added up, costs put together."""
    by_kind: dict[str, dict[str, Any]] = {}
    rank_s: Counter[str] = Counter()
    attempts: Counter[str] = Counter()
    faults: dict[str, list[str]] = {}
    for each in documents:
        attempts.update(each["attempts"])
        rank_s.update(each["goodput"]["rank_s"])
        for kind, cost in each["costs"].items():
            before = by_kind.get(kind, asdict(Cost()))
            by_kind[kind] = {name: before[name] + cost[name] for name in before}
        for what, found in each["faults"].items():
            faults.setdefault(what, []).extend(f"{each['store']}, seed {each['seed']}: {fault}" for fault in found)
    used_s = sum(seconds for kind, seconds in rank_s.items() if kind != "unsaved")
    return {
        "store": ", ".join(sorted({each["store"] for each in documents})) + f", {len(documents)} runs together",
        "disturbances": [disturbance for each in documents for disturbance in each["disturbances"]],
        "wall_s": sum(each["wall_s"] for each in documents),
        "last_step": sum(each["last_step"] + 1 for each in documents) - 1,
        "step_s": statistics.median(each["step_s"] for each in documents),
        "load": [min(each["load"][0] for each in documents), max(each["load"][1] for each in documents)],
        "attempts": attempts,
        "costs": by_kind,
        "goodput": {"rank_s": rank_s, "training_share": rank_s["training"] / used_s if used_s else None},
        "faults": faults,
        "checkpoints_compared": sum(each["checkpoints_compared"] for each in documents),
    }


def table(document: Mapping[str, Any]) -> str:
    """Markdown of one leg's document."""
    rows = [
        f"run on {document['store']}: {len(document['disturbances'])} disturbances, {document['last_step'] + 1} steps "
        f"of {1000 * document['step_s']:.0f} ms, {document['wall_s']:.0f} s, load {document['load'][0]:.1f} to "
        f"{document['load'][1]:.1f}",
        "",
        "| what was done | times | while | s lost: median | most | steps replayed: median | most |",
        "|---|---|---|---|---|---|---|",
    ]
    for kind, text in WHAT.items():
        if kind in document["costs"]:
            rows.append(_row(text, document["costs"][kind], _moments(document, kind)))
    goodput, wall_s = document["goodput"], document["wall_s"]
    trained_s = (document["last_step"] + 1) * document["step_s"]
    rank_s = ", ".join(f"{kind} {seconds:.0f}" for kind, seconds in goodput["rank_s"].items() if seconds >= 0.5)
    attempts = ", ".join(f"{count} {cause}" for cause, count in sorted(document["attempts"].items()))
    rows += [
        "",
        f"- attempts: {attempts}",
        f"- share of rank-seconds that trained: {100 * (goodput['training_share'] or 0):.1f} % ({rank_s})",
        f"- wall time over that of as many undisturbed steps: {wall_s / trained_s if trained_s else 0:.2f}",
        f"- checkpoints compared with the undisturbed run's, bit for bit: {document['checkpoints_compared']}",
    ]
    for what, faults in document["faults"].items():
        rows.append(f"- {what}: {'yes' if not faults else 'NO'}")
        rows += [f"  - {fault}" for fault in faults[:10]]
    return "\n".join(rows)


def _moments(document: Mapping[str, Any], kind: str) -> str:
    found = Counter(each["what"]["moment"] for each in document["disturbances"] if each["what"]["kind"] == kind)
    return ", ".join(f"{moment} {count}" for moment, count in sorted(found.items()))


def _row(text: str, cost: Mapping[str, Any], moments: str) -> str:
    lost = _pair(cost["lost_s"], ".1f")
    return f"| {text} | {cost['count']} | {moments} | {lost} | {_pair(cost['replayed'], '.0f')} |"


def _pair(values: Sequence[float], form: str) -> str:
    return f"{statistics.median(values):{form}} | {max(values):{form}}" if values else "- | -"
