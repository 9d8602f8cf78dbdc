"""The report, as markdown, of whatever has finished."""

from collections.abc import Iterator, Sequence
from itertools import groupby

import yaml

from benchmarks.methods.costs import kept_costs
from benchmarks.methods.jobs import JOBS
from benchmarks.methods.results import SCORES, Result, mean_and_spread
from benchmarks.methods.trials import CORPORA, IMAGES, METHODS, Trial

_HEAD = ["method", "images", "seeds", "fine-tuned", "over scratch", "attentive", "linear", "kNN"]
_COSTS = ["images/s", "step over MAE's", "by arithmetic"]
_NONE = "-"
LEAST_GAIN = 5.0
"""Points by which MAE has to be above its start for the table to mean anything."""


def report(results: Sequence[Result], command: str) -> str:
    """The tables, one a corpus, how each method was set, and what is missing."""
    images = results[0].trial.images
    lines = ["# Methods compared", "", f"`{command}`", ""]
    if images != IMAGES:
        lines += [
            f"**A trial of the program with {images:,} images of {IMAGES:,}: no figure here compares methods.**",
            "",
        ]
    missing = [phrase for result in results for phrase in result.missing]
    lines += [*_partial(results), ""] if missing else []
    lines += [*_explained(results), ""]
    for corpus in CORPORA:
        of_corpus = [result for result in results if result.trial.corpus == corpus]
        if any(result.finished for result in of_corpus):
            lines += [f"## {corpus}", "", *_table(of_corpus), "", *_demanded(of_corpus)]
    lines += ["## Settings", "", *_settings([result for result in results if result.finished] or results), ""]
    lines += ["## Missing", "", *([f"- {phrase}" for phrase in missing] or ["Nothing."])]
    return "\n".join(lines) + "\n"


def _partial(results: Sequence[Result]) -> Iterator[str]:
    """How much has been measured, and of which methods and corpora nothing has."""
    complete = sum(not result.missing for result in results)
    yield f"**Partial: {complete} of {len(results)} encoders are trained and scored. Only what was measured is below.**"
    for corpus in dict.fromkeys(result.trial.corpus for result in results):
        of_corpus = [result for result in results if result.trial.corpus == corpus]
        measured = {result.trial.method for result in of_corpus if result.finished}
        absent = [name for name in dict.fromkeys(r.trial.method for r in of_corpus) if name not in measured]
        if absent:
            yield f"Nothing of {', '.join(absent)} on {corpus}."


def _explained(results: Sequence[Result]) -> Iterator[str]:
    yield "Top-1 accuracy in percent on test images, ± one standard error of sampling; in brackets the spread"
    yield "(standard deviation) over seeds. Nothing was chosen by test images: recipes are fixed, the last checkpoint"
    yield "counts, and the linear probe's learning rate is chosen on a tenth of the training images. `scratch` is the"
    yield "method's own start with the fine-tuning alone; `over scratch` is the difference to it, seed by seed. kNN"
    yield "(k = 20), linear and attentive read patch tokens of a frozen encoder. images/s and the cost of a step over"
    yield "MAE's are those of `python -m benchmarks.step_cost --keep`, which takes a step of each method in turn on one"
    yield "machine: median, and least to most of the rounds; beside it the ratio by the arithmetic of the plan."
    machines = dict.fromkeys(result.machine for result in results if result.machine)
    if machines:
        yield f"Machine: {'; '.join(machines)}."


def _table(results: Sequence[Result]) -> Iterator[str]:
    columns = [*_HEAD, *_COSTS]
    yield f"| {' | '.join(columns)} |"
    yield f"|---|{'---:|' * (len(columns) - 1)}"
    rows = sorted(results, key=lambda result: _order(result.trial))
    for _, group in groupby(rows, key=lambda result: _order(result.trial)):
        if known := [result for result in group if result.finished]:
            yield f"| {' | '.join(_cells(known, results))} |"


def _order(trial: Trial) -> tuple[int, bool]:
    return list(METHODS).index(trial.method), trial.scratch


def _cells(rows: Sequence[Result], results: Sequence[Result]) -> Iterator[str]:
    trial = rows[0].trial
    finetune, *frozen = (_score(rows, name) for name in SCORES)
    yield trial.row
    yield f"{trial.pretraining:,}"
    yield str(len(rows))
    yield finetune
    yield _NONE if trial.scratch else _gain(rows, results)
    yield from frozen
    cost = kept_costs().get(trial.row)
    yield from (_NONE,) * len(_COSTS) if cost is None else cost.cells


def _score(rows: Sequence[Result], name: str) -> str:
    known = [row.scores[name] for row in rows if name in row.scores]
    if not known:
        return _NONE
    mean, spread = mean_and_spread(score.accuracy for score in known)
    error = max(score.error for score in known)
    return f"{mean:.1f} ± {error:.1f}" + _bracket(spread) + _of(len(known), len(rows))


def _gain(rows: Sequence[Result], results: Sequence[Result]) -> str:
    gains = _over_start(rows, results)
    if not gains:
        return _NONE
    mean, spread = mean_and_spread(gains)
    return f"{mean:+.1f}" + _bracket(spread) + _of(len(gains), len(rows))


def _over_start(rows: Sequence[Result], results: Sequence[Result]) -> list[float]:
    """Points by which fine-tuned encoders are above their starts, of the seeds of which both are known."""
    starts = {
        (result.trial.method, result.trial.seed): result.scores["finetune"].accuracy
        for result in results
        if result.trial.scratch and "finetune" in result.scores
    }
    pairs = [(row.scores.get("finetune"), starts.get((row.trial.method, row.trial.seed))) for row in rows]
    return [own.accuracy - start for own, start in pairs if own is not None and start is not None]


def _demanded(results: Sequence[Result]) -> Iterator[str]:
    """Whether MAE is as far above its start as it has to be; nothing before several seeds of both are there."""
    own, start = ([r for r in results if r.trial.method == "mae" and r.trial.scratch is kind] for kind in (False, True))
    gains = _over_start(own, results)
    if len(gains) < 2:
        return
    fine_tuned = ([r.scores["finetune"].accuracy for r in rows if "finetune" in r.scores] for rows in (own, start))
    spread = max(mean_and_spread(values)[1] or 0.0 for values in fine_tuned)
    gain, _ = mean_and_spread(gains)
    met = "met" if gain >= LEAST_GAIN and gain > 2 * spread else "**not met**"
    yield f"Fine-tuned, MAE is {gain:.1f} points above its start; demanded are {LEAST_GAIN:g}, and more than twice the"
    yield f"spread over seeds, which is {spread:.1f} at most: {met}."
    yield ""


def _bracket(spread: float | None) -> str:
    return "" if spread is None else f" ({spread:.1f})"


def _of(known: int, rows: int) -> str:
    return "" if known == rows else f" [{known} of {rows} seeds]"


def _settings(results: Sequence[Result]) -> Iterator[str]:
    """A line a method: its recipe, its options, which declare how narrow its heads are, and what differs here."""
    yield "Encoder: 96 wide, 6 deep, 3 heads, 64 patches of 4 pixels, of 8 on Tiny ImageNet; batch 64; learning rates"
    yield "absolute."
    heads = results[0].trial.heads
    yield f"Heads: {heads['finetune']:,} images of fine-tuning, {heads['attentive']:,} of the attentive probe."
    yield ""
    for method in dict.fromkeys(result.trial.method for result in results):
        recipe = METHODS[method]
        options = yaml.safe_load((JOBS / recipe.job).read_text())["method"]
        written = ", ".join(f"`{name}: {value}`" for name, value in options.items() if name != "name") or "its defaults"
        changed = ", ".join(f"`{name}={value}`" for name, value in recipe.overrides.items())
        yield f"- {method}: `jobs/{recipe.job}` ({written})" + (f", with {changed}" if changed else "")
