"""What makes a run another run."""

import copy

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gmml_cluster.spec.identity import changeable, differences, identity
from gmml_cluster.spec.loading.validate import dump, parse_job
from gmml_cluster.spec.stored import apply

SPEC = dump(
    parse_job(
        {
            "name": "x",
            "model": {"size": "tiny"},
            "method": {"name": "gmml"},
            "data": {"corpora": [{"url": "a"}, {"url": "b"}]},
            "batch": {"size": 64},
            "run": {"epochs": 3.0},
        }
    )
)
IDENTIFYING = {
    "seed": 1, "model.drop_path": 0.2, "method.views": 1, "data.corpora.1.url": "c", "data.image_size": 112,
    "data.augment.jitter.hue": 0.0, "data.max_bad": 0.5, "batch.size": 128, "optim.lr": 1e-3,
    "optim.schedule.warmup": "5 steps", "run.epochs": 4.0, "engine.precision": "bf16", "optim.clip.by": "global",
}  # fmt: skip
FREE = {
    "batch.micro": 8, "data.read_ahead": "64 MiB", "engine.zero": 3, "engine.activation_checkpointing": True,
    "engine.compile": True,
    "engine.deterministic": True, "checkpoint.every": "5 steps", "checkpoint.keep": 1, "resources.nodes": "2..4",
}  # fmt: skip


def changed(spec, field, value):
    made = copy.deepcopy(spec)
    *path, last = field.split(".")
    section = made
    for part in path:
        section = section[int(part)] if isinstance(section, list) else section[part]
    assert section[last] != value
    section[last] = value
    return made


def scheduled(samples):
    return changed(SPEC, "optim.schedule.samples", samples)


@pytest.mark.parametrize("field", IDENTIFYING)
def test_what_decides_what_is_computed_is_the_identity(field):
    other = changed(SPEC, field, IDENTIFYING[field])
    assert identity(other) != identity(SPEC)
    assert list(differences(SPEC, other)) == [field]
    assert changeable(SPEC, other) == {}


@pytest.mark.parametrize("field", FREE)
def test_how_it_is_computed_may_change_between_attempts(field):
    other = changed(SPEC, field, FREE[field])
    old = SPEC[field.split(".")[0]][field.split(".")[1]]
    assert identity(other) == identity(SPEC)
    assert differences(SPEC, other) == {}
    assert changeable(SPEC, other) == {field: [old, FREE[field]]}


def test_the_name_is_neither():
    other = changed(SPEC, "name", "y")
    assert (identity(other), differences(SPEC, other), changeable(SPEC, other)) == (identity(SPEC), {}, {})


def test_the_identity_is_a_digest_that_never_moves():
    assert identity(SPEC) == identity(copy.deepcopy(SPEC)) == identity(dict(reversed(SPEC.items())))
    assert len(identity(SPEC)) == 64
    assert set(identity(SPEC)) <= set("0123456789abcdef")


def test_a_run_may_grow_where_the_schedule_has_its_own_length_and_never_shrink():
    old = scheduled(10_000)
    longer, shorter = changed(old, "run.epochs", 4.0), changed(old, "run.epochs", 2.0)
    assert identity(longer) == identity(old)
    assert differences(old, longer) == {}
    assert changeable(old, longer) == {"run.epochs": [3.0, 4.0]}
    assert differences(old, shorter) == {"run.epochs": [3.0, 2.0]}


def test_another_unit_of_the_runs_length_cannot_be_called_growth():
    old = scheduled(10_000)
    other = changed(changed(old, "run.epochs", None), "run.steps", 10**9)
    assert list(differences(old, other)) == ["run.epochs", "run.steps"]


def test_untying_the_schedule_from_the_run_makes_another_run():
    assert "optim.schedule.samples" in differences(SPEC, scheduled(10_000))
    assert "optim.schedule.samples" in differences(scheduled(10_000), SPEC)


def test_an_init_makes_another_run_and_its_absence_leaves_the_identity_of_older_runs():
    forked = {**SPEC, "init": {"run": "/runs/a", "step": 7, "what": "weights"}}
    assert identity({**SPEC, "init": None}) == identity({name: SPEC[name] for name in SPEC if name != "init"})
    assert list(differences(SPEC, forked)) == ["init"]
    assert list(differences(forked, changed(forked, "init.step", 8))) == ["init.step"]


def test_fields_of_init_that_came_later_leave_the_identity_of_older_runs():
    old = {**SPEC, "init": {"run": "/runs/a", "step": 7, "what": "weights"}}
    read = {**SPEC, "init": {**old["init"], "url": None, "sha256": None}}
    assert identity(read) == identity(old)
    file = {**SPEC, "init": {"run": None, "url": "/w.pth", "sha256": "0", "step": None, "what": "weights"}}
    assert list(differences(file, changed(file, "init.sha256", "1"))) == ["init.sha256"]


def test_a_later_switch_of_the_encoder_leaves_the_identity_of_older_runs():
    def spec(**encoder):
        return {**SPEC, "method": {"name": "finetune", "encoder": encoder}}

    assert identity(spec(positions="relative", rotary=None)) == identity(spec(positions="relative"))
    found = differences(spec(positions="learned", rotary=None), spec(positions="learned", rotary={"registers": 4}))
    assert list(found) == ["method.encoder.rotary"]


def test_a_corpus_more_is_reported_as_one():
    other = copy.deepcopy(SPEC)
    other["data"]["corpora"].append({"url": "c", "weight": 1.0, "samples": None})
    assert list(differences(SPEC, other)) == ["data.corpora.2"]


def test_another_method_is_reported_by_its_name_alone():
    other = dump(parse_job({**SPEC, "method": {"name": "mae"}, "model": {"size": "tiny"}}))
    assert differences(SPEC, other) == {"model.drop_path": [0.1, 0.0], "method.name": ["gmml", "mae"]}


def test_a_section_that_was_taken_out_is_reported_as_one():
    assert list(differences(SPEC, changed(SPEC, "optim.clip", None))) == ["optim.clip"]


def test_how_many_samples_a_plan_was_given_is_no_part_of_the_identity():
    other = changed(SPEC, "data.corpora.1.samples", 100)
    assert (identity(other), differences(SPEC, other)) == (identity(SPEC), {})
    assert changeable(SPEC, other) == {"data.corpora.1.samples": [None, 100]}
    assert apply(SPEC, changeable(SPEC, other)) == other


def test_runs_from_before_a_corpus_named_its_image_field_keep_their_identity():
    old = copy.deepcopy(SPEC)
    for corpus in old["data"]["corpora"]:
        del corpus["image"], corpus["refuse_damaged"]
    assert (identity(old), differences(old, SPEC)) == (identity(SPEC), {})
    for field, value in (("image", "left.jpg"), ("refuse_damaged", True)):
        other = changed(SPEC, f"data.corpora.0.{field}", value)
        assert identity(other) != identity(SPEC)
        assert list(differences(old, other)) == [f"data.corpora.0.{field}"]


@given(st.lists(st.sampled_from([*IDENTIFYING.items(), *FREE.items()]), unique_by=lambda change: change[0]))
def test_identities_agree_exactly_where_nothing_differs(changes):
    other = SPEC
    for field, value in changes:
        other = changed(other, field, value)
    assert (identity(other) == identity(SPEC)) == (differences(SPEC, other) == {})
    assert set(differences(SPEC, other)) == {field for field, _ in changes if field in IDENTIFYING}
    assert set(changeable(SPEC, other)) == {field for field, _ in changes if field in FREE}


def test_scores_may_be_asked_for_changed_and_left_out_between_attempts():
    asked = changed(SPEC, "evaluate", dump(parse_job({**SPEC, "evaluate": {"every": "5 epochs"}}))["evaluate"])
    assert identity(asked) == identity(SPEC)
    assert differences(SPEC, asked) == {}
    assert apply(SPEC, changeable(SPEC, asked)) == asked
    rarer = changed(asked, "evaluate.every", "9 epochs")
    assert changeable(asked, rarer) == {"evaluate.every": ["5 epochs", "9 epochs"]}
    assert apply(asked, changeable(asked, SPEC)) == SPEC
