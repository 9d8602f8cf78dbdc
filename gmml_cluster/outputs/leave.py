"""How a process that a command starts ends with an error: as the command itself would."""

import json
import sys
from typing import NoReturn

from gmml_cluster.errors import GmmlError
from gmml_cluster.outputs.base import error_document


def leave(error: GmmlError, *, as_json: bool) -> NoReturn:
    """Print the error on stderr, with `as_json` its document on stdout too, and exit with its code."""
    print(error, file=sys.stderr)
    if as_json:
        print(json.dumps(error_document(error)), flush=True)
    sys.exit(error.exit_code)
