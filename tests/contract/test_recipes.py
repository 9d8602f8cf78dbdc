"""Every file of jobs/ and clusters/ loads, plans and says what it costs and gives."""

import re
import shlex
from pathlib import Path

import pytest

from gmml_cluster.plan.machine import Machine
from gmml_cluster.plan.plan import make_plan
from gmml_cluster.spec.job import Resources
from gmml_cluster.spec.loading.validate import dump, load_job, load_profile, parse_job

ROOT = Path(__file__).parents[2]
GPU = 80 * 2**30
JOBS = sorted((ROOT / "jobs").glob("*.yaml"))
PROFILES = sorted((ROOT / "clusters").glob("*.yaml"))
PROMISED = {"quickstart", "cifar10_vit_tiny", "tiny_imagenet_vit_small", "vit_l_in1k", "vit_l_in21k"}
METHODS = {"gmml", "mae", "simmim", "conmim", "relvit", "capi", "ijepa"}
"""Those that pre-train from images alone."""
SCALES = {"CIFAR-10": None, "Tiny ImageNet": None, "ImageNet-1k": {"small", "base", "large"}, "ImageNet-21k": None}
"""Sections of docs/recipes.md, and the sizes of which each has one row a method at least."""


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


def planned(job):
    """The plan where the job is meant to run: on nodes of GPUs, one GPU, or two cores."""
    if job.resources.nodes.most > 1:
        return make_plan(job, load_profile("slurm"))
    gpu = job.engine.precision == "bf16"
    return make_plan(job, load_profile("local"), None, Machine(16, 1, gpu_bytes=GPU) if gpu else Machine(2, 0))


def hours_of(plan):
    hours = plan.gpu_time.hours
    return f"{hours:,.0f}" if hours >= 10 else f"{hours:.1f}" if hours >= 0.1 else f"{hours:.1g}"


@pytest.mark.parametrize("path", JOBS, ids=named)
def test_a_recipe_can_be_planned_where_it_is_meant_to_run(path):
    job = load_job(path)
    plan = planned(job)
    assert plan.notes == ()  # no warm-up as long as the run, no memory that is missing
    assert plan.memory.needed_bytes < (GPU if job.engine.precision == "bf16" else 2**30)


@pytest.mark.parametrize("path", [path for path in JOBS if load_job(path).engine.precision == "bf16"], ids=named)
def test_the_cost_that_a_recipe_for_gpus_states_is_the_plans(path):
    assert f"about {hours_of(planned(load_job(path)))} hours of one H100 at 30 per cent" in opening(path)


@pytest.mark.parametrize("name", ["vit_l_in1k", "vit_l_in21k"])
def test_bounds_and_batch_of_a_large_recipe_fit_each_other(name):
    job = load_job(ROOT / "jobs" / f"{name}.yaml")
    plan = make_plan(job, load_profile("slurm"))
    assert plan.ranks[1] == 64
    assert plan.notes == ()  # every GPU has enough to do at both bounds
    assert plan.learning_rate == pytest.approx(2e-3)
    wider = make_plan(load_job(ROOT / "jobs" / f"{name}.yaml", ["resources.nodes=1..16"]), load_profile("slurm"))
    assert "more GPUs gain little" in wider.notes[0]


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


def rows():
    """Each row of docs/recipes.md with the section that it stands in."""
    for section in (ROOT / "docs" / "recipes.md").read_text().split("\n## ")[1:]:
        scale, _, text = section.partition("\n")
        for row in re.findall(r"^\| .+? \| `gmml-submit .+ \|$", text, re.MULTILINE):
            yield scale, [cell.strip() for cell in row.strip("|").split("|")]


def submitted(command):
    """The job that a command of the table submits."""
    path, *overrides = shlex.split(command.strip("`"))[1:]
    return load_job(ROOT / path, overrides)


def length_of(run):
    lengths = {"epochs": run.epochs, "steps": run.steps, "images": run.samples}
    return next(f"{number:,.0f} {unit}" for unit, number in lengths.items() if number is not None)


def three_digits(number):
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


@pytest.mark.parametrize("cells", [cells for _, cells in rows()], ids=lambda cells: cells[0])
def test_a_row_of_the_page_says_what_its_command_does(cells):
    _, command, length, batch, rate, arithmetic, hours, published = cells
    job = submitted(command)
    plan = planned(job.model_copy(update={"resources": Resources()}))
    gpu = job.engine.precision == "bf16"
    work = plan.total_flops / (1e18 if gpu else 1e12)
    assert plan.notes == ()
    assert length == length_of(job.run)
    assert (batch, rate) == (f"{job.batch.size:,}", f"{plan.learning_rate:.3g}")
    assert arithmetic == f"{three_digits(work)} {'EFLOP' if gpu else 'TFLOP'}"
    assert hours == (hours_of(plan) if gpu else "-")
    assert published


def test_no_two_rows_of_the_page_are_one_run():
    names = [submitted(command).name for _, (_, command, *_) in rows()]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("scale", SCALES)
def test_every_method_has_a_recipe_at_every_scale(scale):
    jobs = [submitted(command) for section, (_, command, *_) in rows() if section == scale]
    assert {job.method.name for job in jobs} == METHODS
    attended = [job for job in jobs if getattr(job.method, "amt", None) is not None]
    assert attended, "AMT has one too"
    for name in METHODS if SCALES[scale] else ():
        assert {job.model.size for job in jobs if job.method.name == name} >= SCALES[scale]
    assert {job.model.size for job in attended} >= (SCALES[scale] or set())
