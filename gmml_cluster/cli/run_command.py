"""How commands end: faults on stderr, a line each, and the exit codes of all commands."""

import os
import sys
from typing import NoReturn

import click

from gmml_cluster.errors import GmmlError

INTERRUPTED = 130


def run(command: click.Command) -> NoReturn:
    """Run a command and leave with its code.

    0 done, 2 fault in the spec or the arguments, 3 preflight refused or what lies there (a corpus, a checkpoint, a log)
    is missing or damaged, 4 scheduler or store out of reach, 5 the run failed, 130 interrupted. A command that returns
    a number leaves with it.
    """
    try:
        code = command.main(standalone_mode=False)
        sys.stdout.flush()
    except click.ClickException as fault:
        fault.show()
        code = fault.exit_code
    except (click.Abort, KeyboardInterrupt):
        code = INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 0
    except GmmlError as fault:
        print(fault, file=sys.stderr)
        code = fault.exit_code
    sys.exit(code if isinstance(code, int) else 0)
