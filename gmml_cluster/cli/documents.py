"""How `--json` prints: one JSON document a line on stdout, and nothing else there."""

import json
from collections.abc import Mapping, Sequence

import click

Document = Mapping[str, object]


def emit(document: Document | Sequence[Document]) -> None:
    """Print a document, or a list of them, as one line."""
    click.echo(json.dumps(document))
