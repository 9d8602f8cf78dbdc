"""What every engine promises, on gloo ranks: DDP and ZeRO 0 to 3 against a float64 recomputation and each other.

A rank makes many engines one after the other, for starting a group costs more than training this small transformer.
"""

import copy
import functools
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
from gmml_cluster.spec.job import Clip, EngineSpec, Optim
from gmml_cluster.spec.loading.validate import parse_job
from gmml_cluster.train.engines.build import make_engine
from gmml_cluster.train.engines.engine import Engine
from tests.fixtures.ranks import run_ranks

ENGINES = ("ddp", 0, 1, 2, 3)
GROUPS, GROUP, PIXELS = 7, 2, 12
LR, DECAY = 1e-3, 0.05
CPU = torch.device("cpu")


class Block(nn.Module):
    """A pre-norm block, with the odd sizes that partitions cut badly."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.mlp = nn.Sequential(nn.Linear(width, 3 * width + 1), nn.GELU(), nn.Linear(3 * width + 1, width))

    def forward(self, tokens: Tensor) -> Tensor:
        return tokens + self.mlp(self.norm(tokens))


class Small(nn.Module):
    """Tokens, positions, two blocks, a frozen projection, a teacher and a buffer; some gradients exceed the clip."""

    def __init__(self, width: int = 9) -> None:
        super().__init__()
        self.embed = nn.Linear(PIXELS, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width))
        self.pos_embed = nn.Parameter(torch.zeros(1, 5, width))
        self.blocks = nn.ModuleList([Block(width) for _ in range(2)])
        self.head = nn.Linear(width, 3)
        self.frozen = nn.Linear(3, 7)
        self.frozen.requires_grad_(False)
        self.teacher = nn.Linear(PIXELS, width)
        self.teacher.requires_grad_(False)
        self.register_buffer("offset", torch.zeros(7))

    def forward(self, patches: Tensor) -> Tensor:
        tokens = self.embed(patches) + self.teacher(patches)
        tokens = torch.cat([self.cls_token.expand(len(tokens), -1, -1), tokens], 1) + self.pos_embed
        for block in self.blocks:
            tokens = block(tokens)
        return self.frozen(self.head(tokens)) + self.offset


def make_module(seed: int = 3) -> Small:
    generator = torch.Generator().manual_seed(seed)
    module = Small()
    with torch.no_grad():
        for tensor in itertools.chain(module.parameters(), module.buffers()):
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.3)
    return module


def samples(step: int) -> Tensor:
    generator = torch.Generator().manual_seed(100 + step)
    return torch.randn(GROUPS * GROUP, 4, PIXELS, generator=generator)


def group_losses(outputs: Tensor) -> Tensor:
    return outputs.reshape(-1, GROUP, 5, 7).square().mean((1, 2, 3)) * 20


def groups_of(rank: int, ranks: int) -> list[int]:
    return list(range(rank * GROUPS // ranks, (rank + 1) * GROUPS // ranks))


def make(zero: Any, module: nn.Module | None = None, *, clip: Clip | None = None, precision: str = "fp32") -> Engine:
    spec = EngineSpec.model_validate({"zero": zero, "precision": precision})
    return make_engine(module or make_module(), engine=spec, optim=Optim(clip=clip), device=CPU)


def train(
    engine: Engine, step: int, rank: int, ranks: int, *, micro: int = 1, spoil: bool = False, lr: float = LR
) -> Tensor:
    """One step; its extras are the rank's loss and 1."""
    images = samples(step).reshape(GROUPS, GROUP, 4, PIXELS)
    if spoil and rank == ranks - 1:
        images[-1, -1, 0, 0] = math.nan
    mine = groups_of(rank, ranks)
    size = -(-max(len(groups_of(r, ranks)) for r in range(ranks)) // micro)
    total = torch.zeros((), dtype=torch.float64)
    for index in range(micro):
        chosen = mine[index * size : (index + 1) * size]
        padded = chosen + [mine[0]] * (size - len(chosen))
        losses = group_losses(engine.forward(images[padded].flatten(0, 1)))
        share = torch.where(torch.arange(size) < len(chosen), losses, 0.0).sum()
        engine.backward(ranks / GROUPS * share, last=index == micro - 1)
        total += share.detach().double()
    return engine.step(lr, DECAY, torch.stack([total / GROUPS, torch.ones((), dtype=torch.float64)]))


def reference(step: int, module: nn.Module) -> dict[str, float]:
    """Norm of each trained tensor's gradient, in float64, in one go."""
    twin = copy.deepcopy(module).double()
    group_losses(twin(samples(step).double())).mean().backward()
    return {name: float(p.grad.norm()) for name, p in twin.named_parameters() if p.grad is not None}


def state_of(engine: Engine) -> dict[tuple[str, str, int], Tensor]:
    """This rank's slices, copied."""
    return {(part.name, key, part.start): view.clone() for part in engine.slices() for key, view in part.views.items()}


def joined(states: list[dict[tuple[str, str, int], Tensor]]) -> dict[tuple[str, str], Tensor]:
    """The whole state by name and key from all ranks' slices."""
    parts: dict[tuple[str, str], list[tuple[int, Tensor]]] = {}
    for state in states:
        for (name, key, start), values in state.items():
            parts.setdefault((name, key), []).append((start, values))
    return {at: torch.cat([values for _, values in sorted(found, key=lambda p: p[0])]) for at, found in parts.items()}


def gathered(engine: Engine) -> dict[tuple[str, str], Tensor]:
    """The whole state, on every rank."""
    states: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(states, state_of(engine))
    return joined(states)


def reader(whole: dict[tuple[str, str], Tensor]) -> Any:
    return lambda name, key, start, numel: whole[name, key][start : start + numel]


def same(one: dict[Any, Tensor], other: dict[Any, Tensor]) -> bool:
    return one.keys() == other.keys() and all(torch.equal(one[key], other[key]) for key in one)


FUNCTIONS = {
    1: ("print_nothing", "forget_a_tensor", "measure_norms", "real_gradients_of_one_rank"),
    2: (
        "measure_norms",
        "first_moments",
        "skip",
        "latch",
        "count_waits",
        "run_bf16",
        "save_after_two_steps",
        "real_gradients",
    ),
    3: ("measure_norms", "resume_straight", "follow", "follow_as_on_gpus"),
}
LOADING = {1: ("load_and_go_on",), 2: ("load_and_go_on", "load_and_go_on_as_on_gpus"), 3: ("load_and_go_on",)}


def run_all(rank: int, ranks: int, saved: Any) -> dict[str, Any]:
    """What the functions of this number of ranks return; those of LOADING get what two ranks saved."""
    found = {name: globals()[name](rank, ranks) for name in FUNCTIONS[ranks]}
    whole, count, _ = saved or found["save_after_two_steps"]
    return found | {name: globals()[name](rank, ranks, whole, count) for name in LOADING[ranks]}


@functools.cache
def found_on(ranks: int) -> dict[str, list[Any]]:
    """What each of the ranks found, by function; they start once."""
    found = run_ranks(ranks, run_all, None if ranks == 2 else found_on(2)["save_after_two_steps"][0])
    return {name: [of_rank[name] for of_rank in found] for name in found[0]}


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
        for layout, (names, vector) in found.items():
            assert names == list(expected), layout
            norms = [math.sqrt(square) for square in vector[: len(names)]]
            assert norms == pytest.approx(list(expected.values()), rel=2e-6), layout
            assert vector[len(names) + 1] == ranks


# ---- gradients of the real methods -----------------------------------------------------------------------------------

REAL = {
    "gmml": {"name": "gmml"},
    "mae": {"name": "mae", "decoder_width": 16, "decoder_depth": 1, "decoder_heads": 2},
}
REAL_GROUPS, REAL_GROUP = 4, 4


def real_job(name: str, *, checkpointing: bool) -> Any:
    return parse_job(
        {
            "name": "real",
            "model": {"width": 16, "depth": 4, "heads": 2, "patch_size": 4, "drop_path": 0.1 if name == "gmml" else 0},
            "method": REAL[name],
            "data": {"corpora": [{"url": "none"}], "image_size": 16, "group": REAL_GROUP},
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


def real_gradients(rank: int, ranks: int, *, layouts: Any = None) -> dict[Any, dict[Any, Tensor]]:
    """This rank's slices of a tenth of the gradient, which AdamW's first moment is after one step."""
    found = {}
    for name, checkpointing, zero in layouts or itertools.product(REAL, (False, True), ENGINES):
        method = build(real_job(name, checkpointing=checkpointing))
        engine = make(zero, method.module)
        first, last = (place * REAL_GROUPS // ranks for place in (rank, rank + 1))
        losses = real_losses(method, engine.forward, range(first, last))
        engine.backward(ranks / REAL_GROUPS * losses.sum(), last=True)
        engine.step(LR, DECAY, torch.zeros(1, dtype=torch.float64))
        found[name, checkpointing, zero] = {at: part for at, part in state_of(engine).items() if at[1] == "exp_avg"}
    return found


def real_gradients_of_one_rank(rank: int, ranks: int) -> dict[Any, dict[Any, Tensor]]:
    return real_gradients(rank, ranks, layouts=[(name, False, "ddp") for name in REAL])


def exact_gradients(name: str) -> dict[str, Tensor]:
    method = build(real_job(name, checkpointing=False))
    method.module.double()
    real_losses(method, method.module, range(REAL_GROUPS), torch.float64).mean().backward()
    return {at: p.grad.flatten() for at, p in method.module.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("name", REAL)
def test_each_layout_is_at_most_three_times_as_far_from_float64_as_one_rank_for_each_tensor(name: str) -> None:
    exact = exact_gradients(name)

    def distances(found: list[Any], layout: Any) -> dict[str, float]:
        whole = joined([of_rank[layout] for of_rank in found])
        return {
            at: float((10 * whole[at, "exp_avg"].double() - value).norm() / value.norm()) for at, value in exact.items()
        }

    alone = distances(found_on(1)["real_gradients_of_one_rank"], (name, False, "ddp"))
    assert max(alone.values()) < 1e-5
    for checkpointing, zero in itertools.product((False, True), ENGINES):
        found = distances(found_on(2)["real_gradients"], (name, checkpointing, zero))
        assert {at: (far, alone[at]) for at, far in found.items() if far > 3 * alone[at]} == {}, (checkpointing, zero)


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
                assert got == pytest.approx(bound, rel=1e-5), (zero, clip, name)


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
        told = {
            "told": not bool(torch.isfinite(vector).all()),
            "same": same(before, state_of(engine)),
            "adam_step": (count, engine.adam_step),
            "skips": [int(engine.skips_in_a_row)],
        }
        train(engine, 3, rank, ranks)
        train(undisturbed, 3, rank, ranks)
        told["goes_on"] = same(state_of(engine), state_of(undisturbed))
        told["skips"].append(int(engine.skips_in_a_row))
        found[zero] = told
    return found


def test_a_step_that_is_not_finite_changes_no_bit_and_training_goes_on_as_if_it_had_not_been() -> None:
    for of_rank in found_on(2)["skip"]:
        for zero, told in of_rank.items():
            expected = {"told": True, "same": True, "adam_step": (2, 2), "skips": [1, 0], "goes_on": True}
            assert told == expected, zero


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


def test_after_three_skips_in_a_row_a_finite_step_changes_nothing_until_the_count_is_set_anew() -> None:
    for of_rank in found_on(2)["latch"]:
        assert of_rank == dict.fromkeys(ENGINES, ([1, 2, 3, 3], True, True, 2))


# ---- teachers ------------------------------------------------------------------------------------------------------

TEACHER, STUDENT = [[f"{name}.{kind}" for kind in ("weight", "bias")] for name in ("teacher", "embed")]


def follow(rank: int, ranks: int, *, engines: Any = ENGINES) -> dict[Any, Any]:
    """The state before the first step and after each of three, the second not finite, and the last step's loss."""
    found = {}
    for zero in engines:
        engine = make(zero, clip=Clip())
        states = [state_of(engine)]
        for step in range(3):
            vector = train(engine, step, rank, ranks, spoil=step == 1)
            engine.lerp(TEACHER, STUDENT, 0.25)
            states.append(state_of(engine))
        found[zero] = states, float(vector[-2])
    return found


def follow_as_on_gpus(rank: int, ranks: int) -> dict[Any, Any]:
    """The same at stage 3 with small tensors that stay gathered."""
    from gmml_cluster.train.engines import zero

    real = zero.configuration
    zero.configuration = lambda stage, host_bound, trained: real(stage, host_bound=False, trained=trained)
    found = follow(rank, ranks, engines=(3,))
    zero.configuration = real
    return found


@pytest.mark.parametrize(("how", "engines"), [("follow", ENGINES), ("follow_as_on_gpus", (3,))])
def test_a_teacher_follows_its_student_in_every_engine_and_stays_where_an_update_was_left_out(
    how: str, engines: Any
) -> None:
    found = found_on(3)[how]
    loss = found_on(3)["follow"][0]["ddp"][1]
    for zero in engines:
        wholes = [joined(list(states)) for states in zip(*(of_rank[zero][0] for of_rank in found), strict=True)]
        for teacher, student in zip(TEACHER, STUDENT, strict=True):
            begin, first, second, third = (whole[teacher, "value"] for whole in wholes)
            assert torch.equal(first, begin.lerp(wholes[1][student, "value"], 0.25)), zero
            assert torch.equal(second, first), zero
            assert torch.equal(third, first.lerp(wholes[3][student, "value"], 0.25)), zero
        assert [of_rank[zero][1] for of_rank in found] == pytest.approx([loss] * 3, abs=1e-6), zero


# ---- elastic resume --------------------------------------------------------------------------------------------------


def save_after_two_steps(rank: int, ranks: int) -> tuple[dict[Any, Tensor], int, list[float]]:
    """The ranks' state, joined, after two steps at stage 1, Adam's count, and the next losses."""
    engine = make(1, clip=Clip())
    for step in range(2):
        train(engine, step, rank, ranks, micro=2)
    whole, count = gathered(engine), engine.adam_step
    return whole, count, [float(train(engine, step, rank, ranks, micro=2)[-2]) for step in (2, 3)]


def load_and_go_on(
    rank: int, ranks: int, whole: dict[Any, Tensor], count: int, *, engines: Any = ENGINES, trained: int = 0
) -> dict[Any, tuple[dict[Any, Tensor], int, list[float]]]:
    """Load into an engine of another seed that has made `trained` steps, and go on."""
    found = {}
    for zero in engines:
        engine = make(zero, make_module(seed=11), clip=Clip())
        for step in range(trained):
            train(engine, step, rank, ranks, micro=2)
        engine.load(reader(whole))
        engine.set_adam_step(count)
        state = state_of(engine)
        losses = [float(train(engine, step, rank, ranks, micro=2)[-2]) for step in (2, 3)]
        found[zero] = (state, engine.adam_step, losses)
    return found


def load_and_go_on_as_on_gpus(rank: int, ranks: int, whole: dict[Any, Tensor], count: int) -> dict[Any, Any]:
    """The same with contiguous gradients, and at stage 3 with small tensors that stay gathered once they were used."""
    from gmml_cluster.train.engines import zero

    real = zero.configuration
    zero.configuration = lambda stage, host_bound, trained: real(stage, host_bound=False, trained=trained)
    found = load_and_go_on(rank, ranks, whole, count, engines=(1, 3), trained=1)
    zero.configuration = real
    return found


@pytest.fixture(scope="module")
def saved() -> tuple[dict[Any, Tensor], int, list[float]]:
    return found_on(2)["save_after_two_steps"][0]


@pytest.mark.parametrize("ranks", [1, 2, 3])
def test_a_state_of_two_ranks_at_stage_1_is_loaded_to_the_bit_by_any_layout(saved: Any, ranks: int) -> None:
    whole, count, losses = saved
    assert count == 2
    found = found_on(ranks)
    for layout in ((name, zero) for name in LOADING[ranks] for zero in found[name][0]):
        states, counts, after = zip(*(of_rank[layout[1]] for of_rank in found[layout[0]]), strict=True)
        assert same(joined(list(states)), whole), layout
        assert set(counts) == {4}
        for of_rank in after:
            assert of_rank == pytest.approx(losses, abs=1e-6), layout


def test_a_state_holds_every_element_of_trained_and_frozen_tensors_and_buffers(saved: Any) -> None:
    module = make_module()
    sizes = {(name, "value"): tensor.numel() for name, tensor in module.state_dict().items()}
    for name, tensor in module.named_parameters():
        if tensor.requires_grad:
            sizes |= {(name, key): tensor.numel() for key in ("exp_avg", "exp_avg_sq")}
    assert {at: tensor.numel() for at, tensor in saved[0].items()} == sizes
    assert torch.equal(saved[0]["frozen.weight", "value"], module.frozen.weight.flatten())


def resume_straight(rank: int, ranks: int) -> dict[Any, bool]:
    """Whether an engine that loads its own layout's state goes on as the one that saved it, to the bit."""
    found = {}
    for zero in ENGINES:
        engine, resumed = make(zero, clip=Clip()), make(zero, make_module(seed=11), clip=Clip())
        for step in range(2):
            train(engine, step, rank, ranks, micro=2)
        resumed.load(reader(gathered(engine)))
        resumed.set_adam_step(engine.adam_step)
        vectors = [[train(e, step, rank, ranks, micro=2) for step in (2, 3)] for e in (engine, resumed)]
        equal = all(torch.equal(one, other) for one, other in zip(*vectors, strict=True))
        found[zero] = equal and same(state_of(engine), state_of(resumed))
    return found


def test_a_resume_in_the_same_layout_is_equal_bit_for_bit() -> None:
    for of_rank in found_on(3)["resume_straight"]:
        assert of_rank == dict.fromkeys(ENGINES, True)


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
            assert norms != pytest.approx(expected, rel=1e-5), zero


def print_nothing(rank: int, ranks: int) -> str:
    import contextlib
    import io

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


def test_a_trained_tensor_without_gradient_is_named_with_its_cure() -> None:
    (told,) = found_on(1)["forget_a_tensor"]
    assert told.startswith("GmmlError: extra: got no gradient")
