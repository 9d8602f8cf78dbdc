"""Masks that follow attention: tokens with heavy weights are masked, the next thrown away, the lightest left visible.

The grid is that of the patches, or of cells of them, whose weights are then sums of their patches'.

Source: arXiv 2211.15362; words of purpose 35: docs/reference/draws.md.

Dims: n images, V views, N patches, g patches of a side of the grid, c patches of a side of a cell, M items (patches or
cells), K visible patches, H patches held: visible and masked, P values of a patch.
"""

import torch
from torch import Tensor

from gmml_cluster.data.random.philox import Purpose
from gmml_cluster.data.random.philox_torch import words
from gmml_cluster.errors import Fault, SpecError
from gmml_cluster.methods.groups import group_sums
from gmml_cluster.methods.masks.cells import patches_of
from gmml_cluster.methods.protocol import MAP, ROLE, Draws, check_draws
from gmml_cluster.spec.methods.amt import Roles

VISIBLE, MASKED, THROWN = 0, 1, 2
KEEP, HELD = "keep", "held"
NAMES = (MAP, ROLE, KEEP, HELD)
"""All draws of masks that follow attention."""
_NAMES = {"masked": MASKED, "thrown": THROWN, "visible": VISIBLE}


def map_weights(map_nVN: Tensor) -> Tensor:
    """Float64 weights of bytes, 1/255 to 1."""
    return map_nVN.double() / 255


def weighted_order(seed: int, numbers: Tensor, weights_nVM: Tensor) -> Tensor:
    """Random orders of items, each place taken with a probability that is proportional to the weights still there.

    Items are sorted by w / E, the largest first, with E exponential: the distribution of sequential draws without
    replacement. All views of an image have the same E.

    Args:
        seed: of the run.
        numbers: sample numbers (n,).
        weights_nVM: float64, above 0.
    """
    drawn_n1M = words(seed, Purpose.ATTENTION, numbers, weights_nVM.shape[2])[:, None]
    exponential_n1M = -(((drawn_n1M >> 8).double() + 0.5) * 2.0**-24).log()
    # stable: of equal keys the lower index comes first
    return (weights_nVM / exponential_n1M).argsort(dim=2, descending=True, stable=True)


def draw_roles(seed: int, numbers: Tensor, map_nVN: Tensor, counts: Roles, *, cell: int = 1) -> Tensor:
    """The role of each patch, uint8 (n, V, N): `VISIBLE`, `MASKED` or `THROWN`.

    Args:
        seed: of the run.
        numbers: sample numbers.
        map_nVN: bytes, 1 to 255.
        counts: items of each role: cells, where a cell is more than a patch.
        cell: c; all patches of a cell have one role.
    """
    n, V, N = map_nVN.shape
    side = round(N**0.5) // cell
    weights_nVM = map_weights(map_nVN).view(n, V, side, cell, side, cell).sum((3, 5)).flatten(2)
    roles_nVM = _cut(weighted_order(seed, numbers, weights_nVM), counts)
    return patches_of(roles_nVM.flatten(0, 1), cell).view(n, V, N)


def _cut(order_nVM: Tensor, counts: Roles) -> Tensor:
    place_M = torch.arange(order_nVM.shape[2], device=order_nVM.device)
    roles_M = (place_M < counts.masked + counts.thrown).to(torch.uint8) * THROWN
    roles_M = torch.where(place_M < counts.masked, MASKED, roles_M)
    return torch.empty_like(order_nVM, dtype=torch.uint8).scatter_(2, order_nVM, roles_M.expand_as(order_nVM))


def with_roles(
    given: Draws, seed: int, numbers: Tensor, counts: Roles, *, cell: int = 1, views: int | None = None
) -> Draws:
    """What is given and follows from it: `ROLE`, and `KEEP` and `HELD`, the patches seen and those not thrown.

    Args:
        given: `MAP` or `ROLE`.
        seed: of the run.
        numbers: sample numbers (n,).
        counts: items of each role.
        cell: c.
        views: V where each view has a map and roles (n, V, N). None: views have one crop and so one map, the first, and
            roles are (n, N).
    """
    if ROLE not in given:
        map_nVN = _by_view(given[MAP], len(numbers), sum(counts.times(cell**2)))
        map_nVN = map_nVN[:, :1] if views is None else map_nVN.expand(-1, views, -1)
        roles = draw_roles(seed, numbers, map_nVN, counts, cell=cell)
        maps, roles = (values[:, 0] if views is None else values for values in (map_nVN, roles))
        return _completed({MAP: maps, ROLE: roles}, counts.times(cell**2))
    given = each_view(given, views)
    return _completed(given, counted(given[ROLE]))


def each_view(given: Draws, views: int | None) -> Draws:
    """Roles and maps of images (n, N) as those of each of their views; of one crop, of the first view."""

    def fitted(values: Tensor) -> Tensor:
        if views is None:
            return values[:, 0] if values.ndim == 3 else values
        return values[:, None].expand(-1, views, -1) if values.ndim == 2 else values

    return {name: fitted(values) if name in (MAP, ROLE) else values for name, values in given.items()}


def _completed(draws: Draws, counts: Roles) -> Draws:
    roles = draws[ROLE]
    return {**draws, KEEP: visible(roles, counts.visible), HELD: held(roles, counts.held)}


def _by_view(maps: Tensor, n: int, patches: int) -> Tensor:
    """Maps (n, V, N) of those, or of (n, N) where there is one view."""
    if maps.ndim not in (2, 3) or (maps.shape[0], maps.shape[-1]) != (n, patches):
        problem = f"shape {tuple(maps.shape)}; it is {(n, patches)}, or with the views between"
        raise SpecError(Fault(f"draws.{MAP}", problem, "fix the array"))
    return maps.view(n, -1, patches)


def accept_roles(given: Draws, shapes: dict[str, tuple[int, ...]], *, views: int | None = None) -> Draws:
    """Draws from outside that have roles, or a map for them; completed as by `with_roles`.

    Args:
        given: by name.
        shapes: of all that may be given; that of `ROLE` is (n, N), or (n, V, N).
        views: as there.

    Raises:
        SpecError: one is unknown, absent, of another shape, or holds what it cannot.
    """
    given = {name: value for name, value in each_view(given, views).items() if name not in (KEEP, HELD)}
    check_draws(given, {**shapes, MAP: shapes[ROLE]}, [ROLE])
    if MAP in given and not 1 <= int(given[MAP].min()) <= int(given[MAP].max()) <= 255:
        raise SpecError(Fault(f"draws.{MAP}", "holds other than bytes from 1 to 255", "fix the array"))
    return _completed(given, counted(given[ROLE]))


def visible(roles_nN: Tensor, count: int) -> Tensor:
    """The visible patches (n, K), ascending."""
    return _first(roles_nN != VISIBLE, count)


def held(roles_nN: Tensor, count: int) -> Tensor:
    """The patches that are not thrown (n, H), ascending."""
    return _first(roles_nN == THROWN, count)


def _first(others_nN: Tensor, count: int) -> Tensor:
    """The first `count` places where `others_nN` is false; the count is known, so that nothing waits for the device."""
    return others_nN.to(torch.uint8).argsort(dim=-1, stable=True)[..., :count]


def at_places(values_nHP: Tensor, held_nH: Tensor, patches: int) -> Tensor:
    """The values of the patches held at their places among all (n, N, P), 0 elsewhere."""
    n, _, P = values_nHP.shape
    return values_nHP.new_zeros(n, patches, P).scatter(1, held_nH[:, :, None].expand(-1, -1, P), values_nHP)


def masked_of(draws: Draws) -> Tensor:
    """The patches that are reconstructed, bool (n, N), however they were chosen."""
    return draws[ROLE] == MASKED if ROLE in draws else draws["mask"]


def unseen_of(draws: Draws) -> Tensor:
    """The patches of whose pixels the encoder is given nothing, bool (n, N): masked ones, and those thrown away."""
    return draws[ROLE] != VISIBLE if ROLE in draws else draws["mask"]


def thrown_of(draws: Draws) -> Tensor:
    """The patches that no network is given, bool (n, N); none without AMT."""
    return draws[ROLE] == THROWN if ROLE in draws else torch.zeros_like(draws["mask"])


def decide(draws: Draws) -> bool:
    """Whether roles, or a map for them, are among the draws."""
    return MAP in draws or ROLE in draws


def role_outputs(draws: Draws) -> Draws:
    """The roles, as an output; nothing where masks are random."""
    return {ROLE: draws[ROLE]} if ROLE in draws else {}


def weight_scalars(draws: Draws, group: int) -> dict[str, Tensor]:
    """Mean weight of the patches of each role, as metrics; nothing where no map decides."""
    if MAP not in draws:
        return {}
    weights = map_weights(draws[MAP]).view_as(draws[ROLE])
    return {f"weight_{name}": group_sums(weights, draws[ROLE] == role, group) for name, role in _NAMES.items()}


def counted(roles_nN: Tensor) -> Roles:
    """How many patches of each role the images have, from outside.

    Raises:
        SpecError: a code is none of the three, images differ, or nothing is masked or visible.
    """
    counts = {tuple(int((row == code).sum()) for code in _NAMES.values()) for row in roles_nN.flatten(0, -2)}
    first = Roles(*next(iter(counts)))
    if len(counts) > 1 or sum(first) != roles_nN.shape[-1] or not first.masked or not first.visible:
        rule = "codes are 0 visible, 1 masked, 2 thrown; all images have as many of each, with some masked and visible"
        problem = f"has {sorted(counts)} masked, thrown and visible; {rule}"
        raise SpecError(Fault(f"draws.{ROLE}", problem, "fix the array"))
    return first
