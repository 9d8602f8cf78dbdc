"""Every file of jobs/ and clusters/ loads, plans and says what it costs and gives."""

from pathlib import Path

import pytest

from gmml_cluster.plan.machine import Machine
from gmml_cluster.plan.plan import make_plan
from gmml_cluster.spec.loading.validate import dump, load_job, load_profile, parse_job

ROOT = Path(__file__).parents[2]
JOBS = sorted((ROOT / "jobs").glob("*.yaml"))
PROFILES = sorted((ROOT / "clusters").glob("*.yaml"))
PROMISED = {"quickstart", "cifar10_vit_tiny", "tiny_imagenet_vit_small", "vit_l_in1k", "vit_l_in21k"}


def named(path):
    return path.stem


def opening(path):
    lines = path.read_text().splitlines()
    end = next(number for number, line in enumerate(lines) if not line.startswith("#"))
    return " ".join(line.removeprefix("#").strip() for line in lines[:end])


def test_the_promised_recipes_and_profiles_are_there():
    assert {named(path) for path in JOBS} >= PROMISED
    assert {named(path) for path in PROFILES} == {"local", "slurm", "ray"}


@pytest.mark.parametrize("path", [*JOBS, *PROFILES], ids=named)
def test_a_file_opens_with_the_schema_by_which_editors_complete_and_check_it(path):
    schema = path.read_text().splitlines()[0].removeprefix("# yaml-language-server: $schema=")
    kind = "job" if path in JOBS else "profile"
    assert (path.parent / schema).resolve() == ROOT / "docs" / "schema" / f"{kind}.schema.json"
    assert (path.parent / schema).is_file()


@pytest.mark.parametrize("path", JOBS, ids=named)
def test_a_recipe_loads_under_the_name_of_its_file(path):
    job = load_job(path)
    assert job.name == path.stem
    assert parse_job(dump(job)) == job


@pytest.mark.parametrize("path", JOBS, ids=named)
def test_a_recipe_opens_with_its_cost_and_its_result_with_the_source(path):
    said = opening(path)
    assert "Cost:" in said
    assert "Result:" in said
    assert "Source:" in said or "no source gives one" in said


@pytest.mark.parametrize("path", JOBS, ids=named)
def test_a_recipe_can_be_planned_where_it_is_meant_to_run(path):
    job = load_job(path)
    machine = Machine(16, 1, gpu_bytes=80 * 2**30) if job.engine.precision == "bf16" else Machine(2, 0)
    plan = make_plan(job, load_profile("slurm")) if job.model.size == "large" else None
    plan = plan or make_plan(job, load_profile("local"), None, machine)
    assert plan.notes == ()
    assert plan.memory.needed_bytes < (2**30 if machine.gpus == 0 else 80 * 2**30)


@pytest.mark.parametrize("name", ["vit_l_in1k", "vit_l_in21k"])
def test_bounds_and_batch_of_a_large_recipe_fit_each_other(name):
    job = load_job(ROOT / "jobs" / f"{name}.yaml")
    plan = make_plan(job, load_profile("slurm"))
    assert plan.ranks[1] == 64
    assert plan.notes == ()  # every GPU has enough to do at both bounds
    assert plan.learning_rate == pytest.approx(2e-3)
    wider = make_plan(load_job(ROOT / "jobs" / f"{name}.yaml", ["resources.nodes=1..16"]), load_profile("slurm"))
    assert "more GPUs gain little" in wider.notes[0]


def test_the_cost_that_a_large_recipe_states_is_the_plans():
    for name, hours in (("vit_l_in1k", "719"), ("vit_l_in21k", "895")):
        path = ROOT / "jobs" / f"{name}.yaml"
        plan = make_plan(load_job(path), load_profile("slurm"))
        assert f"{plan.gpu_time.hours:.0f}" == hours
        assert f"about {hours} hours of one H100 at 30 per cent" in opening(path)


@pytest.mark.parametrize("path", PROFILES, ids=named)
def test_a_profile_loads_and_names_its_launcher(path):
    profile = load_profile(path)
    assert profile.launcher == path.stem
    assert load_profile(path.stem) == profile


def test_the_large_recipe_is_the_released_one_on_another_size():
    job = load_job(ROOT / "jobs" / "vit_l_in1k.yaml")
    assert (job.run.epochs, job.optim.lr, job.optim.lr_per, job.model.drop_path) == (801, 5e-4, 256, 0.1)
    assert (job.optim.weight_decay.start, job.optim.weight_decay.end, job.optim.schedule.final_lr) == (0.04, 0.4, 1e-6)
    plan = make_plan(job, load_profile("slurm"))
    assert plan.steps == -(-801 * 1_281_167 // 1024)
    assert plan.steps * plan.step_flops / 1e18 == pytest.approx(767, abs=1)


def test_the_in21k_recipe_differs_from_the_in1k_one_as_it_says():
    small, large = (dump(load_job(ROOT / "jobs" / f"vit_l_{name}.yaml")) for name in ("in1k", "in21k"))
    assert {name for name in small if small[name] != large[name]} == {"name", "data", "run", "resources"}
