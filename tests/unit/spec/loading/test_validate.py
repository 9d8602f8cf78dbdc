"""What a user reads about a bad job file, and what a good one becomes."""

import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gmml_cluster.errors import SpecError
from gmml_cluster.spec.cluster import ClusterProfile
from gmml_cluster.spec.loading.validate import dump, load_job, load_profile, parse_job, to_yaml
from gmml_cluster.spec.loading.yaml import shortened

GOOD = """\
name: demo
model: {width: 64, depth: 4, heads: 2, patch_size: 4}
method: {name: gmml}
data:
  corpora:
    - {url: "train-*.tar"}
  image_size: 16
batch: {size: 64}
run: {steps: 10}
"""


@pytest.fixture
def good(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(GOOD)
    return path


def faults(path, *overrides):
    with pytest.raises(SpecError) as caught:
        load_job(path, overrides)
    assert caught.value.exit_code == 2
    return [str(fault).replace(f"{path.parent}/", "") for fault in caught.value.faults]


def test_a_job_is_loaded_with_its_defaults(good):
    job = load_job(good)
    assert (job.model.width, job.engine.zero, job.optim.lr, job.data.group) == (64, 1, 5e-4, "auto")
    assert job.data.augment.jitter is not None
    assert job.data.augment.jitter.probability == 0.3


@pytest.mark.parametrize(
    ("given", "settled"),
    [({}, {"gmml": 0.1, "mae": 0}), ({"drop_path": None}, {"gmml": 0.1, "mae": 0}), ({"drop_path": 0.0}, {"gmml": 0})],
)
def test_stochastic_depth_is_the_methods_unless_the_job_says_so(given, settled):
    for method, rate in settled.items():
        model = {"width": 64, "depth": 4, "heads": 2, "patch_size": 4, **given}
        spec = {"name": "x", "model": model, "method": {"name": method}, "batch": {"size": 8}, "run": {"steps": 1}}
        assert dump(parse_job({**spec, "data": {"corpora": [{"url": "x"}]}}))["model"]["drop_path"] == rate


def test_overrides_reach_every_section(good):
    job = load_job(good, ["batch.size=128", "optim.lr=1e-4", "checkpoint.every=90 min", "resources.nodes=2..4",
                          "data.corpora.0.weight=2", "optim.clip=null", "data.augment=none",
                          "retries={outages: 50, longest_pause: 30 min}"])  # fmt: skip
    assert (job.batch.size, job.optim.lr, job.checkpoint.every.seconds) == (128, 1e-4, 5400)
    assert (job.resources.nodes.least, job.resources.nodes.most) == (2, 4)
    assert (job.retries.failures, job.retries.outages, job.retries.longest_pause) == (3, 50, 1800)
    assert (job.data.corpora[0].weight, job.optim.clip, job.data.augment.flip) == (2.0, None, False)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("batch.sise=1", "batch.sise: unknown key; did you mean 'size'?"),
        (
            "engine={compile: true, zero: 3}",
            "engine: compile given with zero: 3, which gathers weights in the middle of a block; take zero: 2",
        ),
        ("bacth.size=1", "bacth: unknown key; did you mean 'batch'?"),
        ("method.nois_ratio=1", "method.nois_ratio: unknown key; did you mean 'noise_ratio'?"),
        ("method.decoder_depht=1", "method.decoder_depht: unknown key; known are "),
        ("data.corpora.0.ulr=x", "data.corpora.0.ulr: unknown key; did you mean 'url'?"),
        ("data.augment={crop: {scael: [0, 1]}}", "data.augment.crop.scael: unknown key; did you mean 'scale'?"),
        ("batch.size=many", "batch.size: 'many' does not fit; write a whole number"),
        ("batch.size='64'", "batch.size: '64' does not fit; write a whole number"),
        ("batch.size=6.5", "batch.size: 6.5 does not fit; write a whole number"),
        ("batch.size=true", "batch.size: true does not fit; write a whole number"),
        ("batch.size=0", "batch.size: 0 does not fit; write a number above 0"),
        ("seed=true", "seed: true does not fit; write a whole number"),
        ("seed=4294967296", "seed: 4294967296 does not fit; write a number below 4,294,967,296"),
        ("batch.micro=some", "batch.micro: 'some' does not fit; write a whole number, or 'auto'"),
        ("optim.lr=fast", "optim.lr: 'fast' does not fit; write a number"),
        ("optim.lr=.nan", "optim.lr: nan does not fit; write a finite number"),
        ("optim.betas=[0.9]", "optim.betas: [0.9] is too short; write 2 values"),
        ("optim.betas=[]", "optim.betas: [] is too short; write 2 values"),
        ("optim.betas=[0, 0, 0]", "optim.betas: [0, 0, 0] does not fit; write a list of at most 2"),
        ("optim.betas=[0.9, 1.0]", "optim.betas.1: 1.0 does not fit; write a number below 1"),
        ("data.normalise={mean: [0, 0, 0], std: [1, 0, 1]}", "data.normalise.std.1: 0 does not fit"),
        ("data.augment={crop: {scale: [0.5, 1.5]}}", "data.augment.crop.scale.1: 1.5 does not fit"),
        ("data.augment={crop: {scale: [0.5, 0.2]}}", "data.augment.crop.scale: [0.5, 0.2] runs backwards"),
        ("data.augment={crop: {ratio: [0, 1]}}", "data.augment.crop.ratio.0: 0 does not fit; write a number above 0"),
        ("data.augment={blur: {radius: [2, 1]}}", "data.augment.blur.radius: [2.0, 1.0] runs backwards"),
        ("data.corpora.0.url=''", "data.corpora.0.url: '' does not fit; write a string that is not empty"),
        ("data.corpora.0.url=t-{5..1}.tar", "data.corpora.0.url: {5..1} is no range; it counts upwards"),
        ("run={epochs: 1e308}", "run.epochs: 1e+308 does not fit; write a number of at most 1,000,000"),
        (f"run.steps={10**30}", f"run.steps: {10**30} does not fit; write a number of at most 1,000,000,000"),
        (f"batch.size={10**25}", f"batch.size: {10**25} does not fit; write a number of at most 10,000,000"),
        (f"optim.schedule.warmup={10**30} steps", f"optim.schedule.warmup.steps: {10**30} does not fit"),
        (f"checkpoint.every={'9' * 400} h", "checkpoint.every: '99999999999999999999' is too large"),
        (f"resources.nodes={10**9}", f"resources.nodes: '{10**9}' is no range of nodes; write a number from 1"),
        ("engine.deterministic=yes", "engine.deterministic: 'yes' does not fit; write true or false"),
        ("engine.zero=4", "engine.zero: 4 does not fit; write 0, 1, 2, 3, 'ddp' or 'auto'"),
        ("method.name=mea", "method.name: 'mea' does not fit; write 'gmml', 'mae', "),
        ("method={views: 1}", "method.name: missing; write 'name: gmml' under 'method'"),
        ("method=gmml", "method: 'gmml' does not fit; write {name: gmml}"),
        ("method.taps=[]", "method.taps: [] does not fit; write a list of at least 1"),
        ("data.augment=gmnl", "data.augment: 'gmnl' is no preset; write none, gmml, mae"),
        ("data.corpora=[]", "data.corpora: [] does not fit; write a list of at least 1"),
        ("data.corpora=x.tar", "data.corpora: 'x.tar' does not fit; write [{url: x.tar}]"),
        ("data.corpora.0.weight=0", "data.corpora.0.weight: 0 does not fit; write a number above 0"),
        ("name=Bad Name", "name: 'Bad Name' does not fit; a run's name has 1 to 63 of a-z"),
        ("name=../up", "name: '../up' does not fit; a run's name has"),
        ("checkpoint.every=30", "checkpoint.every: '30' is no interval; write auto, '500 steps', or a duration"),
        ("checkpoint.every=0 steps", "checkpoint.every: '0 steps' never passes"),
        ("optim.schedule.warmup=10", "optim.schedule.warmup: '10' is no length; write '10 epochs'"),
        ("resources.nodes=4..2", "resources.nodes: '4..2' is no range of nodes"),
        ("model.heads=3", "model.heads: 3 heads do not divide the width of 64; choose a divisor"),
    ],
)  # fmt: skip
def test_a_bad_value_is_reported_by_its_override_field_value_and_cure(good, override, message):
    found = faults(good, override)
    assert len(found) == 1
    assert found[0].startswith(f"override {shortened(override)}: {message}")


@pytest.mark.parametrize(("override", "given"), [("run.epochs=1", "epochs and steps"), ("run.steps=null", "nothing")])
def test_a_run_has_exactly_one_length(good, override, given):
    rule = "give exactly one of epochs, steps, samples, and null for others"
    assert faults(good, override) == [f"job.yaml:9: run: {given} given; {rule}"]
    assert load_job(good, ["run.steps=null", "run.epochs=1.5"]).run.epochs == 1.5


def test_gmml_that_hides_nothing_is_refused(good):
    found = faults(good, "method.alien_ratio=0", "method.noise_ratio=0")
    assert found == ["override method.alien_ratio=0: method.alien_ratio: 0, and noise_ratio is 0 too; nothing would be "
                     "hidden; raise one of them"]  # fmt: skip


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("optim.weight_decay=0.05", "write {start: 0.05, end: 0.05}"),
        ("optim.clip=1.0", "write {norm: 1.0}"),
        ("model=tiny", "write {size: tiny}"),
        ("model=resnet50", "write a mapping such as {size: small}"),
        ("method=simclr", "write a mapping such as {name: gmml}"),
        ("resources.nodes=[1, 4]", "write 1..4"),
        ("resources.nodes=1-4", "write 1..4"),
        ("resources.nodes=true", "write a number from 1 to 100,000, or a range such as 2..16"),
        ("batch=256", "write {size: 256}"),
        ("run=100 epochs", "write {epochs: 100}"),
        ("run=100", "write {epochs: 100}"),
        ("data.corpora=[a.tar]", "write {url: a.tar}"),
        ("data.augment.crop=0.2", "write a mapping"),
        ("data.augment.jitter=true", "write a mapping such as {probability: 0.3, brightness: 0.1"),
        ("data.augment=5", "write none, gmml, mae"),
        ("checkpoint.every=1.5", "write auto, '500 steps', or a duration such as '30 min'"),
        ("model={drop_path: 0}", "write size: small, or width, depth, heads, patch_size"),
        ("resources=4", "write {nodes: 4}"),
        ("resources=zzz", "write a mapping such as {nodes: 1..4}"),
        ("resources.nodes={least: 2}", "most: missing; write 'most: 4' under 'resources.nodes'"),
        ("data.normalise.mean=0.5", "write a list such as [0.5, 0.5, 0.5]"),
        ("data.normalise={std: [1, 1, 1]}", "write 'mean: [0.5, 0.5, 0.5]' under 'data.normalise'"),
        ("optim.betas=0.9", "write a list such as [0.9, 0.999]"),
        ("method.taps=4", "write a list such as [6, 8, 10, 12]"),
        ("data.read_ahead=zzz", "'zzz' does not fit; write 'auto', or write a number and one of B, KiB"),
        ("data={}", "corpora: missing; write 'corpora: [{url: \"train-*.tar\"}]' under 'data'"),
    ],
)
def test_a_hint_shows_what_to_write(good, override, hint):
    assert hint in faults(good, override)[0]


@pytest.mark.parametrize(
    "value", ["{}", "[]", "[[]]", "[{}]", "{a: 1}", "zzz", "-1", "null", '"\\ud800"', "{name: []}"]
)
def test_no_value_of_any_field_ends_the_reader_or_shows_how_it_is_made(good, value):
    job = dump(load_job(good))
    within = [f"{name}.{field}" for name, section in job.items() if isinstance(section, dict) for field in section]
    for field in [*job, *within]:
        made = re.search(
            r"Value error|Input should|write '\w+: \.\.\.'|write a list$", _told(good, f"{field}={value}"), re.M
        )
        assert not made, (field, made)


def _told(good, override):
    try:
        load_job(good, [override])
    except SpecError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("refused", ["steps: " + "9" * 5000, "steps: !!python/name:os.system 5"])
def test_what_is_refused_is_one_fault_and_no_broken_rule_beside(good, refused):
    good.write_text(good.read_text().replace("steps: 10", refused))
    assert len(faults(good)) == 1


def test_options_of_the_method_that_an_override_replaces_by_name_alone_show_the_whole_override(good):
    found = faults(good, "method={name: gmml, views: 1}", "method.name=mae")
    assert found == [
        "override method={name: gmml, views: 1}: method.views: an option of gmml and not of mae; "
        "override method={name: mae}, which replaces the method with its options"
    ]
    assert load_job(good, ["method={name: gmml, views: 1}", "method={name: mae}"]).method.name == "mae"


def test_an_option_that_other_methods_take_says_which(good):
    (found,) = faults(good, "method={name: relvit, amt: true}")
    assert "method.amt: an option of gmml, mae, simmim, conmim alone; known are add_class_token, " in found


def test_a_key_of_another_section_is_sent_there_and_hides_no_other_fault(good):
    found = faults(good, "optim.depth=3", "whot=1", "batch.size=63")
    assert found == [
        "override optim.depth=3: optim.depth: unknown key; 'depth' is a field of model; move it there",
        "override whot=1: whot: unknown key; known are auxiliary, batch, checkpoint, data, engine, evaluate, init, "
        "method, metrics, model, name, notify, optim, resources, retries, run, seed",
        "override batch.size=63: batch.size: 63 is no multiple of the group of 8; write 64, or another data.group",
    ]


def test_faults_come_in_the_order_of_lines(good):
    good.write_text("run: {stesp: 1}\nbatch: {size: 7}\n" + GOOD.partition("batch")[0] + "foo: 1\nname: again\n")
    assert [fault.split(": ")[0] for fault in faults(good, "engine.zero=7")] == [
        *(f"job.yaml:{line}" for line in (1, 2, 10, 11)),
        "override engine.zero=7",
    ]


@pytest.mark.parametrize("fault", ["{a: ", "foo: [1", "batch: {size: 1}\n- x"])
def test_a_broken_base_is_one_fault(good, fault):
    (good.parent / "base.yaml").write_text(fault)
    good.write_text("extends: base.yaml\nname: x\n")
    (found,) = faults(good)
    assert found.startswith("base.yaml:")


def test_what_extends_may_name(good):
    for named in ("null", "[a]", "'a\\0b'", '"a\\0b"', "x" * 300, f"{'y/' * 3000}z", "."):
        good.write_text(GOOD + f"extends: {named}\n")
        (found,) = faults(good)
        assert found.startswith("job.yaml:10: extends: ")
        assert len(found) < 250
    good.write_text(GOOD)
    assert faults(good, "extends=other.yaml") == [
        "override extends=other.yaml: files alone extend files; write `extends` into the job file"
    ]


def test_a_chain_of_thousands_of_files_ends(good):
    for number in range(100):
        (good.parent / f"{number}.yaml").write_text(f"extends: {number + 1}.yaml\n")
    (found,) = faults(good.parent / "0.yaml")
    assert found == "31.yaml:1: extends: more than 32 files extend each other; merge some of them"


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("data.corpora.0.url", "$HOME/x.tar", "$HOME in '$HOME/x.tar' would be taken literally"),
        ("data.corpora.0.url", "${HOME}/x.tar", "${HOME} in '${HOME}/x.tar' would be taken literally"),
        ("data.corpora.0.url", "gs://b/x.tar", "names a store 'gs', which this version does not have"),
        ("data.corpora.0.url", "S3://b/x.tar", "names a store 'S3', which this version does not have"),
        ("init", "{run: $SCRATCH/other}", "$SCRATCH in '$SCRATCH/other' would be taken literally"),
    ],
)
def test_variables_and_unknown_stores_are_refused(good, field, value, message):
    (found,) = faults(good, f"{field}={value}")
    assert message in found


def test_variables_and_unknown_stores_of_a_profile_are_refused(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("launcher: slurm\nroot: hf://runs\nslurm: {folder: $HOME/jobs}\n")
    with pytest.raises(SpecError) as caught:
        load_profile(path)
    assert [fault.where.rpartition(": ")[2] for fault in caught.value.faults] == ["root", "slurm.folder"]


def test_a_profile_of_a_very_long_name_is_unknown():
    with pytest.raises(SpecError, match="is no profile"):
        load_profile("x" * 300)


def test_faults_of_a_file_name_its_lines(good):
    good.write_text(GOOD.replace("  image_size: 16", "  image_sise: 16").replace("{steps: 10}", "{stesp: 10}"))
    assert faults(good) == [
        "job.yaml:7: data.image_sise: unknown key; did you mean 'image_size'?",
        "job.yaml:9: run.stesp: unknown key; did you mean 'steps'?",
    ]


def test_a_fault_names_the_file_that_the_value_really_came_from(good):
    child = good.parent / "child.yaml"
    child.write_text("extends: job.yaml\nbatch: {micro: 3}\n")
    good.write_text(GOOD.replace("heads: 2", "heads: 3"))
    assert [fault.split(" ")[0] for fault in faults(child)] == ["job.yaml:2:", "child.yaml:2:"]


def test_missing_sections_are_named(good):
    good.write_text("name: x\nbatch: {}\n")
    assert faults(good) == [
        "job.yaml:1: model: missing; write 'model: {size: small}'",
        "job.yaml:1: method: missing; write 'method: {name: gmml}'",
        "job.yaml:1: data: missing; write 'data: {corpora: [{url: \"train-*.tar\"}]}'",
        "job.yaml:1: run: missing; write 'run: {epochs: 100}'",
        "job.yaml:2: batch.size: missing; write 'size: 256' under 'batch'",
    ]


def test_faults_of_every_kind_are_reported_at_once(good):
    good.write_text(GOOD + "name: again\nfoo: 1\nseed: !!set {}\n")
    found = faults(good, "batch.micro=12", "nonsense", "method.taps=[9]", "engine.zero=7")
    kinds = ["written twice", "remove the tag", "is no override", "foo: unknown key", "engine.zero", "batch.micro",
             "method.taps"]  # fmt: skip
    assert len(found) == len(kinds)
    assert all(sum(kind in fault for fault in found) == 1 for kind in kinds)


def test_a_base_that_cannot_be_read_hides_no_fault_and_makes_none_up(good):
    good.write_text("extends: nowhere.yaml\nname: x\ndata: {image_size: 33}\nbatch: {sise: 64}\n")
    found = faults(good, "engine.zero=7")
    assert [fault.split(";")[0] for fault in found] == [
        "job.yaml:1: extends: no file 'nowhere.yaml'",
        "job.yaml:4: batch.sise: unknown key",
        "override engine.zero=7: engine.zero: 7 does not fit",
    ]


def test_a_rule_is_not_tried_on_a_field_that_is_itself_at_fault(good):
    found = faults(good, "data.group=none", "batch.micro=3", "model.patch_size=5")
    assert [fault.split(": ")[1] for fault in found] == ["data.image_size", "data.group"]
    assert len(faults(good, "data.image_sise=17")) == 1


def test_bare_numbers_are_no_durations(tmp_path):
    path = tmp_path / "c.yaml"
    path.write_text("launcher: slurm\nroot: /r\nslurm: {time: 24, notice: 1.5, memory_per_node: 64}\n")
    with pytest.raises(SpecError) as caught:
        load_profile(path)
    message = [str(fault).split(": ")[1:] for fault in caught.value.faults]
    assert {field: what.split(" lacks a unit;")[0] for field, what in message} == {
        "slurm.time": "24", "slurm.notice": "1.5", "slurm.memory_per_node": "64"}  # fmt: skip


def test_a_profile_is_found_by_name_here_first_then_in_the_package(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert load_profile("local").root == "runs"
    (tmp_path / "clusters").mkdir()
    (tmp_path / "clusters" / "local.yaml").write_text("launcher: local\nroot: elsewhere\n")
    assert load_profile("local").root == "elsewhere"
    assert load_profile(str(tmp_path / "clusters" / "local.yaml")).root == "elsewhere"


def test_an_unknown_profile_lists_the_known(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SpecError, match=r"--cluster: 'nowhere' is no profile; known are .*local.*slurm"):
        load_profile("nowhere")


def test_yaml_and_mapping_read_back_as_the_same_job(good):
    job = load_job(good, ["method={name: mae, mask_ratio: 0.5}", "checkpoint.every=7 steps", "resources.nodes=2..3"])
    assert parse_job(json.loads(json.dumps(dump(job)))) == job
    again = good.parent / "again.yaml"
    again.write_text(to_yaml(job))
    assert load_job(again) == job


def test_a_profile_reads_back_as_the_same(tmp_path):
    given = ClusterProfile.model_validate(
        {"launcher": "slurm", "root": "no", "environment": {"A": "1", "B": "1e-4", "C": "yes", "D": ""},
         "slurm": {"time": "1.5 h", "memory_per_node": "3 GiB", "sbatch_args": {"nice": "0o7", "exclusive": True}}}
    )  # fmt: skip
    path = tmp_path / "c.yaml"
    path.write_text(to_yaml(given))
    assert load_profile(path) == given


def test_parse_job_reports_faults_as_fields():
    with pytest.raises(SpecError, match="spec: name: missing"):
        parse_job({"batch": {"size": 1}})


RUNS = st.one_of(
    st.fixed_dictionaries({"steps": st.integers(1, 10**9)}),
    st.fixed_dictionaries({"samples": st.integers(1, 10**12)}),
    st.fixed_dictionaries({"epochs": st.floats(1e-3, 1e6)}),
)
LENGTHS = st.one_of(
    st.floats(0, 1e6).map(lambda x: f"{x:.6f} epochs"), st.integers(0, 10**9).map("{} steps".format),
    st.integers(0, 10**12).map("{} samples".format),
)  # fmt: skip
INTERVALS = st.one_of(
    st.just("auto"),
    st.integers(1, 10**6).map("{} steps".format),
    st.builds("{:.3f} {}".format, st.floats(0.01, 1e5), st.sampled_from(["s", "min", "h", "d"])),
)
METHODS = st.one_of(
    st.fixed_dictionaries({"name": st.just("gmml")}, optional={"preset": st.sampled_from(["paper", "released"]),
        "views": st.sampled_from([1, 2]), "noise_ratio": st.floats(0.1, 0.8), "self_donor": st.booleans()}),
    st.fixed_dictionaries({"name": st.just("mae")}, optional={"mask_ratio": st.floats(0.1, 0.9)}),
)  # fmt: skip
SPECS = st.fixed_dictionaries(
    {
        "name": st.from_regex(r"[a-z0-9][a-z0-9._-]{0,20}", fullmatch=True),
        "model": st.just({"size": "tiny", "patch_size": 4}),
        "method": METHODS,
        "data": st.fixed_dictionaries(
            {"corpora": st.just([{"url": "x"}]), "image_size": st.sampled_from([32, 64])},
            optional={"augment": st.sampled_from(["none", "gmml", "mae", {"flip": True, "crop": {"scale": [0.1, 1]}}])},
        ),
        "batch": st.just({"size": 64}),
        "run": RUNS,
    },
    optional={
        "seed": st.integers(0, 2**32 - 1),
        "optim": st.fixed_dictionaries({"lr": st.floats(1e-9, 10), "schedule": LENGTHS.map(lambda x: {"warmup": x})}),
        "checkpoint": INTERVALS.map(lambda x: {"every": x}),
    },
)


@settings(max_examples=60)
@given(SPECS)
def test_every_job_survives_being_written_and_read(spec):
    job = parse_job(spec)
    assert parse_job(json.loads(json.dumps(dump(job)))) == job


@settings(max_examples=25)
@given(SPECS)
def test_every_job_survives_yaml(tmp_path_factory, spec):
    job = parse_job(spec)
    path = tmp_path_factory.mktemp("specs") / "job.yaml"
    path.write_text(to_yaml(job))
    assert load_job(path) == job


def test_the_least_job_of_the_documentation_is_one(tmp_path):
    page = (Path(__file__).parents[4] / "docs" / "job.md").read_text()
    path = tmp_path / "job.yaml"
    path.write_text(page.split("```yaml\n")[1].split("```")[0])
    job = load_job(path)
    for field in ("name", "model", "method", "data", "batch", "run"):
        lines = [line for line in path.read_text().splitlines() if not line.startswith(f"{field}:")]
        shorter = tmp_path / "shorter.yaml"
        shorter.write_text("\n".join(lines))
        assert len(faults(shorter)) == 1
    assert job.name == "my-run"
