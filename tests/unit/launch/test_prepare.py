"""What is known of a job before it is submitted."""

import pytest
import yaml

from gmml_cluster.launch.prepare import prepare

JOB = {
    "name": "x",
    "model": {"width": 8, "depth": 1, "heads": 1, "patch_size": 4},
    "method": {"name": "mae", "decoder_width": 8, "decoder_heads": 1},
    "data": {"corpora": [{"url": "s3://nowhere/corpus", "samples": 64}], "image_size": 8},
    "batch": {"size": 16},
    "run": {"steps": 2},
}


@pytest.mark.parametrize(
    ("zero", "imports"),
    [("ddp", ("torch",)), (1, ("torch", "deepspeed")), ("auto", ("torch", "deepspeed"))],
)
def test_the_packages_that_an_engine_may_need_are_asked_for(tmp_path, zero, imports):
    job, profile = tmp_path / "job.yaml", tmp_path / "here.yaml"
    job.write_text(yaml.safe_dump({**JOB, "engine": {"zero": zero}}))
    profile.write_text(yaml.safe_dump({"launcher": "local", "root": str(tmp_path / "runs")}))
    prepared = prepare(str(job), cluster=str(profile), take_counts=True)
    assert prepared.submission.imports == imports
    assert prepared.job.engine.zero == zero
