"""The commands and their options are an interface: a change of this table is a change for every user."""

import click

from gmml_cluster.cli.main import group
from gmml_cluster.cli.submit import command as submit

SURFACE = {
    "gmml-submit": [
        "--cluster",
        "--dry-run",
        "--follow",
        "--help",
        "--json",
        "--parallel",
        "--sweep",
        "--take-over",
        "--version",
        "JOB",
        "OVERRIDES",
    ],
    "gmml": ["--help", "--version"],
    "gmml status": ["--help", "--json", "--root", "RUN"],
    "gmml top": ["--every", "--help", "--json", "--once", "--root"],
    "gmml logs": ["--attempt", "--follow", "--help", "--json", "--rank", "--root", "--tail", "-f", "RUN"],
    "gmml wait": ["--help", "--json", "--root", "--timeout", "RUNS"],
    "gmml cancel": ["--all", "--help", "--json", "--root", "RUNS"],
    "gmml resume": [
        "--all",
        "--all-nodes",
        "--cluster",
        "--code",
        "--follow",
        "--help",
        "--json",
        "--root",
        "--take-over",
        "RUN",
    ],
    "gmml log": ["--check", "--help", "--json", "--root", "RUN"],
    "gmml metrics": ["--help", "--json", "--root", "--tensorboard", "RUN"],
    "gmml order": ["--help", "--json", "--ranks", "--root", "--samples", "JOB_OR_RUN", "OVERRIDES"],
    "gmml see": ["--help", "--json", "--output", "--root", "--samples", "-o", "JOB_OR_RUN", "OVERRIDES"],
    "gmml corpus": ["--help"],
    "gmml corpus pack": [
        "--cluster",
        "--help",
        "--image",
        "--json",
        "--masks",
        "--max-pixels",
        "--prefix",
        "--refuse-damaged",
        "--seed",
        "--shard-samples",
        "--short-side",
        "--workers",
        "DESTINATION",
        "SOURCE",
    ],
    "gmml corpus index": ["--anew", "--cluster", "--help", "--image", "--json", "--root", "--workers", "URL"],
    "gmml export": ["--help", "--image-size", "--json", "--output", "--root", "--step", "--to", "-o", "RUN"],
    "gmml eval": [
        "--bank",
        "--classes",
        "--cluster",
        "--corpus",
        "--epochs",
        "--feature",
        "--help",
        "--image",
        "--image-size",
        "--json",
        "--root",
        "--sliding",
        "--step",
        "--untrained",
        "--with",
        "--zero-ignored",
        "RUN",
    ],
    "gmml replay": ["--code", "--from", "--help", "--json", "--root", "--to", "RUN"],
    "gmml diff": ["--help", "--json", "--root", "ONE", "OTHER"],
    "gmml drill": ["--cluster", "--help", "--json", "--only", "JOB", "OVERRIDES"],
    "gmml compare": ["--help", "--json", "--root", "RUNS"],
    "gmml report": ["--help", "--images", "--json", "--output", "--root", "-o", "RUNS"],
    "gmml track": ["--help", "--json", "--root", "RUN"],
    "gmml new": ["--help", "--json", "NAME"],
    "gmml completion": ["--help", "SHELL"],
    "gmml schema": ["--help", "--json", "KIND"],
    "gmml rm": ["--help", "--json", "--root", "--yes", "RUN"],
}


def surface(name, command):
    context = click.Context(command)
    parameters = command.get_params(context)
    flags = [
        word
        for parameter in parameters
        for word in (
            [(parameter.name or "").upper()]
            if isinstance(parameter, click.Argument)
            else [*parameter.opts, *parameter.secondary_opts]
        )
        if word != "-h"  # every command has it, beside --help
    ]
    found = {name: sorted(flags)}
    if isinstance(command, click.Group):
        for child in command.list_commands(context):
            sub = command.get_command(context, child)
            assert sub is not None
            found |= surface(f"{name} {child}", sub)
    return found


def test_commands_and_options_are_the_frozen_ones():
    assert {**surface("gmml-submit", submit), **surface("gmml", group)} == SURFACE


def test_every_command_and_option_says_what_it_does():
    def silent(name, command):
        context = click.Context(command)
        if not command.help:
            yield name
        for parameter in command.get_params(context):
            if isinstance(parameter, click.Option) and not parameter.help:
                yield f"{name} {parameter.opts[0]}"
        if isinstance(command, click.Group):
            for child in command.list_commands(context):
                sub = command.get_command(context, child)
                assert sub is not None
                yield from silent(f"{name} {child}", sub)

    assert not [*silent("gmml-submit", submit), *silent("gmml", group)]
