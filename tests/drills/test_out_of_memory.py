"""Real ranks whose micro-batch finds no memory: halved until it fits, at the cost of no retry and of no other loss."""

import json

from tests.fixtures.runs import ended

SHORT = {"run": {"steps": 12}, "retries": {"failures": 1}}
KEYS = ("step", "samples", "loss", "grad_norm", "lr", "masked")


def figures(lines):
    return [tuple(line[key] for key in KEYS) for line in lines]


def test_a_micro_batch_is_halved_until_it_fits_and_losses_are_those_of_a_run_that_began_with_it(workshop):
    profile = workshop.profile(2, environment=workshop.gates)
    small = workshop.job("small", batch={"size": 32, "micro": 4}, **SHORT)
    workshop.call("gmml-submit", small, "--cluster", profile, "--follow")
    workshop.room(4)
    job = workshop.job("halved", batch={"size": 32, "micro": "auto"}, **SHORT)
    workshop.call("gmml-submit", job, "--cluster", profile, "--follow")
    entries = workshop.entries("halved")
    assert ended(entries) == ["out_of_memory", "out_of_memory", "finished"]
    assert [entry["micro"] for entry in entries if entry["kind"] == "begin"] == [16, 8, 4]
    assert figures(workshop.lines("halved")) == figures(workshop.lines("small"))
    first = json.loads(workshop.call("gmml", "status", "halved", "--json"))["attempts"][0]
    assert first["cause"] == "out_of_memory"


def test_a_micro_batch_that_the_job_fixed_is_left_alone_and_the_run_says_so(workshop):
    profile = workshop.profile(2, environment=workshop.gates)
    workshop.room(4)
    job = workshop.job("fixed", batch={"size": 32, "micro": 8}, **SHORT)
    workshop.call("gmml-submit", job, "--cluster", profile, "--follow", code=5)
    entries = workshop.entries("fixed")
    assert set(ended(entries)) == {"out_of_memory"}
    assert {entry["micro"] for entry in entries if entry["kind"] == "begin"} == {8}
    assert "no smaller micro-batch is tried: batch.micro is a number" in workshop.call("gmml", "status", "fixed")
