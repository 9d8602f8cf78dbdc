"""docs/agents.md is a session that works: its commands in their order by `--json` alone, a run killed on the way."""

import random
import re
from pathlib import Path

import yaml
from PIL import Image

from tests.contract.test_docs import fences
from tests.fixtures.outputs import documents
from tests.fixtures.programs import Program
from tests.fixtures.runs import JOB
from tests.fixtures.supervised import wait_for

PAGE = (Path(__file__).parents[2] / "docs" / "agents.md").read_text()
STEPS = 12
HELD_S = 600
"""Seconds that a step takes until it is let go: what is to be killed must not finish before."""
SWEEP = "tiny-lr-drop_path"
FIRST, CANCELLED = "tiny-lr1e-3-drop_path0", "tiny-lr1e-3-drop_path0.1"


def session():
    """Each command line of the page, with the exit code that it says."""
    for line in "".join(fences(PAGE, "sh")).splitlines():
        command, _, said = line.partition("  # exits with ")
        yield command, int(said or 0)


def photos(folder):
    """Images of two classes: bright ones and dark ones."""
    drawn = random.Random(1)
    for name, base in (("bright", 200), ("dark", 20)):
        (folder / name).mkdir(parents=True)
        for number in range(80):
            image = Image.new("RGB", (16, 16), tuple(base + drawn.randrange(40) for _ in range(3)))
            image.save(folder / name / f"{number}.png")


def edited(workshop):
    """The job file as its owner leaves it; `gmml new` has written it."""
    data = {**JOB["data"], "corpora": [{"url": "corpus/*.tar"}]}
    small = {"run": {"steps": STEPS}, "engine": {"zero": "ddp"}, "checkpoint": {"every": "4 steps", "keep": 2}}
    spec = {"name": "tiny", **JOB, "data": data, **small, "evaluate": {"every": f"{STEPS} steps"}}
    (workshop.folder / "tiny.yaml").write_text(yaml.safe_dump(spec))


def is_at_step(program, run, step):
    """Whether an attempt of the run has made so many steps, by its checkpoint."""
    return (program.one(f"gmml status {run} --json")["committed_step"] or -1) >= step


def test_the_session_of_the_page_works_by_json_alone(workshop):
    program, printed = Program(workshop), {}
    photos(workshop.folder / "photos")
    (workshop.folder / "clusters").mkdir()
    profile = {"launcher": "local", "root": "runs", "ranks_per_node": 1, "environment": workshop.gates}
    (workshop.folder / "clusters" / "local.yaml").write_text(yaml.safe_dump(profile))
    workshop.pace(HELD_S, after=6)
    for line, code in session():
        if line.startswith("gmml cancel"):  # two of the four are at work by now
            for run in (FIRST, CANCELLED):
                wait_for(lambda run=run: is_at_step(program, run, 3))
            program.kill(FIRST)
        if line.startswith("gmml resume"):
            workshop.pace(0)
        printed[line] = program.call(line, code)
        if line.startswith("gmml cancel"):
            workshop.pace(2, after=6)  # slow enough for its notice to come before its last step
        if line.startswith("gmml new"):
            edited(workshop)
    assert len(printed) > 15

    def last(start):
        return next(found for line, found in reversed(printed.items()) if line.startswith(start))

    assert [run["action"] for run in last("gmml-submit")[0]["runs"]] == ["submitted"] * 4
    resumed = {run["run"]: run["action"] for run in last("gmml resume")[0]["runs"]}
    assert (resumed[FIRST], resumed[CANCELLED]) == ("resumed", "resumed")
    assert {run["outcome"] for run in last("gmml wait")[0]["runs"]} == {"finished"}
    assert [line["step"] for line in last("gmml metrics")] == list(range(STEPS))
    assert {row["run"] for row in last("gmml compare")[0]["scores"]} == set(program.states(SWEEP)) | {
        "tiny-lr2e-3-drop_path0.1"  # removed at the end
    }
    exported = last("gmml export")[0]
    assert (exported["step"], (Path(exported["folder"]) / exported["files"][0]).exists()) == (STEPS - 1, True)
    # what is safe to repeat: nothing is submitted twice, and nothing is done to what has finished
    again = program.one(next(line for line in printed if line.startswith("gmml-submit") and "--parallel" in line))
    assert {run["run"]: run["action"] for run in again["runs"]} == {
        **dict.fromkeys(program.states(SWEEP), "finished"),
        "tiny-lr2e-3-drop_path0.1": "submitted",
    }
    assert program.one(f"gmml cancel {FIRST} --json")["runs"][0]["action"] == "finished"
    program.call("gmml cancel tiny-lr2e-3-drop_path0.1 --json")


def test_what_is_wrong_is_said_before_anything_is_queued(workshop):
    program = Program(workshop)
    good = workshop.job("good")
    here = workshop.profile(1)
    empty = workshop.folder / "empty"
    empty.mkdir()
    asked = {
        f"gmml-submit {good} --cluster {here} optim.lrr=1 model.depth=-1 --json": (2, "SpecError", 2),
        f"gmml-submit {good} --cluster {here} --sweep optim.lr=1e-3,oops --json": (2, "SpecError", 1),
        f"gmml-submit {good} --cluster {here} resources.nodes=4 --json": (2, "SpecError", 1),
        f"gmml-submit {good} --cluster {here} 'data.corpora=[{{url: {empty}/*.tar}}]' --json": (3, "PreflightError", 1),
        f"gmml-submit {good} --cluster nowhere --json": (2, "SpecError", 1),
        "gmml status nobody --json": (2, "SpecError", 1),
        "gmml statsu --json": (2, "UsageError", 1),
        "gmml rm good --json": (2, "UsageError", 1),
    }
    for line, (code, error, faults) in asked.items():
        found = program.one(line, code)
        assert (found["error"], found["exit_code"], len(found["faults"])) == (error, code, faults), line
        assert all(fault["where"] and fault["problem"] for fault in found["faults"]), line
    assert program.call("gmml status --json") == []
    assert not Path(workshop.root).exists() or not list(Path(workshop.root).iterdir())


def test_only_documents_are_on_stdout_and_the_sentences_of_an_error_stay_on_stderr(workshop):
    line = ("gmml", "status", "nobody")
    plain, said = workshop.call(*line, code=2), workshop.call(*line, code=2, errors=True)
    assert (plain, bool(said)) == ("", True)
    assert workshop.call(*line, "--json", code=2, errors=True) == said
    assert documents(workshop.call(*line, "--json", code=2))[0]["error"] == "SpecError"


def test_the_page_shows_a_command_of_each_verb_of_the_flow():
    verbs = {" ".join(re.findall(r"^(gmml-submit|gmml \w+)", line)) for line, _ in session()}
    assert verbs >= {"gmml-submit", *(f"gmml {verb}" for verb in ("status", "wait", "compare", "export"))}
