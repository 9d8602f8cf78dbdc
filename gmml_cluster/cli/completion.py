"""`gmml completion`: what makes a shell complete our commands."""

import click

from gmml_cluster.cli.shells import SHELLS, variable_of


@click.command("completion")
@click.argument("shell", type=click.Choice(list(SHELLS)))
def command(shell: str) -> None:
    """Print what makes SHELL complete gmml and gmml-submit: runs, profiles, jobs and fields of a job.

    For bash put the line `eval "$(gmml completion bash)"` into ~/.bashrc; for zsh the same with zsh into ~/.zshrc,
    behind compinit; for fish `gmml completion fish | source` into ~/.config/fish/config.fish.
    """
    from gmml_cluster.cli.main import group
    from gmml_cluster.cli.submit import command as submit

    for program, each in (("gmml", group), ("gmml-submit", submit)):
        click.echo(SHELLS[shell](each, {}, program, variable_of(program)).source())
