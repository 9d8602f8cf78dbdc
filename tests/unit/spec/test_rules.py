"""Rules across the fields of a job."""

import re

import pytest

from gmml_cluster.errors import SpecError
from gmml_cluster.spec.job import Model
from gmml_cluster.spec.loading.validate import parse_job
from gmml_cluster.spec.methods.conmim import ConmimOptions
from gmml_cluster.spec.rules import broken_rules, group_of

BASE = {
    "name": "x",
    "model": {"width": 64, "depth": 4, "heads": 2, "patch_size": 4},
    "method": {"name": "gmml"},
    "data": {"corpora": [{"url": "x"}], "image_size": 32},
    "batch": {"size": 64},
    "run": {"steps": 1},
}
MAE = {"method": {"name": "mae"}}
LABELS = {"method": {"name": "supervised", "classes": 4}}
HEAD = {"method": {"name": "linear", "classes": 4}, "init": {"run": "other"}, "batch": {"size": 512}}
RELVIT = {"method": {"name": "relvit"}}


def spec(**changes):
    merged = {name: dict(value) if isinstance(value, dict) else value for name, value in BASE.items()}
    for name, change in changes.items():
        merged[name] = {**(merged.get(name) or {}), **change} if isinstance(change, dict) else change
    return merged


def faults_of(**changes):
    try:
        parse_job(spec(**changes))
    except SpecError as error:
        return [str(fault).removeprefix("spec: ") for fault in error.faults]
    return []


def test_the_base_breaks_no_rule():
    assert broken_rules(parse_job(BASE)) == []


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"data": {"image_size": 33}}, "data.image_size: 33 is no multiple of the patch of 4; write 32, or another"),
        ({**RELVIT, "data": {"augment": {"mega": {"blocks": 8}}}}, "data.augment.mega.blocks: 8 blocks a row; they"),
        ({"data": {"augment": {"mega": {"blocks": 4}}}}, "data.augment.mega.blocks: 4 blocks a row; its encoder"),
        ({**RELVIT, "auxiliary": {}}, "auxiliary: relations of patches cannot be learned beside relvit"),
        ({"auxiliary": {"relations": False, "positions": False}}, "auxiliary: no task is on"),
        ({"batch": {"size": 60}}, "batch.size: 60 is no multiple of the group of 8; write 64, or another data.group"),
        ({"batch": {"size": 4}}, "batch.size: 4 is no multiple of the group of 8; write 8, or another data.group"),
        ({"data": {"lanes": 3}}, "data.lanes: 3 lanes of groups of 8 do not divide the batch of 64; write 2, or auto"),
        ({"data": {"lanes": 16}}, "data.lanes: 16 lanes of groups of 8 do not divide the batch of 64; write 8"),
        ({"data": {"lanes": 1, "corpora": [{"url": "a"}, {"url": "b"}]}}, "data.lanes: 1 lane for 2 corpora"),
        ({"batch": {"size": 8}, "data": {"corpora": [{"url": "a"}, {"url": "b"}]}}, "batch.size: 1 group a step"),
        ({"data": {"window": 100}}, "data.window: 100 is no multiple of the group of 8; write 96, or auto"),
        ({"data": {"lanes": 2}, "resources": {"nodes": "3..4"}}, "resources.nodes: 3 nodes have 3 ranks or more"),
        ({"resources": {"nodes": 9}}, "resources.nodes: 9 nodes have 9 ranks or more (groups a step: 8)"),
        ({"batch": {"micro": 12}}, "batch.micro: 12 is no multiple of the group of 8; write 16, or auto"),
        ({"batch": {"micro": 1}}, "batch.micro: 1 is no multiple of the group of 8; write 8, or auto"),
        ({"data": {"group": 1}}, "data.group: 1 is too few; GMML takes pixels from another image of the group"),
        ({"method": {"align": 9}}, "method.align: a mask grid of steps of 9 pixels does not fit images of 32"),
        ({"method": {"align": 5}}, "method.align: a mask grid of steps of 5 pixels does not fit images of 32"),
        ({"method": {"taps": (0, 4)}}, "method.taps: [0, 4] does not fit; blocks ascend from 1 and end with the last"),
        ({"method": {"taps": (2, 5)}}, "method.taps: [2, 5] does not fit"),
        ({"method": {"taps": (4, 2)}}, "method.taps: [4, 2] does not fit"),
        ({"method": {"taps": (1, 2)}}, "method.taps: [1, 2] does not fit"),
        ({"method": {"name": "mae", "mask_ratio": 0.99}}, "method.mask_ratio: a mask_ratio of 0.99 keeps 0 of 64"),
        ({"method": {"name": "mae", "mask_ratio": 0.9999999}}, "method.mask_ratio: a mask_ratio of 0.9999999 keeps 0"),
        ({**MAE, "data": {"image_size": 4}}, "data.image_size: a mask_ratio of 0.75 keeps 0 of 1 patches"),
        ({**LABELS, "evaluate": {"every": "1 steps"}}, "evaluate.corpus: null; supervised trains on the classes"),
        ({**HEAD, "evaluate": {"every": "1 steps"}}, "evaluate: linear trains a head on an encoder that stays as it"),
        ({"evaluate": {"every": "0 epochs"}}, "evaluate.every: '0 epochs' never passes; write a length above 0"),
        ({"evaluate": {"every": "5 min"}}, "evaluate.every: '5 min' is no length; write"),
        ({"evaluate": {"every": "5 steps", "scores": ["svm"]}}, "evaluate.scores.0: 'svm'"),
        ({**MAE, "model": {"drop_path": 0.1}}, "model.drop_path: 0.1 does not fit; MAE drops no blocks"),
    ],
)  # fmt: skip
def test_a_broken_rule_is_reported_with_its_numbers_and_a_cure(changes, fault):
    found = faults_of(**changes)
    assert len(found) == 1
    assert found[0].startswith(fault)


def test_a_grid_as_coarse_as_the_longest_rectangle_is_refused_at_32_px():
    assert len(faults_of(model={"patch_size": 16}, method={"align": "patch"})) == 1
    assert faults_of(model={"patch_size": 4}, method={"align": "patch"}) == []
    assert len(faults_of(method={"align": 8, "max_side": 0.25})) == 1


def test_rectangles_that_cannot_hide_enough_are_refused_with_a_side_that_can():
    (fault,) = faults_of(method={"max_side": 0.1})
    assert fault.startswith("method.max_side: 192 rectangles of sides below 3 pixels, in steps of 1, cannot hide 75%")
    side = float(re.search(r"max_side of ([\d.]+) or more", fault)[1])
    assert faults_of(method={"max_side": side}) == []
    assert len(faults_of(method={"max_side": side - 0.02})) == 1
    assert faults_of(method={"max_side": 0.1, "noise_ratio": 0.0, "alien_ratio": 0.02}) == []


def test_a_lonely_image_may_be_its_own_donor_or_have_none():
    assert faults_of(data={"group": 1}, method={"self_donor": True}) == []
    assert faults_of(data={"group": 1}, method={"alien_ratio": 0.0}) == []
    assert faults_of(data={"group": 1}, **MAE) == []


def test_all_broken_rules_are_reported_together():
    found = faults_of(data={"image_size": 33, "group": 7, "window": 10}, batch={"micro": 3})
    assert [fault.split(":")[0] for fault in found] == ["data.image_size", "batch.size", "data.window", "batch.micro"]


def test_a_group_of_auto_is_what_the_method_advises():
    assert group_of(parse_job(BASE)) == 8
    assert group_of(parse_job(spec(data={"group": 4}))) == 4


@pytest.mark.parametrize("name", ["finetune", "linear", "attentive"])
def test_a_method_that_begins_from_another_run_needs_an_init(name):
    method = {"name": name, "classes": 10, **({"queries": 8} if name == "attentive" else {})}
    with pytest.raises(SpecError, match=f"init: null; {name} begins from a trained encoder; write init"):
        parse_job({**BASE, "batch": {"size": 512}, "method": method})
    assert parse_job({**BASE, "batch": {"size": 512}, "method": method, "init": {"run": "other"}}).init is not None


def test_a_mask_of_conmim_that_leaves_no_cell_is_refused():
    options = ConmimOptions(name="conmim", mask_ratio=0.99)
    model = Model(width=32, depth=2, heads=2, patch_size=4, drop_path=0)
    (found,) = options.broken_rules(model, 32, 16)
    assert "masks all cells of 2 patches on a grid of 8" in found.problem
    assert not list(ConmimOptions(name="conmim").broken_rules(model, 32, 16))


def test_lars_has_neither_decay_nor_clip():
    found = faults_of(optim={"name": "lars"})
    assert [fault.split(":")[0] for fault in found] == ["optim.weight_decay", "optim.clip"]
    assert "0.04 to 0.4; optim.name: lars decays nothing; write {start: 0, end: 0}" in found[0]
    assert faults_of(optim={"name": "lars", "weight_decay": {"start": 0, "end": 0}, "clip": None}) == []
