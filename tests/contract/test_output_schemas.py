"""The schemas of what `--json` prints: committed, complete, and the page of outputs is made of them.

After a change on purpose: `python -m gmml_cluster.cli.output_page docs`.
"""

import json
import re
from pathlib import Path

import click
import pytest
from jsonschema import Draft202012Validator

from gmml_cluster import errors
from gmml_cluster.cli.main import group
from gmml_cluster.cli.output_page import page
from gmml_cluster.cli.output_schemas import OUTPUTS, output_schema
from gmml_cluster.cli.run_command import EXIT_CODES
from gmml_cluster.cli.submit import command as submit
from tests.contract.test_docs import every_command

DOCS = Path(__file__).parents[2] / "docs"
FOLDER = DOCS / "schema" / "outputs"


def test_the_committed_schemas_are_those_of_the_types():
    committed = {path.name.partition(".")[0]: json.loads(path.read_text()) for path in FOLDER.iterdir()}
    assert committed == {name: output_schema(name) for name in OUTPUTS}, "see the top of this file"


def test_the_page_of_outputs_is_made_from_the_schemas():
    assert (DOCS / "outputs.md").read_text() == page(), "see the top of this file"


@pytest.mark.parametrize("name", OUTPUTS)
def test_every_schema_is_one_and_describes_every_field(name):
    schema = output_schema(name)
    Draft202012Validator.check_schema(schema)
    parts = [schema, *schema.get("$defs", {}).values()]
    fields = [(field, each) for part in parts for field, each in part.get("properties", {}).items()]
    assert [field for field, each in fields if not each.get("description")] == []
    assert all(part.get("description") for part in parts)


@pytest.mark.parametrize("name", OUTPUTS)
def test_every_document_has_its_version(name):
    schema = output_schema(name)
    assert "version" in schema["required"]
    assert isinstance(schema["properties"]["version"]["const"], int)


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_reader_of_today_takes_documents_with_fields_of_tomorrow(name):
    schema = output_schema(name)
    assert all(part.get("additionalProperties", True) for part in (schema, *schema.get("$defs", {}).values()))


def test_every_command_takes_json_and_has_a_schema():
    printed = {command for output in OUTPUTS.values() for command in output.commands}
    leaves = [each for each in every_command() if not isinstance(each, click.Group)]
    assert len(leaves) > 20
    for command in leaves:
        flags = {flag for parameter in command.get_params(click.Context(command)) for flag in parameter.opts}
        assert "--json" in flags, command.name
    corpus = group.get_command(click.Context(group), "corpus")
    names = {each.name: "gmml corpus" if each.name in corpus.commands else "gmml" for each in leaves}
    commands = ["gmml-submit" if name == submit.name else f"{before} {name}" for name, before in names.items()]
    without = [name for name in commands if not any(command.startswith(name) for command in printed)]
    assert without == ["gmml schema"], "it prints a schema"


def test_every_error_has_an_exit_code_of_the_table():
    raised = [each for each in vars(errors).values() if isinstance(each, type) and issubclass(each, errors.GmmlError)]
    assert {each.exit_code for each in raised} <= set(EXIT_CODES)
    section = page().split("\n## Exit codes")[1].split("\n## ")[0]
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", section, re.MULTILINE)] == list(EXIT_CODES)
