"""The plan of a run with AMT: dear steps, passes, then cheaper steps."""

import pytest

from gmml_cluster.plan.describe import describe
from gmml_cluster.plan.plan import make_plan
from gmml_cluster.plan.sample_layout import CorpusShape
from gmml_cluster.spec.evaluate import Evaluate
from gmml_cluster.spec.job import Model
from gmml_cluster.spec.loading.validate import load_profile
from gmml_cluster.spec.methods.registry import ConmimOptions, GmmlOptions, MaeOptions, SimmimOptions
from tests.unit.methods.jobs import job

MAE = {"name": "mae", "decoder_width": 16, "decoder_depth": 2, "decoder_heads": 2}


def plan_of(amt: object, shapes: list[CorpusShape] | None, steps: int = 100, **sections: object) -> object:
    run = job(MAE).run.model_copy(update={"steps": steps})
    spec = job({**MAE, "amt": amt}).model_copy(update={"run": run, **sections})
    return make_plan(spec, load_profile("local"), shapes)


def test_a_run_costs_its_steps_and_the_passes_that_make_its_maps() -> None:
    shapes = [CorpusShape(1.0, (640,))]
    amt = {"start": "50 steps", "interval": "40 steps"}
    found, never = plan_of(amt, shapes), plan_of(False, shapes)
    D, L, T, N = 16, 4, 17, 16
    one_map = L * (24 * T * D**2 + 4 * T**2 * D) + 6 * N * 16 * D
    assert found.later_step_flops < found.step_flops == never.step_flops
    assert found.total_flops == 50 * found.step_flops + 50 * found.later_step_flops + 2 * 640 * one_map
    assert (never.later_step_flops, never.total_flops) == (None, 100 * never.step_flops)
    late = plan_of({"start": "100 steps", "interval": "40 steps"}, shapes)
    assert late.total_flops == never.total_flops + 640 * one_map, "of the pass that the run would read if it grew"


def test_the_plan_says_when_maps_are_made_and_what_they_cost() -> None:
    shapes = [CorpusShape(1.0, (640,))]
    plan = plan_of({"start": "50 steps", "interval": "40 steps"}, shapes)
    assert (plan.maps.passes, plan.maps.first, plan.maps.start) == (2, 40, 50)
    steps = 50 * plan.step_flops + 50 * plan.later_step_flops
    assert plan.maps.share == pytest.approx(1 - steps / plan.total_flops)
    (line,) = [line for line in describe(plan) if line.startswith("maps")]
    assert line.endswith(
        f"2 passes, the first before step 40, {plan.maps.share:.2%} of the run's arithmetic; read from step 50 on"
    )
    assert not [note for note in plan.notes if "maps" in note]
    assert plan_of(False, shapes).maps is None is plan_of({"interval": "40 steps"}, None).maps


def test_passes_that_cost_more_than_the_steps_are_noted() -> None:
    plan = plan_of({"start": "10 steps", "interval": "1 step"}, [CorpusShape(1.0, (640,))])
    assert (plan.maps.passes, plan.maps.first, plan.maps.start) == (90, 10, 10)
    assert f"AMT's maps take {plan.maps.share:.0%} of the run's arithmetic: raise method.amt.interval" in plan.notes


@pytest.mark.parametrize(("start", "passes"), [("100 steps", 1), ("41 epochs", 0)])
def test_masks_that_stay_random_to_the_end_are_noted(start: str, passes: int) -> None:
    interval = "40 steps" if passes else "40 epochs"
    plan = plan_of({"start": start, "interval": interval}, [CorpusShape(1.0, (640,))])
    assert (plan.maps.passes, plan.maps.start) == (passes, None)
    (note,) = [note for note in plan.notes if "amt" in note]
    assert note.startswith("method.amt begins after the run of 100 steps: all its masks are random; lower")


def test_scores_are_a_share_of_passes_too() -> None:
    asked = Evaluate(every="50 steps", bank_images=600, corpus_images=100)
    amt = {"start": "10 steps", "interval": "2 steps"}
    plan = plan_of(amt, [CorpusShape(1.0, (640,))], evaluate=asked)
    spent = 2 * plan.evaluation.flops
    assert plan.evaluation.share == pytest.approx(spent / (spent + plan.total_flops))


def block(t: int, D: int) -> int:
    return 24 * t * D**2 + 4 * t**2 * D


@pytest.mark.parametrize(("size", "D", "L"), [("small", 384, 12), ("base", 768, 12), ("large", 1024, 24)])
def test_steps_cost_what_the_tokens_held_cost(size: str, D: int, L: int) -> None:
    N, P = 196, 768
    projection = 2 * N * P * D
    mae = L * block(31, D) + projection + 2 * 31 * D * 512 + 8 * block(119, 512) + 2 * 119 * 512 * P
    simmim = L * block(145, D) + projection + 2 * 144 * P * D
    gmml = 2 * (L * block(138, D) + projection + 6 * 137 * D**2 + 2 * N * P * D)
    wide = 2 * 145 * (4096 * D + 4096**2 + 256 * 4096)
    conmim = 4 * (L * block(145, D) + projection + wide) + 6 * 144**2 * 256
    model = Model(size=size)
    expected = [(MaeOptions, 3 * mae), (SimmimOptions, 3 * simmim), (ConmimOptions, conmim)]
    for options, flops in expected:
        name = options.model_fields["name"].annotation.__args__[0]
        assert options(name=name, amt=True).counts(model, 224).later.step_flops == flops, name
    later = GmmlOptions(name="gmml", amt={"mask_ratio": 0.4, "throw_ratio": 0.3}).counts(model, 224).later
    assert later.step_flops == 3 * gmml
