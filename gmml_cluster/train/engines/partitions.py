"""Where weights, gradients and optimizer state are on a rank: whole, in flat partitions, or in shards of each tensor.

`Partitioned` and `Sharded` read private attributes of DeepSpeed 0.19.8 (docs/reference/deepspeed.md); `zero.py` checks
at start-up that they exist. Its public helpers were tried first: `safe_get_full_*` costs three collectives a tensor,
`safe_set_full_fp32_param` fails on some ranks where ranks do not divide a tensor, and `load_checkpoint` refuses another
number of ranks.
"""

from collections.abc import Iterable
from typing import Any, Protocol

import torch.distributed as dist
from torch import Tensor, nn
from torch.optim import Optimizer

from gmml_cluster.train.engines.adamw import state_keys
from gmml_cluster.train.engines.gradients import NamedGradient, missing_gradient
from gmml_cluster.train.engines.slices import VALUE, Slice, buffers, share


class Partitioning(Protocol):
    """Where an engine keeps its tensors on this rank.

    Attributes:
        replicated: whether all ranks hold the same whole gradients.
    """

    replicated: bool

    def optimizer_tensors(self) -> list[Tensor]:
        """The tensors that AdamW holds state for: parameters, or flat partitions of many."""

    def gradients(self) -> list[NamedGradient]:
        """This rank's averaged gradients between reduction and update, in the same order at every step."""

    def owned(self) -> list[Slice]:
        """What this rank saves: every element of every tensor is saved by one rank."""

    def held(self) -> list[Slice]:
        """What this rank must be given when it loads."""

    def refresh(self) -> None:
        """Bring the weights that the module computes with up to date after `held` was written. A collective."""

    def working_copies(self, names: Iterable[str]) -> list[Tensor]:
        """What this rank's forward uses of each parameter between two steps: the whole tensor, or its shard."""


def _trained(module: nn.Module) -> list[tuple[str, Any]]:
    return [(name, tensor) for name, tensor in module.named_parameters() if tensor.requires_grad]


def _frozen(module: nn.Module) -> list[tuple[str, Any]]:
    return [(name, tensor) for name, tensor in module.named_parameters() if not tensor.requires_grad]


def _share(wholes: list[Slice]) -> list[Slice]:
    return share(wholes, dist.get_world_size(), dist.get_rank())


def _frozen_wholes(module: nn.Module) -> list[Slice]:
    frozen = [Slice(name, tuple(p.shape), 0, {VALUE: p.detach().view(-1)}) for name, p in _frozen(module)]
    return [*frozen, *buffers(module)]


def _wholes(module: nn.Module, names: Iterable[str]) -> list[Tensor]:
    return [module.get_parameter(name).detach() for name in names]


class Replicated:
    """DDP and stage 0: every rank holds every tensor whole, and saves an equal part of each."""

    replicated = True

    def __init__(self, module: nn.Module, optimizer: Optimizer) -> None:
        self._module, self._optimizer = module, optimizer
        self._trained = _trained(module)  # once, as walking the module takes host time in every step

    def optimizer_tensors(self) -> list[Tensor]:
        return [tensor for _, tensor in self._trained]

    def gradients(self) -> list[NamedGradient]:
        return [(name, self._gradient(name, tensor)) for name, tensor in self._trained]

    def _gradient(self, name: str, tensor: Tensor) -> Tensor:
        if tensor.grad is None:
            raise missing_gradient(name, "got no gradient")
        return tensor.grad.view(-1)

    def held(self) -> list[Slice]:
        trained = [self._whole(name, tensor) for name, tensor in self._trained]
        return [*trained, *_frozen_wholes(self._module)]

    def _whole(self, name: str, tensor: Tensor) -> Slice:
        state = {key: self._optimizer.state[tensor][key].view(-1) for key in state_keys(self._optimizer)}
        return Slice(name, tuple(tensor.shape), 0, {VALUE: tensor.detach().view(-1), **state})

    def owned(self) -> list[Slice]:
        return _share(self.held())

    def refresh(self) -> None:
        """Nothing to do: AdamW updates the very tensors that the module computes with."""

    def working_copies(self, names: Iterable[str]) -> list[Tensor]:
        return _wholes(self._module, names)


class Partitioned:
    """Stages 1 and 2: each parameter group is one flat tensor, cut into a partition a rank; a tensor may straddle two.

    Of DeepSpeedZeroOptimizer this reads:
        single_partition_of_fp32_groups: by group, this rank's flat master weights, which AdamW updates.
        averaged_gradients: by group, the reduced gradients as a list of pieces in the partition's order; the last may
            be padding. They are there between the reduction and the update, when `grad` of the parameters is gone
            and the flat gradient does not exist yet.
        update_lp_params: copies master weights into the module's parameters and gathers them over the ranks.
        _hp_mapping, on a parameter: where its fragment lies in the partition (`hp_fragment_address`) and in the
            flattened parameter (`lp_fragment_address`); None where this rank holds nothing of it.

    Args:
        zero: DeepSpeedZeroOptimizer.
    """

    replicated = False

    def __init__(self, module: nn.Module, optimizer: Optimizer, zero: Any) -> None:
        self._module, self._optimizer, self._zero = module, optimizer, zero
        held = [(name, tensor) for name, tensor in _trained(module) if getattr(tensor, "_hp_mapping", None) is not None]
        self._fragments = [(name, tensor, tensor._hp_mapping) for name, tensor in held]

    def optimizer_tensors(self) -> list[Tensor]:
        return list(self._zero.single_partition_of_fp32_groups)

    def gradients(self) -> list[NamedGradient]:
        pieces = {group: self._pieces(group) for group in self._zero.averaged_gradients}
        return [
            (name, pieces[mapping.param_group_index][mapping.hp_fragment_address.start])
            for name, _, mapping in self._fragments
        ]

    def _pieces(self, group: int) -> dict[int, Tensor]:
        """Gradients of a group's partition by their offset in it; padding comes last."""
        found, offset = {}, 0  # pieces carry no names; `_hp_mapping` has the offset of a parameter's fragment
        for piece in self._zero.averaged_gradients[group]:
            found[offset] = piece.view(-1)
            offset += piece.numel()
        return found

    def _parts(self) -> list[Slice]:
        return [self._part(name, tensor, mapping) for name, tensor, mapping in self._fragments]

    def _part(self, name: str, tensor: Tensor, mapping: Any) -> Slice:
        flat = self._zero.single_partition_of_fp32_groups[mapping.param_group_index]
        state = self._optimizer.state[flat]
        fragment = mapping.hp_fragment_address
        sources = {VALUE: flat.detach(), **{key: state[key] for key in state_keys(self._optimizer)}}
        views = {key: source.narrow(0, fragment.start, fragment.numel) for key, source in sources.items()}
        return Slice(name, tuple(tensor.shape), mapping.lp_fragment_address.start, views)

    def owned(self) -> list[Slice]:
        # stages 1 and 2 partition what AdamW updates; frozen tensors are whole on every rank
        return [*self._parts(), *_share(_frozen_wholes(self._module))]

    def held(self) -> list[Slice]:
        return [*self._parts(), *_frozen_wholes(self._module)]

    def refresh(self) -> None:
        # the module computes with parameters of its own, which only an update would have refreshed
        self._zero.update_lp_params()

    def working_copies(self, names: Iterable[str]) -> list[Tensor]:
        return _wholes(self._module, names)


class Sharded:
    """Stage 3: every tensor, trained or frozen, is cut into equal shards, the last of them padded.

    Of DeepSpeedZeroOptimizer_Stage3 this reads:
        fp32_partitioned_groups_flat: by sub-group, this rank's flat master weights, which AdamW updates.
        fp16_groups: by sub-group, its parameters, whatever their type.
        averaged_gradients: by sub-group, one reduced and padded shard a parameter, in the order of `fp16_groups`.
        grad_position, get_param_id: (sub-group, offset in its flat tensor, length) of a parameter's shard.
        _reassign_or_swap_out_partitioned_parameters: copies a sub-group's master weights into the shards that
            forward gathers from.
        _partition_all_parameters: releases gathered parameters.
        persistent_parameters: parameters below a threshold of size, which stay gathered from step to step.
    And of a parameter: ds_tensor (its shard, padded), ds_numel and ds_shape (of the whole), ds_persist.

    Args:
        zero: DeepSpeedZeroOptimizer_Stage3.
    """

    replicated = False

    def __init__(self, module: nn.Module, optimizer: Optimizer, zero: Any) -> None:
        self._module, self._optimizer, self._zero = module, optimizer, zero
        # by identity: stage 3 knows parameters as objects, and `in` or `==` on tensors would compare values
        self._names = {id(tensor): name for name, tensor in module.named_parameters()}

    def optimizer_tensors(self) -> list[Tensor]:
        return list(self._zero.fp32_partitioned_groups_flat)

    def _range(self, tensor: Any) -> tuple[int, int]:
        """Start and length of this rank's shard without its padding; a small tensor may end before this rank."""
        part = tensor.ds_tensor.numel()
        start = part * dist.get_rank()
        return start, max(0, min(part, tensor.ds_numel - start))

    def gradients(self) -> list[NamedGradient]:
        found = []
        for group, tensors in enumerate(self._zero.fp16_groups):
            for tensor, gradient in zip(tensors, self._zero.averaged_gradients[group], strict=True):
                numel = self._range(tensor)[1]
                if numel:
                    # padding is left out: what it holds is no gradient, and would enter the norm
                    found.append((self._names[id(tensor)], gradient.view(-1).narrow(0, 0, numel)))
        return found

    def _trained_part(self, name: str, tensor: Any) -> Slice:
        start, numel = self._range(tensor)
        group, offset, _ = self._zero.grad_position[self._zero.get_param_id(tensor)]
        # not `ds_tensor`: AdamW updates the flat master weights, of which that is a copy even in fp32
        flat = self._zero.fp32_partitioned_groups_flat[group]
        sources = {
            VALUE: flat.detach(),
            **{key: self._optimizer.state[flat][key] for key in state_keys(self._optimizer)},
        }
        views = {key: source.narrow(0, offset, numel) for key, source in sources.items()}
        return Slice(name, tuple(tensor.ds_shape), start, views)

    def _frozen_part(self, name: str, tensor: Any) -> Slice:
        start, numel = self._range(tensor)
        shard = tensor.ds_tensor.detach().view(-1).narrow(0, 0, numel)
        return Slice(name, tuple(tensor.ds_shape), start, {VALUE: shard})

    def _parts(self) -> list[Slice]:
        trained = [self._trained_part(name, tensor) for name, tensor in _trained(self._module)]
        frozen = [self._frozen_part(name, tensor) for name, tensor in _frozen(self._module)]
        return [part for part in (*trained, *frozen) if part.numel]

    def owned(self) -> list[Slice]:
        # stage 3 partitions parameters, frozen ones too, but no buffers
        return [*self._parts(), *_share(buffers(self._module))]

    def held(self) -> list[Slice]:
        return [*self._parts(), *buffers(self._module)]

    def refresh(self) -> None:
        # first release whole tensors that a forward left gathered: a gathered tensor is not gathered again, and the
        # next forward would compute with the old weights
        self._zero._partition_all_parameters()
        for group in range(len(self._zero.fp16_groups)):
            self._zero._reassign_or_swap_out_partitioned_parameters(group)
        # persistent ones are gathered by an update alone; without this they would stay stale until the first
        small = self._zero.persistent_parameters
        if small:
            small[0].all_gather(small)

    def working_copies(self, names: Iterable[str]) -> list[Tensor]:
        # a small tensor may stay gathered from step to step: then both its shard and the whole copy are in use
        parameters: list[Any] = [self._module.get_parameter(name) for name in names]
        gathered = [tensor for tensor in parameters if tensor.ds_persist]
        return [*(tensor.ds_tensor for tensor in parameters), *(tensor.detach() for tensor in gathered)]
