"""Runs with compiled blocks: the losses of the plain ones but for rounding, and resumed bit for bit."""

import pytest

from tests.fixtures.runs import ended

STEPS = 24


def losses(lines):
    return [line["loss"] for line in lines]


@pytest.mark.parametrize("zero", ["ddp", 2])
def test_a_compiled_run_learns_as_a_plain_one_and_resumes_from_the_very_step(workshop, zero):
    profile = workshop.profile(2, environment=workshop.gates)
    for name, compiled in (("plain", "false"), ("compiled", "true"), ("broken", "true")):
        job = workshop.job(name, run={"steps": STEPS}, engine={"zero": zero})
        if name == "broken":
            workshop.pace(3, after=10)
        workshop.call("gmml-submit", job, "--cluster", profile, f"engine.compile={compiled}")
        if name == "broken":
            workshop.until("broken", lambda entries: any(entry["kind"] == "begin" for entry in entries))
            workshop.call("gmml", "cancel", "broken")
            workshop.until("broken", ended)
            workshop.pace(0)
            workshop.call("gmml", "resume", "broken")
        workshop.until(name, lambda entries: ended(entries)[-1:] == ["finished"])

    plain, compiled, broken = (losses(workshop.lines(name)) for name in ("plain", "compiled", "broken"))
    assert compiled == pytest.approx(plain, rel=1e-4)
    assert broken == compiled
    assert ended(workshop.entries("broken")) == ["cancelled", "finished"]
    claim = next(entry for entry in workshop.entries("compiled") if entry["kind"] == "claim")
    assert claim["topology"]["compile"] is True
