"""The page as a file: what it says, where each figure comes from, what it weighs, and that a run's text stays text."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from click.testing import CliRunner

from gmml_cluster.cli import report
from gmml_cluster.errors import SpecError
from gmml_cluster.report import tables
from gmml_cluster.report.bars import unit_for
from gmml_cluster.report.figures import figures_of
from gmml_cluster.report.page import buckets_for, page_of
from gmml_cluster.run.root import create_run
from tests.fixtures.reports import gathered, line, preempted_run, say_bad, scored

ATTACK = "</script><script>alert(1)</script><img src=x onerror=alert(2)> {{ 7*7 }}"
CORPUS = "<script>alert(1)</script>"  # braces are the loader's


class Elements(HTMLParser):
    """Tags with their attributes, and the text outside scripts."""

    def __init__(self, html):
        super().__init__()
        self.tags, self.text, self.inside = [], [], ""
        self.feed(html)

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        self.inside = tag

    def handle_data(self, data):
        if self.inside not in ("script", "style"):
            self.text.append(data)

    def of(self, tag):
        return [attributes for name, attributes in self.tags if name == tag]


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A page on two runs whose every text is hostile."""
    root = tmp_path_factory.mktemp("runs")
    one = preempted_run(root, "one", message=ATTACK)
    other = preempted_run(
        root, "other", optim={"lr": 7e-4}, data={"corpora": [{"url": f"/{CORPUS}"}], "image_size": 32}
    )
    scored(one, 60.0)
    scored(other, 50.0)
    say_bad(one, f"/photos/3.tar, member {ATTACK}.jpg", ATTACK)
    return Elements(page_of([gathered(one), gathered(other)], f"gmml report {ATTACK}").html)


def said(page):
    return " ".join(" ".join(page.text).split())


def test_the_verdict_stands_first(two):
    assert "Which of 2 runs is better? They differ in" in said(two)
    assert "By knn mean one is better than the other: 60.0 ± 1.0 % against 50.0 ± 1.0 % of other" in said(two)
    assert said(two).index("is better than the other") < said(two).index("Horizontal axis")


def test_what_a_run_contains_never_becomes_markup(two):
    assert len(two.of("script")) == 3
    assert not two.of("img")
    assert not [attributes for _, attributes in two.tags if any(name.startswith("on") for name in attributes)]
    assert said(two).count("alert(1)") >= 4
    assert "{{ 7*7 }}" in said(two)


def test_the_page_allows_its_own_scripts_and_no_request(two):
    (policy,) = [each["content"] for each in two.of("meta") if each.get("http-equiv") == "Content-Security-Policy"]
    assert "default-src 'none'" in policy
    assert "unsafe-eval" not in policy
    assert len(re.findall(r"'sha256-[\w+/=]+'", policy)) == 3
    links = [value for _, attributes in two.tags for name, value in attributes.items() if name in ("src", "href")]
    assert all(value.startswith(("#", "data:")) for value in links), links


def test_every_figure_has_words_a_table_and_its_sources(two):
    figures = [attributes for _, attributes in two.tags if "data-figure" in attributes]
    names = [each["data-figure"] for each in figures]
    assert names == ["loss", "grad_norm", "lr", "wd", "samples_per_s", "timeline", "goodput"]
    assert all(each["role"] == "img" and len(each["aria-label"]) > 40 for each in figures)
    assert said(two).count("Where this comes from") == len(names) + 4
    assert said(two).count("The same as a table") == len(names)
    for where in (
        "files attempts/0001/metrics-000000.jsonl, attempts/0002/metrics-000000.jsonl; gmml metrics one --json",
        "claim, begin, end, cause, exclude: log/00000003.json",
        "gmml status other --json, goodput.rank_s",
        "score: log/",
        "files spec.yaml; gmml diff one other --json",
        "files spec.yaml; gmml diff other one --json",
    ):
        assert where in said(two), where


def test_data_health_attempts_and_differing_fields_are_shown(two):
    text = said(two)
    for what in ("75.00%", "25.00%", "d" * 64, "turbo 3", "member", "node_lost", "2, from n1", "optim.lr", "0.0007"):
        assert what in text, what
    assert "log/00000000.json" in text


def test_a_spike_reaches_the_page_and_ten_long_runs_stay_below_three_megabytes(tmp_path):
    lines = [line(step, loss=12345.0 if step == 700 else 1.0) for step in range(2000)]
    run = gathered(preempted_run(tmp_path, "long", 2000, lines=lines), buckets_for(10))
    assert run.curves.bands["loss"].greatest.max() == 12345.0
    runs = [replace(run, name=f"run-{index}") for index in range(10)]
    page = page_of(runs, "gmml report")
    assert 1.2e6 < len(page.html.encode()) < 3e6
    assert "greatest 12,345 (step 700)" in page.html


def test_scores_of_several_steps_have_a_figure_with_words_a_table_and_its_sources(tmp_path):
    one, other = (preempted_run(tmp_path, name) for name in ("one", "other"))
    for step, accuracy in ((0, 30.0), (49, 55.0), (99, 60.0)):
        scored(one, accuracy, step=step, untrained=step == 0)
    scored(other, 50.0)
    found = Elements(page_of([gathered(one), gathered(other)], "gmml report one other").html)
    (figure,) = [each for _, each in found.tags if each.get("data-figure", "").startswith("score")]
    assert figure["aria-label"].startswith("knn mean over the steps in percent, scored on /held-out, learnt from /bank")
    assert "one from 30.0 ± 1.0 % to 60.0 ± 1.0 %; other from 50.0 ± 1.0 % to 50.0 ± 1.0 %." in figure["aria-label"]
    assert "one untrained 30.0 ± 1.0 % one 49 55.0 ± 1.0 % one 99 60.0 ± 1.0 % other 99 50.0 ± 1.0 %" in said(found)


def test_a_scores_points_lie_where_their_steps_lie_on_every_axis(tmp_path):
    run = preempted_run(tmp_path, "one")
    for step, accuracy in ((0, 30.0), (49, 55.0), (99, 60.0)):
        scored(run, accuracy, step=step, untrained=step == 0)
    data = gathered(run)
    source = figures_of([data])["score_0"].renderers[0].data_source.data
    assert source["last"].tolist() == [0, 49, 99]
    assert source["samples"].tolist() == [0, 64 * 50, 64 * 100]
    assert source["hours"].tolist() == [0, data.curves.hours[49], data.curves.hours[99]]
    assert source["score_0_least"].tolist() == [29, 54, 59]
    assert source["said"] == ["untrained", "49", "99"]


def test_a_run_that_has_made_no_step_has_a_page(tmp_path):
    page = page_of([gathered(create_run(str(tmp_path), "empty", {}, {}))], "gmml report empty")
    assert "No metric line has been uploaded yet." in page.html
    assert "its spec cannot be read here" in page.html
    assert "gmml log empty --json" in page.html


def test_the_command_writes_the_page_and_says_the_verdict(tmp_path):
    scored(preempted_run(tmp_path / "runs", "one"), 60.0)
    output = tmp_path / "page.html"
    arguments = ["one", "--root", str(tmp_path / "runs"), "-o", str(output), "--json"]
    done = CliRunner().invoke(report.command, arguments, standalone_mode=False, catch_exceptions=False)
    document = json.loads(done.output)
    assert document["answers"] == ["knn mean at step 99: 60.0 ± 1.0 %."]
    assert document["bytes"] == output.stat().st_size


def test_a_page_that_cannot_be_written_is_refused_by_name(tmp_path):
    preempted_run(tmp_path / "runs", "one", steps=10)
    arguments = ["one", "--root", str(tmp_path / "runs"), "-o", str(tmp_path / "missing" / "page.html")]
    with pytest.raises(SpecError, match=r"missing/page\.html: cannot be written \(No such file or directory\)"):
        CliRunner().invoke(report.command, arguments, standalone_mode=False, catch_exceptions=False)


def test_of_many_runs_each_has_a_row_and_what_all_share_stands_once(tmp_path):
    runs = [gathered(preempted_run(tmp_path, f"run{n}", steps=10, optim={"lr": n * 1e-4})) for n in range(1, 6)]
    differing = {"optim.lr": [run.spec["optim.lr"] for run in runs]}
    assert tables.of_fields(differing, runs).head == ("run", "optim.lr")
    assert tables.of_fields(differing, runs).rows[1] == ("run2", "0.0002")
    assert tables.of_fields(differing, runs[:4]).head == ("field", "run1", "run2", "run3", "run4")
    (shared,) = tables.of_digests(runs)
    assert ("images decoded by", "turbo 3") in shared.rows
    other = replace(runs[0], name="other", health=replace(runs[0].health, unchecked=7))
    _, apart = tables.of_digests([*runs, other])
    assert (apart.head, apart.rows[-1]) == (("run", "samples without a checksum"), ["other", "7"])


@pytest.mark.parametrize(
    ("seconds", "unit"), [(0, "seconds"), (119, "seconds"), (120, "minutes"), (7200, "hours"), (432_000, "days")]
)
def test_the_axis_of_time_has_a_unit_of_its_length(seconds, unit):
    assert unit_for(seconds)[0] == unit
