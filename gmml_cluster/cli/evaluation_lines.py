"""What `gmml status RUN` says of evaluations. Imports no pydantic."""

from gmml_cluster.cli.moments import moment
from gmml_cluster.outputs.status import EvaluationsOutput, GivenUpOutput, HeadOutput, ScoreOutput, ScoringOutput


def evaluation_lines(found: EvaluationsOutput) -> list[str]:
    """A line for each score, of those made while it trained the latest, and for what is under way or was given up."""
    series: dict[tuple[str, ...], list[ScoreOutput]] = {}
    for row in found["ran"]:
        if row["attempt"] is not None:
            series.setdefault((row["score"], row["feature"], row["corpus"], row["corpus_digest"]), []).append(row)
    return [
        *(_score(row) for row in found["ran"] if row["attempt"] is None),
        *(f"{_score(each[-1])}, the last of {len(each)} while it trained" for each in series.values()),
        *_running(found["running"]),
        *(_given_up(each) for each in found["given_up"]),
        *(_head(each) for each in found["heads"]),
    ]


def _score(row: ScoreOutput) -> str:
    step = "untrained" if row["step"] is None else f"step {row['step']}"
    accuracy = f"{row['accuracy']:.1f} ± {row['error']:.1f} %"
    return f"  {row['score']:<12} {accuracy} by {row['feature']}, {step}, on {row['corpus']}"


def _running(found: ScoringOutput | None) -> list[str]:
    if found is None:
        return []
    since = f"attempt {found['attempt']} since {moment(found['since'])}"
    return [f"  evaluation   of step {found['step']} on {found['images']:,} images is running: {since}"]


def _given_up(found: GivenUpOutput) -> str:
    by = f"by attempt {found['attempt']} at {moment(found['time'])}"
    return f"  evaluation   of step {found['step']} was given up {by}: {found['reason'].partition(chr(10))[0]}"


def _head(found: HeadOutput) -> str:
    known = found["step"] is not None and found["steps"]
    step = f", step {found['step']} of {found['steps']}" if known and found["state"] != "finished" else ""
    since = f", started {moment(found['since'])}" if found["since"] and found["state"] == "running" else ""
    problem = f": {found['problem']}" if found["problem"] else ""
    return f"  {found['score']:<12} the run {found['run']} trains it: {found['state']}{step}{since}{problem}"
