"""What drills on Ray share: a profile, the same run undisturbed, and what is read of a log."""

import pytest

from tests.fixtures.runs import Workshop

STEPS = 400
KEYS = ("step", "loss", "grad_norm", "lr", "wd", "masked")


def figures(lines):
    """What two runs must have in common, to the bit."""
    return [tuple(line[key] for key in KEYS) for line in lines]


def steps_of(entries, kind):
    return [entry["step"] for entry in entries if entry["kind"] == kind]


def ray_profile(site, cluster, ray=None, environment=None, **sections):
    """A profile of the cluster, whose ranks take the workshop's pace."""
    site.extra["RAY_AUTH_MODE"] = "disabled"
    section = {"address": cluster.dashboard, "start": "5 min", **(ray or {})}
    return site.profile(1, launcher="ray", ray=section, environment={**site.gates, **(environment or {})}, **sections)


def committed_in(attempt):
    """Whether this attempt has made a checkpoint."""

    def holds(entries):
        return any(entry["kind"] == "commit" and entry["attempt"] == attempt for entry in entries)

    return holds


@pytest.fixture(scope="module")
def on_one_machine(tmp_path_factory, digits):
    """Metric lines of the same run, its two ranks started by the local launcher."""
    folder = tmp_path_factory.mktemp("local")
    shop = Workshop(folder, f"{digits}/train/*.tar", str(folder / "runs"), {})
    shop.call("gmml-submit", shop.job("calm", run={"steps": STEPS}), "--cluster", shop.profile(2), "--follow")
    return shop.lines("calm")
