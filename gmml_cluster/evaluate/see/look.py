"""What sample numbers of a job or a run are: read, cut, augmented and masked by the code that trains.

No checkpoint is read. Maps of attention are those of the run, where it has made them.

Dims: n samples of whole groups, V views, S side of a view, M boxes.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gmml_cluster.data.corpus.pin import Located
from gmml_cluster.data.random.philox import Ints
from gmml_cluster.data.reader.by_number import NumberReader, Stored
from gmml_cluster.data.reader.decode import decoder_name
from gmml_cluster.data.reader.locate import Wanted
from gmml_cluster.data.reader.map_table import MapTable
from gmml_cluster.data.reader.order import Order
from gmml_cluster.data.reader.stream import HostBatch
from gmml_cluster.errors import Fault, SpecError
from gmml_cluster.evaluate.reconstruction import GREY, pixels
from gmml_cluster.evaluate.see.panels import of_attention, of_classes
from gmml_cluster.methods.build import blank
from gmml_cluster.methods.protocol import MASK, Draws, Method, Panel, Setting, ShowsInput
from gmml_cluster.ordered import Ordered
from gmml_cluster.plan.steps import total_steps
from gmml_cluster.progress import progress
from gmml_cluster.spec.job import JobSpec
from gmml_cluster.spec.methods.registry import mask_table_of, wants_labels
from gmml_cluster.store.open import open_store
from gmml_cluster.train.inputs import method_inputs
from gmml_cluster.train.maps import map_table
from gmml_cluster.train.ranks.agreement import demand_same_views
from gmml_cluster.wording import counted

MOST = 64
"""Samples that are shown at once."""
SIDE = 256
"""Of stored images, in pixels."""
_CPU = torch.device("cpu")


@dataclass(frozen=True)
class SamplePicture:
    """One picture of a sample.

    Attributes:
        title: of all pictures in its column.
        pixels: uint8 (S, S, 3).
        fact: what the picture does not say; may be empty.
        boxes: int (M, 4), outlined: top, left, height, width in pixels.
    """

    title: str
    pixels: NDArray[np.uint8]
    fact: str
    boxes: Ints


@dataclass(frozen=True)
class Seen:
    """One sample number.

    Attributes:
        corpus, epoch: of the corpus that its lane reads.
        stored: the image that is shown, as its shard has it, and what is cut.
        located: where that is.
        replaces: where the bad sample is in whose place it is shown; None where there is none.
        views: what augmentation leaves, view by view.
        panels: what the method makes of the views.
    """

    n: int
    step: int
    corpus: int
    epoch: int
    stored: Stored
    located: Located
    replaces: Located | None
    views: Sequence[SamplePicture]
    panels: Sequence[SamplePicture]


@dataclass(frozen=True)
class Look:
    """Some sample numbers.

    Attributes:
        steps: of the whole run.
        notes: what cannot be drawn, and why.
    """

    job: JobSpec
    steps: int
    samples: Sequence[Seen]
    notes: Sequence[str]


def look(found: Ordered, numbers: range) -> Look:
    """What some sample numbers are.

    Args:
        found: the job or run.
        numbers: at most `MOST`, which may begin and end within groups.

    Raises:
        SpecError: they are too many or not all of the run, or nothing installed has the method.
        PreflightError: this code would decode or crop the run's images otherwise.
        DataError: an index is damaged, or a sample cannot be replaced.
        StorageError: a store does not answer, a shard is gone or changed, or maps of the run are.
    """
    job, layout = found.job, found.layout
    steps = total_steps(job, layout)
    _demand(numbers, steps, layout.batch)
    notes = dict.fromkeys(_decoded_otherwise(found))
    looker = _Looker(found, blank(Setting.of(job)), _maps(found, steps))
    group = layout.group
    whole = np.arange(numbers.start // group * group, -(-numbers.stop // group) * group)
    seen: list[Seen] = []
    try:
        with progress("reading and drawing", len(numbers)) as advance:
            for step, of_step in groupby(whole.tolist(), lambda n: n // layout.batch):
                of_samples, said = looker.step(step, np.array(list(of_step), np.int64))
                asked = [each for each in of_samples if each.n in numbers]
                seen += asked
                notes |= dict.fromkeys(said)
                advance(len(asked))
    finally:
        looker.close()
    return Look(job, steps, seen, list(notes))


def _demand(numbers: range, steps: int, batch: int) -> None:
    where = f"--samples {numbers[0]}..{numbers[-1]}"
    if numbers[-1] >= steps * batch:
        problem = f"the run has {counted(steps, 'step')} of {batch} images, so the numbers 0 to {steps * batch - 1}"
        raise SpecError(Fault(where, problem, "name smaller ones"))
    if len(numbers) > MOST:
        hint = "name fewer; gmml order lists as many as you like"
        raise SpecError(Fault(where, f"are {len(numbers)} samples; at most {MOST} are shown at once", hint))


def _decoded_otherwise(found: Ordered) -> Iterator[str]:
    """That a run's own decoder is not the one that is installed here."""
    pinned = None if found.run is None else found.run.log.refresh().pin
    if found.run is None or pinned is None:
        return
    demand_same_views(found.run, pinned["decoder"])
    if pinned["decoder"] != decoder_name():
        what = "pixels may differ in the last bit, and which samples are bad"
        yield f"images are decoded by {decoder_name()}, the run's first by {pinned['decoder']}; {what}"


def _maps(found: Ordered, steps: int) -> MapTable | None:
    """The maps that a run has made; of a job file none are made, so that no store is read."""
    if found.run is None:
        return map_table(found.job, found.layout, steps, open_store("."), [])
    return map_table(found.job, found.layout, steps, found.run.store, found.run.log.refresh().maps)


class _Looker:
    """Reads and draws the samples of one step at a time."""

    def __init__(self, found: Ordered, method: Method, maps: MapTable | None) -> None:
        job = found.job
        self._job, self._pin, self._method, self._maps = job, found.pin, method, maps
        self._is_run, self._order = found.run is not None, Order(found.layout)
        self._reader = NumberReader(
            self._order,
            found.pin,
            job.data,
            seed=job.seed,
            views=method.views,
            labels=wants_labels(job.method),
            mask_table=mask_table_of(job.method),
            side=SIDE,
        )

    def close(self) -> None:
        self._reader.close()

    def step(self, step: int, numbers: Ints) -> tuple[list[Seen], list[str]]:
        """Some sample numbers of a step, whole groups; and what cannot be drawn of them."""
        maps = self._maps
        is_ready = maps is None or maps.ready(step)
        batch, stored = self._reader.read(step, numbers, maps if is_ready else None)
        views, draws = method_inputs(self._job, self._method, batch, slice(None), upload=torch.from_numpy, device=_CPU)
        notes = [] if is_ready else [self._without_maps(step)]
        panels, said = self._panels(views, draws, batch) if is_ready else ([], [])
        where = self._order.locate(numbers)
        of_views, of_panels = self._shown(_views(views)), self._shown(panels)
        seen = [
            Seen(
                int(n),
                step,
                int(where.corpus[at]),
                int(where.epoch[at]),
                stored[at],
                self._located(stored[at].sample),
                None if (bad := stored[at].replaces) is None else self._located(bad),
                [each[at] for each in of_views],
                [each[at] for each in of_panels],
            )
            for at, n in enumerate(numbers)
        ]
        return seen, [*notes, *said]

    def _located(self, sample: Wanted) -> Located:
        return self._pin.locate(sample.corpus, sample.y)

    def _without_maps(self, step: int) -> str:
        assert self._maps is not None
        since = self._maps.refreshes.at(step)
        cure = "look again when it has" if self._is_run else "name the run instead of the job file"
        return f"step {step}: masks follow maps of attention, which a run makes before step {since}; {cure}"

    def _panels(self, views: Tensor, draws: Draws, batch: HostBatch) -> tuple[list[Panel], list[str]]:
        """What the method makes of the views, and what is not to be seen of that."""
        name, grey = self._job.method.name, _grey(self._job)
        beside = list(of_attention(views, draws, self._job.data.normalise))
        if batch.masks is not None:  # methods call draws of their own so too
            beside.append(of_classes(views, draws[MASK], self._job.data.normalise))
        if not isinstance(self._method, ShowsInput):
            return beside, [
                f"{name} does not show what it makes of views; a method does by `show_input` (docs/methods.md)"
            ]
        panels = list(self._method.show_input(views, draws, torch.from_numpy(batch.numbers), grey=grey))
        return [*beside, *panels], [] if panels else [f"{name} hides and mixes nothing: the encoder sees the views"]

    def _shown(self, panels: Sequence[Panel]) -> list[list[SamplePicture]]:
        """Each panel's pictures, sample by sample."""
        return [list(_pictures(panel, self._job)) for panel in panels]


def _grey(job: JobSpec) -> Tensor:
    mean, std = (torch.tensor(values) for values in (job.data.normalise.mean, job.data.normalise.std))
    return (GREY - mean) / std


def _views(views_nV3SS: Tensor) -> list[Panel]:
    """The views as panels."""
    V = views_nV3SS.shape[1]
    return [Panel("view" if V == 1 else f"view {v + 1}", views_nV3SS[:, v]) for v in range(V)]


def _pictures(panel: Panel, job: JobSpec) -> Iterator[SamplePicture]:
    colours = (pixels(panel.images, job.data.normalise).numpy() * 255).round().astype(np.uint8)
    none = np.zeros((0, 4), np.int64)
    for at, picture in enumerate(colours):
        boxes = none if panel.boxes is None else panel.boxes[at].numpy().astype(np.int64)
        yield SamplePicture(panel.title, picture, panel.facts[at] if panel.facts else "", boxes)
