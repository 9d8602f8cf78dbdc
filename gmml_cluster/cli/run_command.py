"""How commands end: faults on stderr, a line each, with `--json` also as a document on stdout; exit codes of all."""

import os
import sys
from pathlib import Path
from typing import NoReturn

import click

from gmml_cluster.cli import shells
from gmml_cluster.cli.documents import emit
from gmml_cluster.errors import Fault, GmmlError
from gmml_cluster.outputs.base import ErrorOutput, error_document, fault_document

INTERRUPTED = 130
EXIT_CODES = {
    0: "done, or nothing was left to do",
    1: "an answer: `gmml diff` and `gmml replay` found a difference, a run of `gmml drill` did not come back or its "
    "losses differ, a tracker did not take what `gmml track` had; of any other command a defect of gmml, with a "
    "traceback on stderr and no document of an error",
    2: "fault in the job, the profile or the arguments: edit them",
    3: "preflight refused, or what lies there (a corpus, a checkpoint, a log) is missing or damaged, or a corpus holds "
    "no sample: fix the cluster or the data",
    4: "scheduler or store out of reach: try again later; the same command is safe to repeat",
    5: "a run that was followed or waited for ended without finishing, or a worker of a command died",
    6: "`gmml wait` gave up: a run is still at work",
    INTERRUPTED: "interrupted",
}
"""What the exit codes of all commands mean (docs/outputs.md)."""


def _reader_has_left() -> int:
    """`gmml log RUN | head` is no failure; what is still buffered would fail once more at exit."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 0


def run(command: click.Command) -> NoReturn:
    """Run a command and exit with its code, one of `EXIT_CODES`; a command that returns a number exits with it."""
    program = Path(sys.argv[0]).name
    if asked := os.environ.get(shells.variable_of(program)):
        sys.exit(shells.answer(command, program, asked))
    failed: ErrorOutput | None = None
    try:
        # not command.main(): it turns a broken pipe into exit code 1
        with command.make_context(program, sys.argv[1:]) as context:
            code = command.invoke(context)
        sys.stdout.flush()
    except click.exceptions.Exit as ending:
        code = ending.exit_code
    except click.ClickException as fault:
        fault.show()
        code, failed = fault.exit_code, _of_arguments(fault)
    except (click.Abort, KeyboardInterrupt):
        code = INTERRUPTED
        failed = fault_document("Interrupted", code, [Fault("", "interrupted")])
    except BrokenPipeError:
        code = _reader_has_left()
    except GmmlError as fault:
        print(fault, file=sys.stderr)
        code, failed = fault.exit_code, error_document(fault)
    if failed is not None and "--json" in sys.argv[1:]:  # arguments that cannot be parsed have no options yet
        emit(failed)
    sys.exit(code if isinstance(code, int) else 0)


def _of_arguments(fault: click.ClickException) -> ErrorOutput:
    context = fault.ctx if isinstance(fault, click.UsageError) else None
    where = context.command_path if context else ""
    hint = f"{where} --help lists its arguments" if where else ""
    return fault_document("UsageError", fault.exit_code, [Fault(where, fault.format_message(), hint)])
