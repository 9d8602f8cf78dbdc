"""What a step does in every engine: DDP and ZeRO 0 to 3 on gloo ranks, against a float64 recomputation and each other.

A rank makes many engines one after the other, for starting a group costs more than training this small transformer.
"""

import contextlib
import functools
import io
import itertools
import math
from collections import Counter
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from gmml_cluster.methods.build import build
from gmml_cluster.spec.job import Clip
from gmml_cluster.spec.loading.validate import parse_job
from tests.fixtures.engines import (
    CPU,
    DECAY,
    ENGINES,
    LR,
    STUDENT,
    TEACHER,
    joined,
    make,
    make_module,
    on_ranks,
    reference,
    same,
    state_of,
    train,
)
from tests.fixtures.ranks import GROUP_TIMEOUT
from tests.fixtures.tolerances import ULP


@functools.cache
def found_on(ranks: int) -> dict[str, list[Any]]:
    """What each of the ranks found, by function."""
    functions = {
        1: (print_nothing, forget_a_tensor, measure_norms, real_gradients_of_one_rank),
        2: (measure_norms, first_moments, skip, latch, count_waits, run_bf16, real_gradients, time_outs),
        3: (measure_norms,),
    }
    return on_ranks(ranks, functions[ranks])


# ---- norms ---------------------------------------------------------------------------------------------------------


def measure_norms(rank: int, ranks: int) -> dict[Any, tuple[list[str], list[float]]]:
    """With a learning rate of 0, so that an engine's weights stay for its next measurement."""
    found = {}
    for zero in ENGINES:
        engine = make(zero)
        for micro in (1, 2, 4):
            found[zero, micro] = (list(engine.names), train(engine, 0, rank, ranks, micro=micro, lr=0.0).tolist())
    return found


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_norms_of_the_reduced_gradient_equal_a_float64_recomputation(ranks: int) -> None:
    expected = reference(0, make_module())
    for found in found_on(ranks)["measure_norms"]:
        for case, (names, vector) in found.items():
            assert names == list(expected), case
            norms = [math.sqrt(square) for square in vector[: len(names)]]
            assert norms == pytest.approx(list(expected.values()), rel=32 * ULP), case
            assert vector[len(names) + 1] == ranks


# ---- gradients of the real methods -----------------------------------------------------------------------------------

REAL = {
    "gmml": {"name": "gmml"},
    "mae": {"name": "mae", "decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2},
    "conmim": {"name": "conmim", "projector": [64, 64, 32]},
    "simmim": {"name": "simmim"},
    "relvit": {"name": "relvit", "distances": True},
    "ijepa": {"name": "ijepa", "predictor_width": 16, "predictor_depth": 1, "border": "full"},
    "capi": {"name": "capi", "clusters": 8, "registers": 4, "predictor_depth": 1, "predict_ratio": 0.3},
}
REAL_GROUPS, REAL_GROUP = 4, 4


def real_job(name: str, *, checkpointing: bool) -> Any:
    return parse_job(
        {
            "name": "real",
            "model": {
                "width": 16,
                "depth": 4,
                "heads": 2,
                "patch_size": 4,
                "drop_path": 0.1 if name in ("gmml", "relvit") else 0,
            },
            "method": REAL[name],
            "data": {
                "corpora": [{"url": "none"}],
                "image_size": 16,
                "group": REAL_GROUP,
                "augment": {"aligned": True},
            },
            "batch": {"size": REAL_GROUPS * REAL_GROUP},
            "run": {"steps": 1},
            "engine": {"activation_checkpointing": checkpointing},
        }
    )


def real_losses(method: Any, forward: Any, groups: range, dtype: torch.dtype = torch.float32) -> Tensor:
    """Losses of some groups of the first step."""
    numbers = torch.arange(groups.start * REAL_GROUP, groups.stop * REAL_GROUP)
    generator = torch.Generator().manual_seed(1)
    images = torch.randn(REAL_GROUPS * REAL_GROUP, method.views, 3, 16, 16, generator=generator)
    return method.loss(forward, images[numbers].to(dtype), method.draw(numbers, CPU, dtype=dtype)).groups


def real_gradients(rank: int, ranks: int, *, cases: Any = None) -> dict[Any, dict[Any, Tensor]]:
    """This rank's slices of a tenth of the gradient, which AdamW's first moment is after one step."""
    found = {}
    for name, checkpointing, zero in cases or itertools.product(REAL, (False, True), ENGINES):
        method = build(real_job(name, checkpointing=checkpointing))
        engine = make(zero, method.module)
        first, last = (number * REAL_GROUPS // ranks for number in (rank, rank + 1))
        losses = real_losses(method, engine.forward, range(first, last))
        engine.backward(ranks / REAL_GROUPS * losses.sum(), last=True)
        engine.step(LR, DECAY, torch.zeros(1, dtype=torch.float64))
        found[name, checkpointing, zero] = {at: part for at, part in state_of(engine).items() if at[1] == "exp_avg"}
    return found


def real_gradients_of_one_rank(rank: int, ranks: int) -> dict[Any, dict[Any, Tensor]]:
    return real_gradients(rank, ranks, cases=[(name, False, "ddp") for name in REAL])


def exact_gradients(name: str) -> dict[str, Tensor]:
    method = build(real_job(name, checkpointing=False))
    method.module.double()
    real_losses(method, method.module, range(REAL_GROUPS), torch.float64).mean().backward()
    found = {at: p.grad.flatten() for at, p in method.module.named_parameters() if p.grad is not None}
    largest = max(float(value.norm()) for value in found.values())
    # before a bias-free layer and BatchNorm, as ConMIM's last norm is, a bias has no gradient but rounding noise
    return {at: value for at, value in found.items() if float(value.norm()) > 1e-9 * largest}


@pytest.mark.parametrize("name", REAL)
def test_each_engine_is_at_most_three_times_as_far_from_float64_as_one_rank_for_each_tensor(name: str) -> None:
    exact = exact_gradients(name)

    def distances(found: list[Any], case: Any) -> dict[str, float]:
        whole = joined([of_rank[case] for of_rank in found])
        return {
            at: float((10 * whole[at, "exp_avg"].double() - value).norm() / value.norm()) for at, value in exact.items()
        }

    alone = distances(found_on(1)["real_gradients_of_one_rank"], (name, False, "ddp"))
    assert max(alone.values()) < 128 * ULP
    bounds = {at: max(3 * far, 4 * ULP) for at, far in alone.items()}  # a tensor may be nearly exact by chance
    for checkpointing, zero in itertools.product((False, True), ENGINES):
        found = distances(found_on(2)["real_gradients"], (name, checkpointing, zero))
        assert {at: (far, bounds[at]) for at, far in found.items() if far > bounds[at]} == {}, (checkpointing, zero)


# ---- clip ----------------------------------------------------------------------------------------------------------


def first_moments(rank: int, ranks: int) -> dict[Any, dict[Any, Tensor]]:
    """AdamW's first moment after one step is a tenth of the clipped gradient."""
    clips = {"none": None, "tensor": Clip(norm=0.7), "global": Clip(norm=0.7, by="global")}
    found = {}
    for zero, (name, clip) in itertools.product(ENGINES, clips.items()):
        engine = make(zero, clip=clip)
        train(engine, 0, rank, ranks)
        found[zero, name] = state_of(engine)
    return found


def test_gradients_are_clipped_by_tensor_or_over_all_alike_in_every_engine() -> None:
    found = found_on(2)["first_moments"]
    expected = reference(0, make_module())
    total = math.sqrt(sum(norm**2 for norm in expected.values()))
    assert sum(norm > 0.7 for norm in expected.values()) > 5
    for zero in ENGINES:
        for clip in ("none", "tensor", "global"):
            whole = joined([of_rank[zero, clip] for of_rank in found])
            for name, norm in expected.items():
                bound = {"none": norm, "tensor": min(norm, 0.7), "global": norm * min(1, 0.7 / total)}[clip]
                got = float(whole[name, "exp_avg"].double().norm()) * 10
                assert got == pytest.approx(bound, rel=128 * ULP), (zero, clip, name)


# ---- skips ---------------------------------------------------------------------------------------------------------


def skip(rank: int, ranks: int) -> dict[Any, Any]:
    found: dict[Any, Any] = {}
    for zero in ENGINES:
        engine, undisturbed = make(zero, clip=Clip()), make(zero, clip=Clip())
        for step in range(2):
            train(engine, step, rank, ranks)
            train(undisturbed, step, rank, ranks)
        before, count = state_of(engine), engine.adam_step
        vector = train(engine, 2, rank, ranks, spoil=True)
        seen = {
            "not finite": not bool(torch.isfinite(vector).all()),
            "same": same(before, state_of(engine)),
            "adam_step": (count, engine.adam_step),
            "skips": [int(engine.skips_in_a_row)],
        }
        train(engine, 3, rank, ranks)
        train(undisturbed, 3, rank, ranks)
        seen["goes_on"] = same(state_of(engine), state_of(undisturbed))
        seen["skips"].append(int(engine.skips_in_a_row))
        found[zero] = seen
    return found


def test_a_step_that_is_not_finite_changes_no_bit_and_training_continues_as_if_it_had_not_been() -> None:
    for of_rank in found_on(2)["skip"]:
        for zero, seen in of_rank.items():
            expected = {"not finite": True, "same": True, "adam_step": (2, 2), "skips": [1, 0], "goes_on": True}
            assert seen == expected, zero


def latch(rank: int, ranks: int) -> dict[Any, Any]:
    found = {}
    for zero in ENGINES:
        engine = make(zero)
        skips = []
        train(engine, 0, rank, ranks)
        before = state_of(engine)
        for step in range(3):
            train(engine, step, rank, ranks, spoil=True)
            skips.append(int(engine.skips_in_a_row))
        finite = bool(torch.isfinite(train(engine, 4, rank, ranks)).all())
        held = same(before, state_of(engine))
        skips.append(int(engine.skips_in_a_row))
        engine.skips_in_a_row.fill_(0)
        train(engine, 4, rank, ranks)
        found[zero] = (skips, finite, held, engine.adam_step)
    return found


def test_after_three_skips_in_a_row_a_finite_step_changes_nothing_until_the_count_is_reset() -> None:
    for of_rank in found_on(2)["latch"]:
        assert of_rank == dict.fromkeys(ENGINES, ([1, 2, 3, 3], True, True, 2))


# ---- the host ------------------------------------------------------------------------------------------------------


class Waits(TorchDispatchMode):
    """Counts what would make the host wait for a GPU."""

    NAMES = ("_local_scalar_dense", "nonzero", "equal", "is_nonzero", "masked_select", "item")

    def __init__(self) -> None:
        super().__init__()
        self.met: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func.overloadpacket.__name__
        if name in self.NAMES:
            self.met[name] += 1
        return func(*args, **(kwargs or {}))


def count_waits(rank: int, ranks: int) -> dict[Any, dict[str, int]]:
    # the engine is the first to import DeepSpeed: it sets what that reads
    from deepspeed.accelerator import get_accelerator

    found = {}
    for zero in ENGINES:
        engine = make(zero, clip=Clip())
        for step in range(2):
            train(engine, step, rank, ranks, micro=2)
        accelerator = get_accelerator()
        waits, synchronize = Waits(), type(accelerator).synchronize
        type(accelerator).synchronize = lambda *_, met=waits.met: met.update(["synchronize"])
        with waits:
            train(engine, 2, rank, ranks, micro=2)
            engine.lerp(TEACHER, STUDENT, 0.25)
        type(accelerator).synchronize = synchronize
        found[zero] = dict(waits.met)
    return found


def test_nothing_inside_a_step_waits_for_the_device() -> None:
    for of_rank in found_on(2)["count_waits"]:
        assert of_rank == {zero: {} for zero in ENGINES}


def test_the_counter_of_waits_sees_them() -> None:
    waits = Waits()
    with waits:
        assert float(torch.ones(3).sum()) == 3
    assert waits.met["_local_scalar_dense"] == 1


# ---- time-outs -----------------------------------------------------------------------------------------------------


def time_outs(rank: int, ranks: int) -> list[float]:
    """Seconds after which a collective of each process group gives up, where an engine made some."""
    make(1)
    groups = dist.distributed_c10d._world.pg_map
    return [group._get_backend(CPU).options._timeout.total_seconds() for group in groups]


def test_every_process_group_of_deepspeed_has_the_time_out_of_the_one_it_was_given() -> None:
    for of_rank in found_on(2)["time_outs"]:
        assert len(of_rank) > 1, "DeepSpeed made a group of its own"
        assert set(of_rank) == {GROUP_TIMEOUT.total_seconds()}


# ---- precision, output, faults -------------------------------------------------------------------------------------


def run_bf16(rank: int, ranks: int) -> dict[Any, Any]:
    found = {}
    for zero in ENGINES:
        module = make_module()
        types: set[torch.dtype] = set()
        module.head.register_forward_hook(lambda _m, _i, out, types=types: types.add(out.dtype))
        engine = make(zero, module, precision="bf16")
        vector = train(engine, 0, rank, ranks)
        kinds = {view.dtype for part in engine.slices() for view in part.views.values()}
        found[zero] = (types, kinds, vector[:-2].sqrt().tolist())
    return found


def test_bf16_computes_in_bf16_and_keeps_fp32_weights_in_every_engine() -> None:
    expected = list(reference(0, make_module()).values())
    for of_rank in found_on(2)["run_bf16"]:
        for zero, (types, kinds, norms) in of_rank.items():
            assert (types, kinds) == ({torch.bfloat16}, {torch.float32}), zero
            assert norms == pytest.approx(expected, rel=0.03), zero
            assert norms != pytest.approx(expected, rel=1e-4), zero


def print_nothing(rank: int, ranks: int) -> str:
    with contextlib.redirect_stdout(io.StringIO()) as printed:
        for zero in ENGINES:
            train(make(zero), 0, rank, ranks)
    return printed.getvalue()


def test_engines_leave_standard_output_alone() -> None:
    assert found_on(1)["print_nothing"] == [""]


def forget_a_tensor(rank: int, ranks: int) -> str:
    module = make_module()
    module.extra = nn.Parameter(torch.ones(3))
    try:
        train(make("ddp", module), 0, rank, ranks)
    except RuntimeError as error:
        return str(error)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


def test_a_trained_tensor_without_gradient_is_named_with_the_fix() -> None:
    (message,) = found_on(1)["forget_a_tensor"]
    assert message.startswith("GmmlError: extra: got no gradient")
