"""A run whose engine is chosen by memory is the run of that engine, and is computed again by it."""

import json

from tests.fixtures.runs import ended

SHORT = {"run": {"steps": 8}, "checkpoint": {"every": "4 steps", "keep": 2}}
KEYS = ("step", "loss", "grad_norm", "lr", "wd", "masked")


def figures(lines):
    return [tuple(line[key] for key in KEYS) for line in lines]


def test_on_cpus_an_auto_engine_is_plain_ddp_to_the_bit_in_the_log_and_in_a_replay(workshop):
    profile = workshop.profile(2)
    for zero in ("auto", "ddp"):
        workshop.call(
            "gmml-submit", workshop.job(zero, engine={"zero": zero}, **SHORT), "--cluster", profile, "--follow"
        )
        assert ended(workshop.entries(zero)) == ["finished"]
        (claim,) = [entry for entry in workshop.entries(zero) if entry["kind"] == "claim"]
        assert (claim["topology"]["ranks"], claim["topology"]["zero"]) == (2, "ddp")
    found = workshop.lines("auto")
    assert [line["step"] for line in found] == list(range(8))
    assert figures(found) == figures(workshop.lines("ddp"))
    replay = json.loads(workshop.call("gmml", "replay", "auto", "--json"))
    assert (replay["equal"], [each["zero"] for each in replay["topologies"]]) == (True, ["ddp"])
