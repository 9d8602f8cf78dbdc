"""`gmml`: commands on runs. A command's module is imported when it is called, so that `--help` imports none."""

from difflib import get_close_matches
from importlib import import_module
from typing import NoReturn

import click

from gmml_cluster.cli import options, run_command

_COMMANDS = {
    "new": ("new", "Write a commented job file to begin with."),
    "status": ("status", "What runs are doing, how far they are, and what ended their attempts."),
    "top": ("top", "A live view of all runs."),
    "logs": ("logs", "What a rank printed."),
    "wait": ("wait", "Return when runs have ended."),
    "cancel": ("cancel", "Ask a run to save and stop."),
    "resume": ("resume", "Continue a run from its latest checkpoint, or all that were interrupted."),
    "log": ("log", "Entries of a run's log."),
    "metrics": ("metrics", "One line a step: losses, rates, waits."),
    "track": ("track", "Pass a run's curves on to its trackers, as far as they lack them."),
    "order": ("order", "Which image each sample number is, and which rank reads it."),
    "see": ("see", "What sample numbers are: image, crops, views, masks, as a picture."),
    "corpus": ("corpus", "Pack and index corpora."),
    "eval": ("evaluate", "Score the encoder of a run."),
    "export": ("export", "Write the encoder of a run for timm, transformers, ONNX or safetensors."),
    "replay": ("replay", "Compute steps of a run again and compare them to the bit."),
    "diff": ("diff", "Where two runs part, and what of their specs differs."),
    "drill": ("drill", "Rehearse on a cluster what may befall a job, and what it would lose."),
    "compare": ("compare", "What evaluations found of several runs, in one table."),
    "report": ("report", "One page on runs: which is better, curves, time, scores, data, specs."),
    "completion": ("completion", "What makes a shell complete runs, profiles, jobs and fields."),
    "schema": ("schema", "JSON Schema of job files or cluster profiles."),
    "rm": ("rm", "Delete a run."),
}


class _Lazy(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in _COMMANDS:
            return None
        module = import_module(f"gmml_cluster.cli.{_COMMANDS[cmd_name][0]}")
        command: click.Command = module.command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, help_) for name, (_, help_) in _COMMANDS.items()])

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and args[0] not in _COMMANDS and not args[0].startswith("-"):
            near = get_close_matches(args[0], _COMMANDS, n=1)
            known = f"did you mean {near[0]!r}?" if near else f"known are {', '.join(_COMMANDS)}"
            raise click.UsageError(f"no command {args[0]!r}; {known}", ctx)
        return super().resolve_command(ctx, args)


@click.command(cls=_Lazy, context_settings=options.CONTEXT)
@click.version_option(package_name="gmml-cluster")
def group() -> None:
    """List, follow, stop and resume runs. RUN is a run's name, a unique prefix of it, or its folder or URL."""


def gmml() -> NoReturn:
    """Entry of the command `gmml`."""
    run_command.run(group)


if __name__ == "__main__":
    gmml()
