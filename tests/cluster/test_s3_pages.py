"""`gmml report` and `gmml see` of run roots and shards in a real S3 store, by the real commands."""

import json
import os
import subprocess
import sys

import pytest

from gmml_cluster.store.open import open_store
from tests.fixtures.reports import preempted_run, scored
from tests.fixtures.runs import REPOSITORY
from tests.unit.data.conftest import digit_shards, digits

__all__ = ["digit_shards", "digits"]
DEADLINE_S = 600


def gmml(folder, *arguments):
    """What a command printed, run as a user runs it."""
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY), "HOME": str(folder), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "gmml_cluster.cli.main", *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.timeout(DEADLINE_S)
def test_a_report_of_a_run_in_a_bucket_is_that_of_one_in_a_folder(s3_url, tmp_path):
    pages = {}
    for root in (f"{s3_url}/runs", str(tmp_path / "runs")):
        run = preempted_run(root, "one")
        for step, accuracy in ((49, 55.0), (99, 60.0)):
            scored(run, accuracy, step=step)
        page = tmp_path / "page.html"
        found = json.loads(gmml(tmp_path, "report", f"{root}/one", "-o", str(page), "--json"))
        assert found["runs"] == [f"{root}/one"]
        pages[root] = found["answers"], page.read_text().count('data-figure="'), "log/00000003.json" in page.read_text()
    first, other = pages.values()
    assert first == other == (["knn mean at step 99: 60.0 ± 1.0 %."], 8, True)


@pytest.mark.timeout(DEADLINE_S)
def test_samples_of_shards_in_a_bucket_are_those_of_the_folder(s3_url, digit_shards, tmp_path):
    for path in digit_shards.iterdir():
        open_store(s3_url).put_file(f"digits/{path.name}", path)
    tables = []
    for url in (f"{s3_url}/digits", str(digit_shards)):
        job = tmp_path / "x.yaml"
        job.write_text(
            "{name: x, model: {width: 16, depth: 2, heads: 2, patch_size: 4}, method: {name: gmml}, batch: {size: 8},"
            f" data: {{corpora: [{{url: '{url}'}}], image_size: 16, group: 4}}, run: {{steps: 4}}}}"
        )
        arguments = "see", str(job), "--samples", "6..9", "--root", str(tmp_path / "runs"), "--json"
        found = json.loads(gmml(tmp_path, *arguments, "-o", str(tmp_path / "see.png")))
        for sample in found["samples"]:
            sample["shard"] = sample["shard"].removeprefix(url)
        tables.append((found["samples"], (tmp_path / "see.png").read_bytes()))
    assert tables[0] == tables[1]
    assert [sample["n"] for sample in tables[0][0]] == [6, 7, 8, 9]
