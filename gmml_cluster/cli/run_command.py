"""How commands end: faults on stderr, a line each, and the exit codes of all commands."""

import os
import sys
from pathlib import Path
from typing import NoReturn

import click

from gmml_cluster.cli import shells
from gmml_cluster.errors import GmmlError

INTERRUPTED = 130


def _reader_has_left() -> int:
    """`gmml log RUN | head` is no failure; what is still buffered would fail once more at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def run(command: click.Command) -> NoReturn:
    """Run a command and exit with its code.

    0 done, 2 fault in the spec or the arguments, 3 preflight refused or what lies there (a corpus, a checkpoint, a log)
    is missing or damaged, 4 scheduler or store out of reach, 5 the run failed or a worker died, 130 interrupted. A
    command that returns a number exits with it.
    """
    program = Path(sys.argv[0]).name
    if asked := os.environ.get(shells.variable_of(program)):
        sys.exit(shells.answer(command, program, asked))
    try:
        # not command.main(): it turns a broken pipe into exit code 1
        with command.make_context(program, sys.argv[1:]) as context:
            code = command.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as ending:
        code = ending.exit_code
    except click.ClickException as fault:
        fault.show()
        code = fault.exit_code
    except (click.Abort, KeyboardInterrupt):
        code = INTERRUPTED
    except BrokenPipeError:
        code = _reader_has_left()
    except GmmlError as fault:
        print(fault, file=sys.stderr)
        code = fault.exit_code
    sys.exit(code if isinstance(code, int) else 0)
