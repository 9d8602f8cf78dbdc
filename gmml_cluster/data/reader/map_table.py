"""Which maps hold at a step, and those of its views: cut to their crops, and flipped with them.

Whether a step's maps exist is asked before its images are decoded, so none that is read ahead gets those of a pass that
another has replaced.

Dims: n samples, V views, M side of a map, N = M M patches.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from gmml_cluster.data.random.philox import Ints, Purpose, bernoulli, words
from gmml_cluster.data.reader.locate import Wanted
from gmml_cluster.data.reader.map_blocks import BLOCK, MapBlockCache, MapBlocks
from gmml_cluster.data.reader.map_crop import Alignment, Bytes, crop_maps
from gmml_cluster.plan.refreshes import Refreshes
from gmml_cluster.spec.augment import Augment
from gmml_cluster.store.protocol import Store

_CACHED_BYTES = 2**28
_LEAST_BLOCKS = 64
"""A rank's lanes each read from a block or two at a time."""


@dataclass(frozen=True)
class MapRules:
    """What decides on the maps of views.

    Attributes:
        grid: patches a side.
        patch_size: side of a patch in pixels.
    """

    seed: int
    augment: Augment
    alignment: Alignment
    grid: int
    patch_size: int


class MapTable:
    """The maps of a run, as far as they are made. Thread-safe, but for `add`.

    Args:
        refreshes: when maps are made, and read.
        store: the run root.
        rules: how a map becomes a view's.
    """

    def __init__(self, refreshes: Refreshes, store: Store, rules: MapRules) -> None:
        self.refreshes, self._store, self._rules = refreshes, store, rules
        self.patches = rules.grid**2
        self._cache = MapBlockCache(max(_LEAST_BLOCKS, _CACHED_BYTES // (BLOCK * self.patches)))
        self._made: dict[int, MapBlocks] = {}

    def add(self, step: int, folder: str, sha256: str) -> None:
        """The maps of a step are made; `folder` and the manifest's digest are of its `map` entry."""
        self._made[step] = MapBlocks(self._store, folder, sha256, self.patches, self._cache)

    def due(self, step: int) -> bool:
        """Whether maps are to be made before this step."""
        return step in self.refreshes.steps and step not in self._made

    def ready(self, step: int) -> bool:
        """Whether a step's maps are made, or it reads none."""
        return self.refreshes.at(step) is None or self.refreshes.at(step) in self._made

    def pass_of(self, step: int) -> int:
        """Which pass, from 1, made the maps that a step reads; 0 where it reads none."""
        at = self.refreshes.at(step)
        return 0 if at is None else self.refreshes.number(at)

    def of_step(self, step: int, numbers: Ints, views: int) -> "ViewMaps | None":
        """Room for the maps of a step's views; None where it reads none.

        Args:
            step: one that is `ready`.
            numbers: its sample numbers.
            views: crops an image.
        """
        at = self.refreshes.at(step)
        if at is None:
            return None
        return ViewMaps(self._made[at], self._rules, numbers, np.empty((len(numbers), views, self.patches), np.uint8))


@dataclass(frozen=True)
class ViewMaps:
    """Maps of the views of some samples, filled as their crops become known.

    Attributes:
        numbers: sample numbers, which draw the flips.
        maps: uint8 (n, V, N).
    """

    blocks: MapBlocks
    rules: MapRules
    numbers: Ints
    maps: Bytes

    def part(self, samples: slice) -> "ViewMaps":
        """Those of some of the samples; what is filled there is filled here."""
        return ViewMaps(self.blocks, self.rules, self.numbers[samples], self.maps[samples])

    def fill(self, samples: Sequence[Wanted], boxes: Ints, sides: Ints) -> None:
        """Fill in the maps of the samples.

        Args:
            samples: whose images are shown.
            boxes: int64 (n, V, 4) crops, or (n, 1, 4) where the views share one.
            sides: int64 (n, 2) height and width of the images.

        Raises:
            StorageError: a block cannot be read.
        """
        M, rules = self.rules.grid, self.rules
        whole_nMM = self.blocks.maps(samples).reshape(-1, M, M)
        cut_nVMM = crop_maps(whole_nMM, boxes, sides, alignment=rules.alignment, patch_size=rules.patch_size)
        seen_nVMM = np.broadcast_to(cut_nVMM, (*self.maps.shape[:2], M, M))
        if rules.augment.flip:
            seen_nVMM = np.where(self._flips()[..., None, None], seen_nVMM[..., ::-1], seen_nVMM)
        self.maps[:] = seen_nVMM.reshape(self.maps.shape)

    def _flips(self) -> "np.ndarray[tuple[int, ...], np.dtype[np.bool_]]":
        """Which views are flipped (n, V): the draws of `data/augment.py`."""
        views = 1 if self.rules.augment.aligned else self.maps.shape[1]
        drawn = [words(self.rules.seed, Purpose.FLIP, self.numbers, 1, stream=view) for view in range(views)]
        flips = bernoulli(np.concatenate(drawn, 1), 0.5)
        return np.broadcast_to(flips, self.maps.shape[:2])
