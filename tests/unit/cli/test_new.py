"""First steps: a job file to begin with, and the jobs of the package by name."""

import re
import sys
from typing import get_args

import pytest

from gmml_cluster.cli import run_command, submit
from gmml_cluster.cli.main import group
from gmml_cluster.errors import SpecError
from gmml_cluster.spec.loading.validate import job_path, load_job
from gmml_cluster.spec.methods.registry import MethodOptions


def call(command, *arguments):
    sys.argv = ["gmml", *arguments]
    with pytest.raises(SystemExit) as caught:
        run_command.run(command)
    return caught.value.code


@pytest.fixture(autouse=True)
def _folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["gmml"])


def test_a_new_job_is_valid_and_commented(tmp_path, capsys):
    assert call(group, "new", "first") == 0
    job = load_job("first.yaml")
    assert (job.name, job.method.name, job.model.size) == ("first", "gmml", "small")
    text = (tmp_path / "first.yaml").read_text()
    assert sum(line.lstrip().startswith("#") for line in text.splitlines()) > 10
    assert "gmml-submit first.yaml --dry-run" in capsys.readouterr().out


def test_what_a_new_job_has_in_comments_is_valid_too(tmp_path):
    call(group, "new")
    text = (tmp_path / "my-run.yaml").read_text()
    (tmp_path / "more.yaml").write_text(text.replace("# engine", "engine").replace("# resources", "resources"))
    job = load_job("more.yaml")
    assert (job.engine.precision, job.resources.nodes.most) == ("bf16", 4)


METHODS = {get_args(options.model_fields["name"].annotation)[0] for options in get_args(get_args(MethodOptions)[0])}
BEGIN_FROM_A_RUN = {"finetune", "linear", "attentive", "segmentation"}
"""Methods that need the encoder of another run, which who writes a first job does not have."""


def test_a_new_job_names_the_methods_that_it_can_be_turned_to_by_one_word(tmp_path):
    call(group, "new", "first")
    said = (tmp_path / "first.yaml").read_text().partition("# What is learnt")[2].partition("\nmethod:")[0]
    assert METHODS & set(re.findall(r"\w+", said)) == METHODS - BEGIN_FROM_A_RUN
    for method in METHODS - BEGIN_FROM_A_RUN:
        more = ["method.classes=1000"] if method == "supervised" else []
        assert load_job("first.yaml", [f"method.name={method}", *more]).method.name == method


def test_a_new_job_overwrites_nothing_and_has_the_name_of_a_run(tmp_path, capsys):
    (tmp_path / "mine.yaml").write_text("precious")
    assert call(group, "new", "mine") == 2
    assert "mine.yaml: exists already; choose another name" in capsys.readouterr().err
    assert (tmp_path / "mine.yaml").read_text() == "precious"
    assert call(group, "new", "../up") == 2
    assert "a run's name has 1 to 63 of a-z" in capsys.readouterr().err


def test_a_job_of_the_package_is_found_by_its_name_and_said(capsys):
    assert call(submit.command, "quickstart", "--dry-run", "data.corpora.0.samples=6400") == 0
    out, err = capsys.readouterr()
    assert err.startswith("quickstart: the job of the package, ")
    assert err.strip().endswith("jobs/quickstart.yaml")
    assert out.startswith("quickstart on local")


def test_a_file_of_the_name_comes_first_and_an_unknown_name_lists_the_known(tmp_path):
    with pytest.raises(SpecError, match=r"quickstrt: neither a file nor a job of the package; .*quickstart"):
        job_path("quickstrt")
    (tmp_path / "quickstart").write_text("")
    assert str(job_path("quickstart")) == "quickstart"
    assert str(job_path("jobs/none.yaml")) == "jobs/none.yaml"
