"""The documentation says what is there: links, commands, options, files, defaults; and what it shows is run."""

import re
import shlex
import tomllib
from dataclasses import replace
from typing import get_args

import click
import pytest
from pydantic_core import PydanticUndefined

from gmml_cluster.cli.main import group
from gmml_cluster.cli.submit import command as submit
from gmml_cluster.spec.loading.validate import load_job, load_profile
from gmml_cluster.spec.methods.capi import CapiOptions
from gmml_cluster.spec.methods.conmim import ConmimOptions
from gmml_cluster.spec.methods.gmml import GmmlOptions
from gmml_cluster.spec.methods.ijepa import IjepaOptions
from gmml_cluster.spec.methods.mae import MaeOptions
from gmml_cluster.spec.methods.relvit import RelVitOptions
from gmml_cluster.spec.methods.segmentation import SegmentationOptions
from gmml_cluster.spec.methods.simmim import SimmimOptions
from gmml_cluster.spec.methods.supervised import SupervisedOptions
from tests.fixtures.pages import FENCE, PAGES, ROOT, RUN, SHELL, SHOWN, Session, blocks, named, steps

PACKAGE = ROOT / "gmml_cluster"
BENCHMARKS = ROOT / "benchmarks" / "README.md"
"""Its options are those of its own programs."""
INLINE = re.compile(r"`([^`\n]+)`")
TEST = re.compile(r"`tests/(\S+\.py)::(test_\w+)`")
LINK = re.compile(r"\]\(([^)\s]+)\)")
FOREIGN = {
    "--array",
    "--dependency",
    "--exclude",
    "--export",
    "--kill-on-bad-exit",
    "--no-kill",
    "--no-requeue",
    "--open-mode",
    "--requeue",
    "--signal",
    "--test-only",
}
"""Options of other programs."""
SMALL = """\
name: small
model: {size: small}
method: {name: gmml}
data: {corpora: [{url: "train/*.tar"}]}
batch: {size: 256}
"""
ENDS = {"|", "||", "&&", ";", "&", ">", ">>", "<", "#"}


def fences(text, *languages):
    return [body for info, body in FENCE.findall(text) if info.partition(" ")[0] in languages]


def inline(text):
    return INLINE.findall(FENCE.sub("", text))


def without_fences(text):
    return FENCE.sub("", text)


def commands(text):
    """Words of each `gmml` and `gmml-submit` that a page shows, in fenced blocks and in its text."""
    lines = [line for body in fences(text, *SHELL) for line in body.replace("\\\n", " ").splitlines()]
    for line in [*lines, *inline(text)]:
        words = split(re.sub(r"[$<]\(", "; ", line).replace(")", " ; "))
        starts = [at for at, word in enumerate(words) if word in ("gmml", "gmml-submit")]
        for at in starts:
            if at == 0 or words[at - 1] in ENDS or words[at - 1] in ("$", "do"):
                rest = words[at:]
                yield rest[: next((end for end, word in enumerate(rest) if word in ENDS), len(rest))]


def split(line):
    lexer = shlex.shlex(line, posix=True, punctuation_chars=";&|<>")
    lexer.whitespace_split = True
    try:
        return list(lexer)
    except ValueError:
        return line.split()


def command_of(words):
    """The command that words call, and what is left of them."""
    found, rest = (submit, words[1:]) if words[0] == "gmml-submit" else (group, words[1:])
    while isinstance(found, click.Group) and rest and not rest[0].startswith("-"):
        child = found.get_command(click.Context(found), rest[0])
        assert child is not None, f"{' '.join(words)}: no command {rest[0]!r}"
        found, rest = child, rest[1:]
    return found, rest


def options_of(command):
    context = click.Context(command)
    return {name for parameter in command.get_params(context) for name in [*parameter.opts, *parameter.secondary_opts]}


def every_command():
    context = click.Context(group)
    yield submit
    for name in group.list_commands(context):
        found = group.get_command(context, name)
        assert found is not None
        yield found
        if isinstance(found, click.Group):
            yield from found.commands.values()


def files_shown(text):
    """Job files and profiles that a page spells out, by the path in their first line."""
    found = [re.match(r"# ((?:jobs|clusters)/\w+\.yaml)\n", body) for body in fences(text, "yaml")]
    return {match[1]: match.string for match in found if match}


def submitted_jobs(words):
    return [word for word in words if words[0] == "gmml-submit" and re.fullmatch(r"jobs/[a-z0-9_]+\.yaml", word)]


def sources_named(text):
    names = {name for name in inline(text) if re.fullmatch(r"[\w./-]*\w/[\w/.-]+\.(?:py|json|yaml|sh)", name)}
    return {name.partition(":")[0] for name in names}


def exists(name, *folders):
    return any((folder / name).exists() for folder in folders)


def test_the_checks_below_find_what_they_check():
    texts = [page.read_text() for page in PAGES]
    found = {
        "links": sum(len(LINK.findall(without_fences(text))) for text in texts),
        "commands": sum(len(list(commands(text))) for text in texts),
        "options": sum(one.startswith("--") for text in texts for one in inline(text)),
        "jobs": sum(len(submitted_jobs(words)) for text in texts for words in commands(text)),
        "files": sum(len(sources_named(text)) for text in texts),
        "files spelt out": sum(len(files_shown(text)) for text in texts),
        "tests": sum(len(TEST.findall(text)) for text in texts),
        "quick": sum(block.marker == "quick" for page in PAGES for block in blocks(page)),
        "slow": sum(block.marker == "slow" for page in PAGES for block in blocks(page)),
    }
    least = {
        "links": 40, "commands": 60, "options": 15, "jobs": 6, "files": 80, "files spelt out": 1, "quick": 3, "slow": 3,
        "tests": 12,
    }  # fmt: skip
    assert {name: count for name, count in found.items() if count < least[name]} == {}


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_links_lead_somewhere(page):
    links = [link.partition("#")[0] for link in LINK.findall(without_fences(page.read_text())) if "://" not in link]
    assert not [link for link in links if link and not (page.parent / link).exists()]


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_commands_and_options_are_in_the_cli(page):
    for words in commands(page.read_text()):
        command, rest = command_of(words)
        given = {word.strip("[]").partition("=")[0] for word in rest if word.lstrip("[").startswith("-")}
        assert given <= options_of(command), f"{' '.join(words)}: {sorted(given - options_of(command))}"


@pytest.mark.parametrize("page", [page for page in PAGES if page != BENCHMARKS], ids=named)
def test_options_named_alone_are_somewhere_in_the_cli(page):
    named_options = {re.split(r"[ =]", text)[0] for text in inline(page.read_text()) if text.startswith("--")}
    assert not named_options - FOREIGN - set().union(*map(options_of, every_command()))


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_submitted_jobs_load_with_their_overrides(page, monkeypatch):
    monkeypatch.chdir(ROOT)
    for words in commands(page.read_text()):
        jobs = submitted_jobs(words)
        if jobs:
            overrides = [word for word in words[words.index(jobs[0]) + 1 :] if re.match(r"[a-z_.0-9]+=", word)]
            load_job(jobs[0], overrides)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_files_named_are_there(page):
    text = page.read_text()
    recipes = set(re.findall(r"\b(?:jobs|clusters)/[a-z0-9_]+\.yaml\b", text))
    missing = [name for name in recipes - set(files_shown(text)) if not exists(name, ROOT)]
    missing += [
        name
        for name in sources_named(text)
        if not name.startswith(("log/", "clusters/", "attempts/")) and not exists(name, ROOT, PACKAGE)
    ]
    assert not missing


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_tests_named_are_there(page):
    for file, name in TEST.findall(page.read_text()):
        assert f"def {name}(" in (ROOT / "tests" / file).read_text(), f"{file} has no {name}"


@pytest.mark.parametrize("page", [page for page in PAGES if files_shown(page.read_text())], ids=named)
def test_job_files_and_profiles_spelt_out_load(page, tmp_path):
    for name, body in files_shown(page.read_text()).items():
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(body)
        load_job(path) if name.startswith("jobs/") else load_profile(str(path))


def fragments(page):
    """Blocks of YAML that are a whole profile, or a part of a job, which they then lay on a small one."""
    return [
        block.body
        for block in blocks(page)
        if block.language == "yaml" and not re.match("# (jobs|clusters)/", block.body)
    ]


@pytest.mark.parametrize("page", [page for page in PAGES if page.parts[-2] != "docker" and fragments(page)], ids=named)
def test_parts_of_job_files_and_whole_profiles_load(page, tmp_path):
    (tmp_path / "small.yaml").write_text(SMALL)
    for number, body in enumerate(fragments(page)):
        path = tmp_path / f"{number}.yaml"
        is_profile = re.search("^launcher:", body, re.MULTILINE)
        length = "" if re.search("^run:", body, re.MULTILINE) else "run: {epochs: 100}\n"
        path.write_text(body if is_profile else f"extends: small.yaml\n{body}{length}")
        load_profile(str(path)) if is_profile else load_job(path)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_block_says_its_language_and_what_runs_it(page):
    for block in blocks(page):
        assert block.language in (*RUN, *SHOWN), f"{block}: a block without a language, or with an unknown one"
        if block.language in SHOWN:
            assert not block.marker + block.reason, f"{block}: nothing of it is run anyway"
        elif block.reason:
            assert not block.marker, f"{block}: either it is run or it is not"
        elif block.marker.startswith("by "):
            assert runs(ROOT / block.marker.removeprefix("by "), block), f"{block}: that test runs none of it"
        else:
            assert block.marker in ("quick", "slow"), f"{block}: it says neither what runs it nor why nothing does"


def runs(test, block):
    """Whether a test names the page, or calls a command that the block shows."""
    text = test.read_text()
    called = {words[0] if words[0] == "gmml-submit" else words[1] for words in commands(f"```sh\n{block.body}```\n")}
    return named(block.page) in text or any(f'"{word}"' in text for word in called)


@pytest.mark.parametrize(
    "page", [page for page in PAGES if any(block.marker == "quick" for block in blocks(page))], ids=named
)
def test_quick_blocks_run(page, tmp_path):
    session = Session(tmp_path)
    try:
        for block in blocks(page):
            if block.marker == "quick" or block.file:
                session.run(block)
    finally:
        session.close()


def test_a_block_that_fails_or_prints_something_else_is_noticed(tmp_path):
    session, page = Session(tmp_path), tmp_path / "page.md"
    page.write_text("```console quick\n$ echo one\none\n```\n\n*Not run by the tests: no.*\n\n```sh\nfalse\n```\n")
    right, wrong = blocks(page)
    session.run(right)
    assert (right.marker, right.reason, wrong.marker, wrong.reason) == ("quick", "", "", "no")
    assert list(steps(right)) == [("echo one", "one\n")]
    with pytest.raises(AssertionError):
        session.run(wrong)
    with pytest.raises(AssertionError):
        session.run(replace(right, body="$ echo one\ntwo\n"))


@pytest.mark.parametrize(
    "options",
    [
        GmmlOptions,
        MaeOptions,
        CapiOptions,
        ConmimOptions,
        IjepaOptions,
        RelVitOptions,
        SimmimOptions,
        SupervisedOptions,
        SegmentationOptions,
    ],
    ids=lambda options: options.__name__,
)
def test_the_page_of_methods_lists_every_option_with_its_default(options):
    (name,) = get_args(options.model_fields["name"].annotation)
    sections = (ROOT / "docs" / "methods.md").read_text().split("\n## ")
    (own,) = (text for text in sections if text.partition("\n")[0].lower().replace("-", "") == name)
    rows = re.findall(r"^\| `(\w+)` \| ([^|]+?) \|", own, re.MULTILINE)
    defaults = {name: shown(field.default) for name, field in options.model_fields.items() if name != "name"}
    assert {name: default.strip("`") for name, default in rows if name in defaults} == defaults


def shown(default):
    if isinstance(default, tuple):
        return ", ".join(map(shown, default))
    if default is PydanticUndefined:
        return "required"
    return "null" if default is None else str(default).lower()


def test_every_dependency_has_its_reason():
    text = (ROOT / "docs" / "decisions" / "0001-dependencies.md").read_text().lower()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    names = {re.split(r"[\[<>=!~;]", one)[0].lower() for one in wanted} - {"gmml-cluster"}
    assert not sorted(name for name in names if name not in text)
