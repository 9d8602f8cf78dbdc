"""Pictures of what methods are given beside images: maps of attention, roles of patches, classes of pixels.

Dims: n images, V views, S side of a view, N patches.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from gmml_cluster.evaluate.reconstruction import pixels
from gmml_cluster.methods.masks.attention import MASKED, THROWN, VISIBLE
from gmml_cluster.methods.masks.cells import patches_of
from gmml_cluster.methods.protocol import MAP, ROLE, Draws, Panel
from gmml_cluster.spec.augment import Normalise
from gmml_cluster.spec.methods.segmentation import IGNORED

PALETTE = ((230, 159, 0), (86, 180, 233), (0, 158, 115), (240, 228, 66), (0, 114, 178), (213, 94, 0), (204, 121, 167))
"""Colours of Okabe and Ito, which people without red or green tell apart too."""
_SHARE = 0.6
"""Of a tint, beside the image below it."""


def of_attention(views: Tensor, draws: Draws, normalise: Normalise) -> Iterator[Panel]:
    """Of each view its map, the brighter the heavier, and its patches by that: masked orange, thrown away blue."""
    if MAP not in draws:
        return
    maps, roles = (_by_view(draws[name]) for name in (MAP, ROLE))
    for view in range(maps.shape[1]):
        image, which = views[:, view], "" if maps.shape[1] == 1 else f", view {view + 1}"
        grey = _pixels_of(maps[:, view], image).float()[:, None].expand_as(image) / 255
        yield Panel(f"map of attention{which}", _normalised(grey.movedim(1, 3), normalise))
        shown, role = pixels(image, normalise), _pixels_of(roles[:, view], image)[..., None]
        for which_role, tint in ((MASKED, PALETTE[0]), (THROWN, PALETTE[4])):
            shown = torch.where(role == which_role, _tinted(shown, tint), shown)
        facts = [_counts(each) for each in roles[:, view]]
        yield Panel(f"patches by their map{which}", _normalised(shown, normalise), facts)


def of_classes(views: Tensor, classes_nSS: Tensor, normalise: Normalise) -> Panel:
    """The classes of the pixels, in colours over the first view; grey where none is given."""
    classes, shown = classes_nSS.long(), pixels(views[:, 0], normalise)
    colours = torch.tensor(PALETTE, dtype=torch.float32) / 255
    tint = torch.where((classes == IGNORED)[..., None], 0.5, colours[classes % len(PALETTE)])
    named = [", ".join(str(each) for each in _classes_of(one)) for one in classes]
    facts = [f"classes {each}" if each else "no class" for each in named]
    return Panel("classes of pixels", _normalised((1 - _SHARE) * shown + _SHARE * tint, normalise), facts)


def _classes_of(classes_SS: Tensor) -> list[int]:
    return [each for each in sorted(set(classes_SS.flatten().tolist())) if each != IGNORED]


def _by_view(values: Tensor) -> Tensor:
    """Values of patches (n, N) or (n, V, N) as the latter."""
    return values[:, None] if values.ndim == 2 else values


def _pixels_of(values_nN: Tensor, image_n3SS: Tensor) -> Tensor:
    """Values of patches at their pixels (n, S, S)."""
    S = image_n3SS.shape[-1]
    return patches_of(values_nN, S // round(values_nN.shape[1] ** 0.5)).view(-1, S, S)


def _tinted(colours: Tensor, tint: tuple[int, int, int]) -> Tensor:
    return (1 - _SHARE) * colours + _SHARE * torch.tensor(tint, dtype=colours.dtype) / 255


def _normalised(colours_nSS3: Tensor, normalise: Normalise) -> Tensor:
    """Colours in [0, 1] as panels have them, the inverse of `pixels`."""
    mean, std = (colours_nSS3.new_tensor(values) for values in (normalise.mean, normalise.std))
    return ((colours_nSS3 - mean) / std).movedim(3, 1)


def _counts(roles_N: Tensor) -> str:
    of = {role: int((roles_N == role).sum()) for role in (MASKED, THROWN, VISIBLE)}
    return f"{of[MASKED]} masked, {of[THROWN]} thrown, {of[VISIBLE]} visible"
