"""What segmentation refuses before anything is submitted."""

import pytest

from gmml_cluster.data.corpus.classes import class_faults
from gmml_cluster.data.corpus.summary import Summary
from gmml_cluster.spec.rules import broken_rules
from tests.unit.methods.jobs import job

SEGMENTATION = {"name": "segmentation", "classes": 4}


def found(**method):
    return [str(each) for each in broken_rules(job({**SEGMENTATION, **method}, init={"run": "x"}))]


def test_a_job_without_faults_breaks_no_rule():
    assert found() == []


@pytest.mark.parametrize("ignore", [0, 3])
def test_a_value_of_a_mask_means_one_thing(ignore):
    assert any(f"{ignore} is the value of class {ignore} too" in each for each in found(ignore=ignore))


@pytest.mark.parametrize("blocks", [[1, 2], [4, 2], [0, 4], [2, 2, 4]])
def test_joined_blocks_rise_to_the_last(blocks):
    assert any("blocks rise, from 1 at least, to the last, which is 4" in each for each in found(blocks=blocks))
    assert found(blocks=[1, 2, 4]) == []


def test_every_sample_has_a_mask():
    held = Summary(shards=1, samples=5, labelled=0, least_label=-1, greatest_label=-1, passed_over=(), masks=3)
    (fault,) = class_faults(job(SEGMENTATION, init={"run": "x"}), [held])
    assert str(fault).startswith("data.corpora.0.url: nowhere has no mask for 2 of its 5 samples; segmentation learns")
