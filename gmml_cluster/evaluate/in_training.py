"""Scores of a run's encoder between two steps of its training, by all ranks together.

The weights are copied out of the engine as the checkpoint of the step has them, and a frozen encoder of their own is
built around the copy: what trains is only read, and no draw depends on how often. Batches of images are shared out over
the ranks, each batch as `gmml eval` cuts it; features come to rank 0, which scores and keeps them.

Whatever goes wrong on one rank must not leave another in a collective. So between two collectives every rank catches
its own error, and all agree on whether one had any (`_agree`): the evaluation is then given up on all of them, with a
warning, and training goes on.
"""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from typing import cast

import torch
import torch.distributed as dist
from torch import Tensor

from gmml_cluster.data.corpus.listing import indexes_below
from gmml_cluster.data.reader.node_share import decode_threads
from gmml_cluster.errors import Fenced
from gmml_cluster.evaluate.features import BATCH, EvalCorpus, Feature, FeatureReader, labelled, read_ahead
from gmml_cluster.evaluate.pace import Pace
from gmml_cluster.evaluate.report import FROZEN, EvalReport
from gmml_cluster.evaluate.scoring import (
    Request,
    corpora_of,
    demand_class_token,
    reader_with,
    report_of,
    scores_of,
)
from gmml_cluster.methods.build import blank
from gmml_cluster.methods.protocol import Setting, exported_name
from gmml_cluster.models.vit import VisionTransformer
from gmml_cluster.run.results.evaluation_progress import EvaluationProgress
from gmml_cluster.run.results.evaluations import find, keep
from gmml_cluster.running_time import running_time
from gmml_cluster.spec.job import JobSpec
from gmml_cluster.train.engines.gather import Copies
from gmml_cluster.train.evaluation import Scored
from gmml_cluster.train.ranks.watchdog import LONGEST_S, watchdog
from gmml_cluster.train.stepper import LoopResult

_STOPS: tuple[LoopResult, ...] = ("", "notice", "cancelled")
"""What may end an evaluation, the stronger the later."""
_REASON_BYTES = 512

_log = logging.getLogger(__name__)


class _GivenUp(Exception):
    """The evaluation ends here, on all ranks alike: a stop was asked for, or there is a reason why it failed."""

    def __init__(self, result: LoopResult = "", reason: str = "") -> None:
        super().__init__(result or reason)
        self.result = result
        self.reason = reason


@dataclass
class InTraining:
    """See `Evaluation`, whose promises it keeps.

    Attributes:
        scored: what is scored.
    """

    scored: Scored
    _corpora: tuple[EvalCorpus, EvalCorpus] | None = field(default=None, init=False)
    _error: Exception | None = field(default=None, init=False)
    _may_stop: bool = field(default=True, init=False)
    _progress: EvaluationProgress | None = field(default=None, init=False)

    def __post_init__(self) -> None:
        if self._is_rank_zero:
            self._progress = EvaluationProgress(self.scored.run, self.scored.attempt)

    def due(self, step: int) -> bool:
        """Whether the weights behind this step are scored."""
        return self.scored.due(step)

    def run(self, step: int, committed: Callable[[], None] = lambda: None) -> LoopResult:
        """Score the weights behind this step, unless that is done already."""
        began, asked = running_time(), request_of(self.scored.job)
        self._may_stop = not self.scored.is_last(step)
        try:
            bank, corpus = self._opened(asked)
            if self._is_kept(step, asked, bank, corpus):
                return ""
            if self._progress is not None:
                images = len(bank.indices) + len(corpus.indices)
                _log.info("evaluation of step %d: %d images", step, images)
                self._progress.begin(step, images)
            reader = self._reader(asked)
            features = self._features(reader, bank, asked.features), self._features(reader, corpus, asked.features)
            watchdog.beat("scores of an evaluation", LONGEST_S)
            committed()
            with self._own():
                if all(features):
                    self._keep(step, asked, (bank, corpus), features, began)
            self._agree()
        except _GivenUp as given_up:
            if self._progress is not None and given_up.reason:
                self._progress.give_up(step, given_up.reason)
            return given_up.result
        finally:
            if self._progress is not None:
                self._progress.end()
        return ""

    def _opened(self, asked: Request) -> tuple[EvalCorpus, EvalCorpus]:
        """Both corpora, which stay as they were found the first time."""
        with self._own():
            if self._corpora is None:
                self._corpora = corpora_of(self.scored.job, asked, indexes_below(self.scored.run.root))
        self._agree()
        assert self._corpora is not None
        return self._corpora

    def _is_kept(self, step: int, asked: Request, bank: EvalCorpus, corpus: EvalCorpus) -> bool:
        """Whether an attempt before has scored these weights; its entry in the log is made good where it is missing."""
        known = False
        with self._own():
            if self._is_rank_zero:
                scores = [(score, feature) for score in asked.names for feature in asked.features]
                about = {"protocol": FROZEN, "bank": bank.identity, "corpus": corpus.identity, "scores": scores}
                document = find(self.scored.run, step, about)
                known = document is not None
                if document is not None:
                    keep(self.scored.run, document, self.scored.attempt)
        return self._agree(known)

    def _reader(self, asked: Request) -> FeatureReader:
        """A frozen encoder of the present weights. A collective."""
        job, engine = self.scored.job, self.scored.engine
        method = blank(Setting.of(job))
        name = exported_name(method)
        encoder = cast(VisionTransformer, method.module.get_submodule(name))
        with self._own():
            demand_class_token(encoder, asked.features, job.method.name)
            copies = Copies(engine, f"{name}.")
        self._agree()
        weights = copies.gather()
        with self._own():
            encoder.load_state_dict(weights, assign=True)
            encoder.to(engine.device).eval().requires_grad_(False)
        self._agree()
        return reader_with(encoder, job, method, engine.device)

    def _features(self, reader: FeatureReader, corpus: EvalCorpus, names: Sequence[Feature]) -> dict[Feature, Tensor]:
        """Features (M, D) of a whole corpus on rank 0, none on the others. A collective.

        Rank r reads the batches r, r + R, ...; all ranks agree after each, so that a notice or an error ends the
        evaluation within the time of one batch.
        """
        info, batches = self.scored.rank_info, torch.split(corpus.indices, BATCH)
        rounds = range(0, len(batches), info.ranks)
        mine = [batches[min(first + info.rank, len(batches) - 1)] for first in rounds]  # past the end: a copy, cut off
        own: list[list[Tensor]] = []
        pace = Pace()
        with closing(read_ahead(corpus, mine, reader.image_size, decode_threads(info.local_ranks))) as squares:
            for _ in rounds:
                with self._own():
                    own.append([_filled(each) for each in reader.batch(next(squares), names)])
                    pace.next()
                self._agree()
        return self._on_rank_zero(dict(zip(names, zip(*own, strict=True), strict=True)), len(corpus.indices))

    def _on_rank_zero(self, own: Mapping[Feature, Sequence[Tensor]], count: int) -> dict[Feature, Tensor]:
        """The ranks' batches of each feature (BATCH, D) in the order of the corpus, cut to `count` rows."""
        stacked: dict[Feature, Tensor] = {}
        of_ranks: dict[Feature, list[Tensor]] = {}
        with self._own():  # what takes memory, before any rank waits for another
            stacked = {name: torch.stack(list(batches)) for name, batches in own.items()}
            if self._is_rank_zero:
                ranks = range(self.scored.rank_info.ranks)
                of_ranks = {name: [torch.empty_like(mine) for _ in ranks] for name, mine in stacked.items()}
        self._agree()
        for name, mine in stacked.items():
            dist.gather(mine, of_ranks.get(name))
        with self._own():
            return {name: torch.stack(parts, 1).flatten(0, 2)[:count] for name, parts in of_ranks.items()}
        return {}

    def _keep(
        self,
        step: int,
        asked: Request,
        corpora: tuple[EvalCorpus, EvalCorpus],
        features: tuple[dict[Feature, Tensor], dict[Feature, Tensor]],
        began: float,
    ) -> None:
        """Rank 0's: score, and keep what was found in the run root and in its log."""
        run, attempt = self.scored.run, self.scored.attempt
        of_bank, of_corpus = (labelled(*each) for each in zip(corpora, features, strict=True))
        found = scores_of(of_bank, of_corpus, asked.names, seed=self.scored.job.seed)
        made = run.log.refresh().attempt(attempt)
        asked = replace(asked, code="" if made is None else made.code)
        report = report_of(asked, *corpora, found, step=step)
        report = replace(report, attempt=attempt, seconds=round(running_time() - began, 3))
        keep(run, report.to_json(), attempt)
        _log.info("%s", _line(report))

    @property
    def _is_rank_zero(self) -> bool:
        return self.scored.rank_info.rank == 0

    @contextmanager
    def _own(self) -> Iterator[None]:
        """What one rank does by itself; its error waits for `_agree`."""
        try:
            yield
        except Fenced:
            raise
        except Exception as error:
            self._error = error

    def _agree(self, known: bool = False) -> bool:
        """Whether `known` holds on any rank. A collective.

        Raises:
            _GivenUp: on all ranks, where one had an error, or is asked to stop while there is still a step to make.
        """
        watchdog.beat("an evaluation")
        error, self._error = self._error, None
        stop = _STOPS.index(self.scored.stop_request.stop) if self._may_stop else 0
        flags = torch.tensor([error is not None, stop, known], dtype=torch.int64, device=self.scored.engine.device)
        dist.all_reduce(flags, dist.ReduceOp.MAX)
        failed, stop, known = flags.tolist()
        if failed:
            reason = self._reason(error)
            _log.warning("evaluation given up, training goes on: %s", reason)
            raise _GivenUp(reason=reason)
        if stop:
            raise _GivenUp(_STOPS[stop])
        return bool(known)

    def _reason(self, error: Exception | None) -> str:
        """What went wrong on the first rank that failed, the same on all. A collective."""
        info, device = self.scored.rank_info, self.scored.engine.device
        by = f" (rank {info.rank})" if info.ranks > 1 else ""
        said = "" if error is None else f"{type(error).__name__}: {error}{by}"
        mine = torch.zeros(_REASON_BYTES, dtype=torch.uint8)
        data = bytearray(said.encode()[:_REASON_BYTES])
        mine[: len(data)] = torch.frombuffer(data, dtype=torch.uint8) if data else 0
        of_ranks = [torch.zeros_like(mine, device=device) for _ in range(info.ranks)]
        dist.all_gather(of_ranks, mine.to(device))
        texts = (bytes(each.tolist()).rstrip(b"\0").decode(errors="ignore") for each in of_ranks)
        return next(filter(None, texts))


def request_of(job: JobSpec) -> Request:
    """What the job's section `evaluate` asks for."""
    asked = job.evaluate
    assert asked is not None
    return Request(
        run=job.name,
        corpus=asked.corpus,
        names=asked.scores,
        features=tuple(dict.fromkeys(asked.features)),
        bank=asked.bank,
        image=asked.image,
        bank_images=asked.bank_images,
        corpus_images=asked.corpus_images,
    )


def _filled(vectors_BD: Tensor) -> Tensor:
    """A batch of BATCH rows: what is gathered has one shape on all ranks; the rows added mean nothing."""
    return torch.cat([vectors_BD, vectors_BD.new_zeros(BATCH - len(vectors_BD), vectors_BD.shape[1])])


def _line(report: EvalReport) -> str:
    """What was found, for the log of rank 0."""
    main = [f"{each.name} {100 * each.accuracy:.1f} % by {each.feature}" for each in report.scores if each.main]
    return f"evaluation of step {report.step}: {', '.join(main)}, in {report.seconds:.1f} s"
