"""The plan of a job on a cluster."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gmml_cluster.errors import SpecError
from gmml_cluster.plan.describe import describe
from gmml_cluster.plan.evaluation import LabelledCounts
from gmml_cluster.plan.machine import Machine, ranks_per_node
from gmml_cluster.plan.plan import make_plan
from gmml_cluster.plan.sample_layout import CorpusShape
from gmml_cluster.spec.cluster import ClusterProfile
from gmml_cluster.spec.loading.validate import parse_job

MACHINE = Machine(cores=2, gpus=0)
SHAPES = (CorpusShape(1.0, (700, 0, 597)),)


def job(corpora=({"url": "x"},), **sections):
    base = {
        "name": "x",
        "model": {"width": 64, "depth": 4, "heads": 2, "patch_size": 4},
        "method": {"name": "gmml"},
        "data": {"corpora": list(corpora), "image_size": 32},
        "batch": {"size": 64},
        "run": {"epochs": 99},
    }
    for name, section in sections.items():
        base[name] = {**base.get(name, {}), **section}
    return parse_job(base)


def profile(launcher="slurm", **fields):
    return ClusterProfile.model_validate({"launcher": launcher, "root": "r", "ranks_per_node": 2, **fields})


def test_a_plan_of_known_corpora_knows_everything():
    plan = make_plan(job(), profile("local"), SHAPES, MACHINE)
    assert (plan.nodes, plan.ranks, plan.ranks_per_node) == ((1, 1), (2, 2), 2)
    assert (plan.lanes, plan.group, plan.steps, plan.samples) == (2, 8, 2007, 2007 * 64)
    assert plan.warmup_steps == round(10 * 1297 / 64)
    assert plan.epochs == pytest.approx(99, abs=0.05)
    assert [plan.mixing[0].lanes, plan.mixing[0].achieved] == [2, 1.0]
    (share,) = plan.shares
    assert (share.groups, share.micro_batch, share.micro_batches, share.padding_share) == ((4, 4), 32, 1, 0.0)
    assert None not in (plan.window, plan.spans, plan.epoch_steps)


def test_what_only_the_corpora_can_say_is_known_after_indexing():
    plan = make_plan(job(), profile("local"), None, MACHINE)
    of_corpora = ["lanes", "window", "spans", "mixing", "shares", "epoch_steps", "warmup_steps"]
    names = [*of_corpora, "steps", "samples", "epochs"]
    unknown = [getattr(plan, name) for name in names]
    assert unknown == [None] * len(names)
    assert sum("known after indexing" in line for line in describe(plan)) == 9
    assert plan.memory.total_bytes > 0


def test_samples_in_the_spec_replace_an_index_but_for_the_shards():
    plan = make_plan(job([{"url": "x", "samples": 1297}]), profile("local"), None, MACHINE)
    assert (plan.lanes, plan.steps) == (2, 2007)
    assert plan.spans is None
    half = make_plan(job([{"url": "x", "samples": 1297}, {"url": "y"}]), profile("local"), None, MACHINE)
    assert half.steps is None


def test_lanes_that_are_given_share_a_step_out_before_there_is_an_index():
    corpora = [{"url": "a", "weight": 3}, {"url": "b"}]
    plan = make_plan(job(corpora, data={"lanes": 4}), profile("local"), None, MACHINE)
    assert [(each.url, each.lanes, each.achieved) for each in plan.mixing] == [("a", 3, 0.75), ("b", 1, 0.25)]
    assert [(each.ranks, each.groups, each.micro_batch) for each in plan.shares] == [(2, (4, 4), 32)]
    assert (plan.window, plan.spans, plan.steps) == (None, None, None)


def test_explicit_lengths_need_no_corpora():
    short = job(run={"epochs": None, "samples": 1000}, optim={"schedule": {"warmup": "100 samples"}})
    plan = make_plan(short, profile("local"), None, MACHINE)
    assert (plan.steps, plan.samples, plan.warmup_steps) == (16, 1024, 2)


def test_shares_are_reported_at_both_bounds():
    plan = make_plan(job(data={"lanes": 8}, resources={"nodes": "1..3"}, batch={"micro": 16}), profile(), SHAPES)
    assert (plan.nodes, plan.ranks) == ((1, 3), (2, 6))
    assert [(each.ranks, each.groups, each.micro_batch, each.micro_batches) for each in plan.shares] == [
        (2, (4, 4), 16, 2),
        (6, (1, 2), 16, 1),
    ]
    assert plan.shares[1].padding_share == pytest.approx(1 / 3)


def test_mixing_is_reported_as_asked_and_as_achieved():
    corpora = [{"url": "a", "weight": 2}, {"url": "b", "weight": 1}]
    shapes = [CorpusShape(2.0, (5000,)), CorpusShape(1.0, (5000,))]
    plan = make_plan(job(corpora, data={"lanes": 8}), profile("local"), shapes, MACHINE)
    assert [(each.url, each.lanes, each.achieved) for each in plan.mixing] == [("a", 5, 0.625), ("b", 3, 0.375)]
    assert [each.asked for each in plan.mixing] == pytest.approx([2 / 3, 1 / 3])


def test_fewest_ranks_above_the_lanes_are_a_fault():
    with pytest.raises(
        SpecError, match=r"resources.nodes: 3 nodes have 6 ranks, 2 each, but there are 4 lanes; .* write 2 at most"
    ):
        make_plan(job(data={"lanes": 4}, resources={"nodes": 3}), profile())
    with pytest.raises(SpecError, match=r"but there are 8 groups a step"):
        make_plan(job(resources={"nodes": "5..9"}), profile())
    with pytest.raises(
        SpecError, match=r"1 node has 9 ranks, 9 each, but there are 8 groups a step; .* at most 8 ranks a node"
    ):
        make_plan(job(), profile(ranks_per_node=9))


def test_most_ranks_above_the_lanes_are_cut_with_a_note():
    plan = make_plan(job(data={"lanes": 4}, resources={"nodes": "1..9"}), profile())
    assert (plan.nodes, plan.ranks) == ((1, 2), (2, 4))
    assert (plan.node_range.least, plan.node_range.most) == (1, 2)
    assert plan.notes == ("9 nodes cut to 2: a rank needs a lane, and there are 4 lanes",)


def test_the_local_launcher_starts_at_most_a_rank_a_lane():
    plan = make_plan(job(data={"lanes": 2}), profile("local", ranks_per_node=5), SHAPES, MACHINE)
    assert (plan.ranks_per_node, plan.ranks) == (2, (2, 2))
    assert plan.notes[0] == "5 ranks cut to 2: a rank needs a lane, and there are 2 lanes"
    alone = make_plan(job(data={"lanes": 1}), profile("local", ranks_per_node=5), SHAPES, MACHINE)
    assert alone.notes[0] == "5 ranks cut to 1: a rank needs a lane, and there is 1 lane"


def test_the_local_launcher_has_one_node():
    plan = make_plan(job(resources={"nodes": "1..16"}), profile("local"), SHAPES, MACHINE)
    assert (plan.nodes, plan.ranks) == ((1, 1), (2, 2))
    assert plan.notes[0] == "16 nodes cut to 1: the local launcher has this machine alone"
    with pytest.raises(SpecError, match=r"resources\.nodes: 2\.\.4 does not fit; .* write 1, or 1\.\.4, or choose"):
        make_plan(job(resources={"nodes": "2..4"}), profile("local"), SHAPES, MACHINE)


def test_a_warmup_as_long_as_the_run_is_worth_a_note():
    plan = make_plan(job(run={"epochs": None, "steps": 20}), profile("local"), SHAPES, MACHINE)
    assert any("the peak is never reached" in note for note in plan.notes)


def test_a_layout_that_does_not_fit_is_refused():
    with pytest.raises(SpecError, match=r"data\.corpora\.0: 0 samples"):
        make_plan(job(), profile("local"), [CorpusShape(1.0, (0,))], MACHINE)


def test_the_plan_is_json_and_lines():
    plan = make_plan(job(resources={"nodes": "1..2"}, data={"lanes": 8}), profile(
        environment={"A": "1"}, secrets=["TOKEN"]), SHAPES)  # fmt: skip
    document = json.loads(json.dumps(plan.to_json()))
    assert document["memory"]["total_bytes"] == plan.memory.total_bytes
    assert document["shares"][0]["ranks"] == 2
    lines = describe(plan)
    assert any(line.startswith("environment") and line.endswith("A=1") for line in lines)
    assert any(line.startswith("secrets") and "TOKEN (from the submitting shell" in line for line in lines)
    assert any("parameters" in line and "gradients" in line and "activations" in line for line in lines)
    on_ray = make_plan(job(), profile("ray", ray={"address": "auto"}, secrets=["TOKEN"]), SHAPES)
    assert any(line.startswith("secrets") and "TOKEN (those of Ray's nodes" in line for line in describe(on_ray))


@pytest.mark.parametrize(
    ("machine", "gpus_per_node", "expected"),
    [
        (Machine(1, 0), 0, 1),
        (Machine(2, 0), 0, 2),
        (Machine(64, 0), 8, 2),
        (Machine(64, 4), 0, 4),
        (None, 8, 8),
        (None, 0, 2),
    ],
)
def test_ranks_of_a_node_are_its_gpus_or_two_cores(machine, gpus_per_node, expected):
    auto = profile(ranks_per_node="auto", slurm={"gpus_per_node": gpus_per_node})
    assert ranks_per_node(auto, machine) == expected
    assert ranks_per_node(profile(ranks_per_node=3), machine) == 3


@settings(max_examples=40)
@given(
    nodes=st.integers(1, 6), per_node=st.integers(1, 4), lanes=st.sampled_from([1, 2, 4, 8]), least=st.integers(1, 6)
)
def test_a_plan_never_has_more_ranks_than_lanes(nodes, per_node, lanes, least):
    bounds = f"{min(least, nodes)}..{nodes}"
    try:
        given_job = job(data={"lanes": lanes}, resources={"nodes": bounds})
        plan = make_plan(given_job, profile(ranks_per_node=per_node), SHAPES)
    except SpecError:
        assert min(least, nodes) * per_node > lanes
        return
    assert plan.ranks[0] <= plan.ranks[1] <= lanes
    assert plan.nodes[0] == min(least, nodes)
    for share in plan.shares:
        computed = share.ranks * share.micro_batches * share.micro_batch
        assert computed * (1 - share.padding_share) == pytest.approx(64)


def large(**sections):
    base = {"model": {"size": "large"}, "data": {"image_size": 224, "corpora": [{"url": "x", "samples": 10**6}]}}
    spec = {"name": "x", "method": {"name": "gmml"}, "batch": {"size": 1024}, "run": {"steps": 10**5}, **base}
    spec["engine"] = {"precision": "bf16"}
    for name, section in sections.items():
        spec[name] = {**spec.get(name, {}), **section}
    return parse_job(spec)


def gpu_profile(memory="80 GiB", **fields):
    slurm = {"gpus_per_node": 8, **({"gpu_memory": memory} if memory else {})}
    return ClusterProfile.model_validate({"launcher": "slurm", "root": "r", "slurm": slurm, **fields})


def test_the_plan_for_people_has_what_is_trained():
    lines = {line.split("  ")[0]: line for line in describe(make_plan(large(), gpu_profile()))}
    assert lines["method"].endswith("gmml")
    assert lines["model"].endswith("large: 24 blocks of width 1,024, patches of 16 pixels, images of 224 pixels")
    assert lines["learning rate"].endswith("0.002 after the warm-up")


def test_gpu_hours_cost_what_the_profile_says():
    plan = make_plan(large(), gpu_profile(price_per_gpu_hour="2.50 EUR"))
    assert (plan.cost.amount, plan.cost.currency) == (pytest.approx(2.5 * plan.gpu_time.hours), "EUR")
    (line,) = (line for line in describe(plan) if line.startswith("cost "))
    assert f"{plan.cost.amount:,.2f} EUR" in line


def test_hours_without_a_price_and_a_price_without_gpus_cost_nothing_that_is_known():
    assert make_plan(large(), gpu_profile()).cost is None
    assert make_plan(large(), profile("local", price_per_gpu_hour="2.50 EUR"), None, MACHINE).cost is None


def test_gpu_time_is_shown_with_its_assumption():
    plan = make_plan(large(resources={"nodes": "1..2"}), gpu_profile())
    flops = 10**5 * plan.step_flops
    assert plan.gpu_time.hours == pytest.approx(flops / (0.3 * 989e12) / 3600)
    assert plan.gpu_time.days == pytest.approx((plan.gpu_time.hours / 24 / 8, plan.gpu_time.hours / 24 / 16))
    (line,) = [line for line in describe(plan) if line.startswith("GPU time")]
    assert "H100 hours" in line
    assert "hours on 8, " in line
    assert "hours on 16" in line
    assert "assuming 30% of an H100's peak of 989 TFLOP/s in bf16" in line
    assert make_plan(large(), profile("local"), None, MACHINE).gpu_time is None


def test_ranks_with_too_little_to_do_are_worth_a_note():
    plan = make_plan(large(resources={"nodes": "1..16"}), gpu_profile())
    (note,) = plan.notes
    assert note.startswith("8 images on each of 128 ranks take about 20 ms of arithmetic, launching their kernels")
    assert make_plan(large(resources={"nodes": "1..8"}), gpu_profile()).notes == ()


def test_auto_is_the_largest_micro_batch_that_fits_the_gpu():
    plans = [make_plan(large(), gpu_profile(memory)) for memory in (None, "640 GiB", "80 GiB", "24 GiB")]
    shares = [plan.shares[0] for plan in plans]
    assert [(each.micro_batch, each.micro_batches) for each in shares[:2]] == [(128, 1), (128, 1)]
    assert [each.micro_batch * each.micro_batches >= 128 for each in shares] == [True] * 4
    assert shares[3].micro_batch < shares[2].micro_batch <= 128
    for plan, memory in zip(plans[2:], (80, 24), strict=True):
        assert plan.memory.needed_bytes <= memory * 2**30
        assert plan.notes == ()


def test_auto_on_cpus_is_the_whole_share_of_a_rank():
    plan = make_plan(job(), profile("local"), SHAPES, Machine(2, 0, memory_bytes=2**34))
    assert (plan.shares[0].micro_batch, plan.shares[0].micro_batches) == (32, 1)


def auto(memory, **sections):
    return make_plan(large(engine={"zero": "auto", "precision": "bf16"}, **sections), gpu_profile(memory))


def engine_line(plan):
    (line,) = (line for line in describe(plan) if line.startswith("engine "))
    return line.removeprefix("engine").strip()


@pytest.mark.parametrize(("memory", "zero"), [("80 GiB", "ddp"), ("8 GiB", 1), ("7 GiB", 2), ("6 GiB", 3)])
def test_an_auto_engine_is_the_first_that_fits_and_the_plan_is_that_of_a_job_that_names_it(memory, zero):
    plan, named = auto(memory), make_plan(large(engine={"zero": zero}), gpu_profile(memory))
    note, *others = plan.notes
    assert plan.zero == named.zero == (zero, zero)
    assert (plan.memory, plan.shares, tuple(others)) == (named.memory, named.shares, named.notes)
    engine = "plain DDP" if zero == "ddp" else f"ZeRO {zero}"
    room = f"the first that fits {memory.replace(' ', '.0 ')} of a GPU with the smallest micro-batch"
    assert note.startswith(f"engine.zero: auto takes {engine} at 8 ranks, {room} (plain DDP 9.4 GiB, ZeRO 1 7.9 GiB, ")
    assert engine_line(plan) == engine
    assert json.loads(json.dumps(plan.to_json()))["zero"] == [zero, zero]


def test_an_auto_engine_is_chosen_anew_at_the_most_ranks():
    plan = auto("7 GiB", resources={"nodes": "1..8"})
    assert plan.zero == (2, 2)
    plan = auto("7.7 GiB", resources={"nodes": "1..8"})
    assert plan.zero == (2, 1)
    assert engine_line(plan) == "ZeRO 2; ZeRO 1 at 64 ranks"


def test_an_auto_engine_of_which_none_fits_needs_least_and_raising_it_is_not_advised():
    plan = auto("4 GiB")
    assert plan.zero == (3, 3)
    assert "auto takes ZeRO 3 at 8 ranks, which needs least; none fits 4.0 GiB of a GPU" in plan.notes[0]
    assert plan.notes[1].startswith("a rank needs about 5.3 GiB")
    assert not any("raise engine.zero" in note for note in plan.notes)


def test_an_auto_engine_is_plain_ddp_on_cpus_and_where_no_gpu_is_known():
    on_cpus = make_plan(job(engine={"zero": "auto"}), profile("local"), None, MACHINE)
    assert (on_cpus.zero, on_cpus.notes) == (("ddp", "ddp"), ("engine.zero: auto takes plain DDP on CPUs",))
    unknown = auto(None)
    assert (unknown.zero, unknown.notes[0].split(";")[0]) == (
        ("ddp", "ddp"),
        "engine.zero: auto takes plain DDP, as the memory of a GPU is not known here",
    )


def test_memory_that_cannot_fit_is_a_note():
    huge = large(model={"size": "huge"}, data={"image_size": 224}, batch={"size": 512})
    plan = make_plan(huge, profile("local"), None, Machine(2, 0, memory_bytes=23 * 2**30))
    (note,) = plan.notes
    assert "GiB (1.2 times the estimate) and 0.7 GiB for data.read_ahead and has 11.5 GiB" in note
    assert "this machine of 23.0 GiB for 2: lower batch.micro" in note
    fixed = make_plan(large(engine={"zero": 0}), gpu_profile("4 GiB"))
    assert any("has 4.0 GiB, a GPU of 4.0 GiB: raise engine.zero" in note for note in fixed.notes)
    assert make_plan(huge, gpu_profile(None)).room is None


def test_what_is_read_ahead_counts_as_memory_of_the_host():
    node = Machine(2, 0, memory_bytes=32 * 2**30)
    plan = make_plan(job(), profile("local"), SHAPES, node)
    assert plan.read_ahead_bytes == 2**30  # a sixteenth over two ranks
    assert "read ahead" in "\n".join(describe(plan))
    assert plan.notes == ()
    (note,) = make_plan(job(data={"read_ahead": "16 GiB"}), profile("local"), SHAPES, node).notes
    assert "GiB for data.read_ahead and has 16.0 GiB, this machine of 32.0 GiB for 2: lower data.read_ahead" in note
    assert make_plan(job(), profile(slurm={"memory_per_node": "4 GiB"}), SHAPES).read_ahead_bytes == 2**27
    assert make_plan(job(), profile(), SHAPES).read_ahead_bytes is None


def test_what_is_read_ahead_beside_gpus_must_fit_their_node():
    slurm = {"gpus_per_node": 8, "gpu_memory": "640 GiB", "memory_per_node": "64 GiB"}
    wide = profile(ranks_per_node=8, slurm=slurm)
    assert make_plan(large(data={"read_ahead": "8 GiB"}), wide).notes == ()
    (note,) = make_plan(large(data={"read_ahead": "9 GiB"}), wide).notes
    expected = "9.0 GiB for data.read_ahead on each of 8 ranks do not fit a node of 64.0 GiB: lower data.read_ahead"
    assert note == expected


def test_the_plan_says_what_scores_between_two_steps_cost():
    asked = {"every": "10 epochs", "bank_images": 1000, "corpus_images": 100}
    made = job(model={"width": 64, "depth": 4, "heads": 2, "patch_size": 4}, run={"epochs": 100}, evaluate=asked)
    plan = make_plan(made, profile("local"), SHAPES, MACHINE)
    found = plan.evaluation
    assert (found.every_steps, found.times, found.images) == (203, 10, 1100)
    of_image = 4 * (24 * 65 * 64**2 + 4 * 65**2 * 64) + 2 * 64 * 48 * 64
    assert found.flops == 1100 * of_image
    assert found.share == pytest.approx(10 * found.flops / (10 * found.flops + plan.steps * plan.step_flops))
    (line,) = [line for line in describe(plan) if line.startswith("evaluation")]
    assert "knn by mean, every 203 steps, 10 times; at most 1,100 images" in line
    assert make_plan(job(), profile("local"), SHAPES, MACHINE).evaluation is None
    assert not [note for note in plan.notes if "evaluate" in note]


def test_on_gpus_scores_in_fp32_weigh_more_beside_a_training_in_bf16():
    sections = {"run": {"epochs": None, "steps": 100}, "evaluate": {"every": "50 steps"}}
    gpus = Machine(cores=8, gpus=2)
    full, half = (
        make_plan(job(**sections, engine={"precision": precision}), profile("local"), SHAPES, gpus).evaluation
        for precision in ("fp32", "bf16")
    )
    odds = [each.share / (1 - each.share) for each in (full, half)]
    assert odds[1] / odds[0] == pytest.approx(989 / 67)


def test_scores_that_are_no_small_part_of_the_run_are_noted():
    made = job(run={"epochs": None, "steps": 100}, evaluate={"every": "5 steps"})
    (note,) = [note for note in make_plan(made, profile("local"), SHAPES, MACHINE).notes if "evaluate" in note]
    assert note.endswith(
        "of the run's arithmetic: raise evaluate.every, or lower evaluate.bank_images and evaluate.corpus_images"
    )


@pytest.mark.parametrize(
    ("asked", "held", "images"),
    [
        ({}, LabelledCounts(), 25_000),
        ({}, LabelledCounts(500, 70), 450 + 50),
        ({"corpus": "y"}, LabelledCounts(500, 70), 570),
        ({"corpus": "y", "bank_images": None}, LabelledCounts(50_000, 70_000), 55_000),
        ({"corpus": "y", "bank_images": None}, LabelledCounts(None, 70), None),
        ({"features": ["mean", "taps"]}, LabelledCounts(), 25_000),
    ],
)
def test_the_images_of_an_evaluation_are_those_that_there_are_up_to_the_limits(asked, held, images):
    made = job(run={"epochs": None, "steps": 7}, evaluate={"every": "5 steps", **asked})
    found = make_plan(made, profile(), None, MACHINE, held).evaluation
    assert (found.every_steps, found.times, found.images) == (5, 2, images)
    assert (found.share is None) == (images is None)
