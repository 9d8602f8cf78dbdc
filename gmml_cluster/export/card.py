"""The model card: what an exported encoder is, what it saw, and how it is loaded."""

from gmml_cluster import __version__
from gmml_cluster.data.corpus.pin import Pin
from gmml_cluster.run.history import Commit, History
from gmml_cluster.run.results.evaluations import kept, table
from gmml_cluster.run.root import RunRoot
from gmml_cluster.spec.job import JobSpec
from gmml_cluster.spec.loading.validate import to_yaml
from gmml_cluster.spec.methods.registry import mask_table_of, wants_labels


def model_card(run: RunRoot, job: JobSpec, commit: Commit, loading: str, image_size: int | None = None) -> str:
    """`README.md` of an exported encoder, as Markdown with the metadata that model hubs read.

    Args:
        run: where it was trained.
        job: its job.
        commit: the checkpoint that was exported.
        loading: Python that loads the files beside the card.
        image_size: side of the images that it reads, where that is not the run's.
    """
    model, history = job.model, run.log.refresh()
    shape = f"{model.depth} blocks, {model.width} wide, {model.heads} heads, patches of {model.patch_size} pixels"
    trained_at, normalise = job.data.image_size, job.data.normalise
    size = image_size or trained_at
    resized = "" if size == trained_at else f", trained at {trained_at} x {trained_at}"
    pixels = f"{size} x {size}{resized}, less the mean {list(normalise.mean)}, over {list(normalise.std)}"
    labelled = wants_labels(job.method) or mask_table_of(job.method) is not None
    tags, trained = ("supervised", "with") if labelled else ("self-supervised", "without")
    return f"""---
library_name: gmml_cluster
tags: [{tags}, {job.method.name}]
---
# {job.name}

A vision transformer's encoder, trained by {job.method.name} {trained} labels: {shape}.

| | |
|---|---|
| images | RGB in [0, 1], {pixels} |
| checkpoint | step {commit.step}, attempt {commit.attempt}, manifest SHA-256 `{commit.manifest}` |
| images drawn | {(commit.step + 1) * job.batch.size:,} ({commit.step + 1:,} steps of {job.batch.size:,}) |
| code | SHA-256 `{_code(history)}` |
| written by | gmml_cluster {__version__} |

## Loading

In this folder:

```python
{loading}```

## Scores

{_scores(run, commit)}

## Corpora

{_corpora(run, history)}

## The job, with every field

```yaml
{to_yaml(job)}```
"""


def _code(history: History) -> str:
    return history.submit.code if history.submit else "unknown"


def _scores(run: RunRoot, commit: Commit) -> str:
    """The main scores that are kept of this very checkpoint."""
    rows = [row for row in table(kept(run)) if row["step"] == commit.step]
    if not rows:
        return f"None is kept of this checkpoint; `gmml eval {run.name} --step {commit.step}` makes some."
    lines = [
        f"| {row['score']} | {row['feature']} | {row['accuracy']:.1f} ± {row['error']:.1f} | {row['samples']:,} |"
        f" {row['corpus']} | {row['bank']} |"
        for row in rows
    ]
    head = ["| score | of | percent | images | scored on | learnt from |", "|---|---|---|---|---|---|"]
    said = "Top-1, or mIoU where that is said; ± one standard error of sampling, in which the spread of seeds is not."
    return "\n".join([*head, *lines, "", said])


def _corpora(run: RunRoot, history: History) -> str:
    if history.pin is None:
        return "Not recorded."
    digest = history.pin["corpora"]
    corpora = Pin.from_bytes(run.corpora(digest)).corpora
    lines = [f"| {each.url} | {len(each.shards)} | {each.shards.samples.sum():,} |" for each in corpora]
    return "\n".join(
        [f"SHA-256 of the list of shards: `{digest}`", "", "| corpus | shards | samples |", "|---|---|---|", *lines]
    )
