"""One run on 1, 2, 4, 3 and 1 ranks at ZeRO 0, 1, 2, 3 and 1, one after the other: grades A and C of docs/exactness.md.

Every step has the same samples throughout. At each change, the gradient of the next step is computed at the old
topology, at the new one, on one rank, and in float64 from the weights of the checkpoint.
"""

import json
from itertools import pairwise

import pytest
import torch

from gmml_cluster.data.augment import prepare
from gmml_cluster.data.corpus.pin import pin
from gmml_cluster.data.reader.order import Order
from gmml_cluster.data.reader.stream import Stream
from gmml_cluster.methods.build import build
from gmml_cluster.plan.steps import layout_of
from gmml_cluster.run.root import RunRoot
from gmml_cluster.spec.engine import EngineSpec
from gmml_cluster.train.checkpoints.read import CheckpointReader
from tests.fixtures.ranks import run_ranks
from tests.fixtures.runs import ended
from tests.fixtures.tolerances import ULP
from tests.fixtures.training import Training, train

pytestmark = pytest.mark.timeout(1800)

LEGS = ((1, 0), (2, 1), (4, 2), (3, 3), (1, 1))
"""Ranks and ZeRO stage of each attempt."""
STEPS = 100_000
"""More than are made: every attempt is cancelled."""


@pytest.fixture(scope="module")
def chain(tmp_path_factory, digits):
    """The run, its last attempt cancelled too; the entries of its log."""
    from tests.fixtures.runs import Workshop

    folder = tmp_path_factory.mktemp("chain")
    shop = Workshop(folder, f"{digits}/train/*.tar", str(folder / "runs"), {})
    job = shop.job("chain", run={"steps": STEPS}, checkpoint={"every": "10 steps", "keep": 1000})
    for number, (ranks, zero) in enumerate(LEGS, 1):
        shop.call("gmml-submit", job, "--cluster", shop.profile(ranks), f"engine.zero={zero}")
        shop.until("chain", lambda entries, number=number: committed(entries, number))
        shop.call("gmml", "cancel", "chain")
        shop.until("chain", lambda entries, number=number: len(ended(entries)) == number)
    return shop, shop.entries("chain")


def committed(entries, attempt):
    return [e["step"] for e in entries if e["kind"] == "commit" and e["attempt"] == attempt]


def test_each_attempt_has_its_topology_and_begins_where_the_one_before_stopped(chain):
    _, entries = chain
    topologies = [entry["topology"] for entry in entries if entry["kind"] == "claim"]
    assert [(topology["ranks"], topology["zero"]) for topology in topologies] == list(LEGS)
    begins = [entry["step"] for entry in entries if entry["kind"] == "begin"]
    last = [committed(entries, attempt)[-1] for attempt in range(1, len(LEGS) + 1)]
    assert begins == [0, *(step + 1 for step in last[:-1])]
    assert ended(entries) == ["cancelled"] * len(LEGS)


def test_every_step_has_one_line_and_the_same_samples_at_every_topology(chain):
    shop, entries = chain
    lines = shop.lines("chain")
    assert [line["step"] for line in lines] == list(range(committed(entries, len(LEGS))[-1] + 1))
    begins = [entry["step"] for entry in entries if entry["kind"] == "begin"]
    for step, legs in zip(begins[1:], pairwise(LEGS), strict=True):
        first, last = (step - 1) * 32, (step + 1) * 32 - 1
        found = [samples(shop, ranks, first, last) for ranks, _ in legs]
        assert found[0] == found[1]
        assert [each["n"] for each in found[0]] == list(range(first, last + 1))


def samples(shop, ranks, first, last):
    """What each sample number is, without who reads it."""
    job = shop.folder / "chain.yaml"
    text = shop.call("gmml", "order", job, "--samples", f"{first}..{last}", "--ranks", ranks, "--json")
    return [
        {k: v for k, v in json.loads(line).items() if k not in ("rank", "micro_batch")}
        for line in text.split("\n")[:-1]
    ]


# ---- grade C -------------------------------------------------------------------------------------------------------


def job_at(root, zero):
    """The run's job with an engine of its own; without a clip, so that a first moment is a tenth of the gradient."""
    job = RunRoot(root, "chain").job({})
    optim = job.optim.model_copy(update={"clip": None})
    return job.model_copy(update={"engine": EngineSpec(zero=zero), "optim": optim})


def begin_of(root, commit):
    """The weights of a checkpoint, and moments of zero."""
    store = RunRoot(root, "chain").store
    found = CheckpointReader(store, *commit)
    state = {}
    for name, tensor in found.manifest["tensors"].items():
        weights = found.tensor(name).flatten()
        for key in {part["key"] for part in tensor["slices"]}:
            state[name, key] = weights if key == "value" else torch.zeros_like(weights)
    return Training([], state, 0)


def gradients(rank, ranks, root, commit, step, stages):
    """The reduced gradient of a step by tensor, at each of the stages."""
    begin, found = begin_of(root, commit), {}
    for zero in stages:
        done = train(job_at(root, zero), range(step, step + 1), begin=begin, rank=rank, ranks=ranks)
        found[zero] = {name: 10 * value for (name, key), value in done.state.items() if key == "exp_avg"}
    return found


def exact(rank, ranks, root, commit, step):
    """The same in float64, of all groups at once."""
    job, begin = job_at(root, "ddp"), begin_of(root, commit)
    method = build(job)
    weights = {name: value for (name, key), value in begin.state.items() if key == "value"}
    with torch.no_grad():
        for name, parameter in method.module.named_parameters():
            parameter.copy_(weights[name].view_as(parameter))
    method.module.double()
    pinned = pin(job.data.corpora)
    stream = Stream(
        Order(layout_of(job, pinned.shapes)), pinned, job.data,
        seed=job.seed, views=method.views, ranks=1, rank=0, first_step=step,
    )  # fmt: skip
    batch = stream.next()
    stream.close()
    numbers = torch.from_numpy(batch.numbers)
    data = job.data
    images = prepare(
        torch.from_numpy(batch.images), numbers,
        seed=job.seed, augment=data.augment, normalise=data.normalise, patch_size=job.model.patch_size,
    )  # fmt: skip
    draws = method.draw(numbers, torch.device("cpu"), dtype=torch.float64)
    method.loss(method.module, images.double(), draws).groups.mean().backward()
    return {name: p.grad.flatten() for name, p in method.module.named_parameters() if p.grad is not None}


def distances(found, expected):
    return {name: float((found[name].double() - value).norm() / value.norm()) for name, value in expected.items()}


@pytest.mark.parametrize("change", range(1, len(LEGS)), ids=lambda at: f"{LEGS[at - 1]} to {LEGS[at]}")
def test_each_gradient_is_at_most_three_times_as_far_from_float64_as_that_of_one_rank(chain, change):
    shop, entries = chain
    last = next(e for e in reversed(entries) if e["kind"] == "commit" and e["attempt"] == change)
    step = last["step"] + 1
    given = shop.root, (f"checkpoints/{last['step']:08d}-{change:04d}", last["manifest"]), step
    (expected,) = run_ranks(1, exact, *given)
    largest = max(float(value.norm()) for value in expected.values())
    expected = {name: value for name, value in expected.items() if float(value.norm()) > 1e-9 * largest}
    (alone,) = run_ranks(1, gradients, *given, ["ddp"])
    bounds = {name: max(3 * far, 4 * ULP) for name, far in distances(alone["ddp"], expected).items()}
    for ranks, zero in LEGS[change - 1 : change + 1]:
        (found, *_) = run_ranks(ranks, gradients, *given, [zero])
        far = distances(found[zero], expected)
        assert {name: (far[name], bounds[name]) for name in far if far[name] > bounds[name]} == {}, (ranks, zero)
