"""JSON Schemas of what `--json` prints, made of the types that the code which prints is checked against.

`output_page.py` writes them, and the page of outputs.
"""

import re
from dataclasses import dataclass
from typing import Any, Literal, get_type_hints

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema, JsonSchemaValue
from pydantic_core import core_schema
from typing_extensions import Doc

from gmml_cluster.cli.dry_run import DryRunOutput, SweepDryRunOutput
from gmml_cluster.outputs import corpus, notify, run, runs, status, submission
from gmml_cluster.outputs.base import ErrorOutput
from gmml_cluster.spec.docstrings import docstrings_of
from gmml_cluster.spec.schema import DIALECT

Schema = dict[str, Any]


@dataclass(frozen=True)
class Output:
    """What commands print.

    Attributes:
        type: of a document.
        commands: what prints it, `--json` left out.
        prints: whether that is one document, a list of them in one line, or a line each.
        note: what else is to be said of it, in Markdown.
    """

    type: type
    commands: tuple[str, ...] = ()
    prints: Literal["document", "list", "lines"] = "document"
    note: str = ""


_OF_SEVERAL = "The exit code is 0, or that of the first that failed."
OUTPUTS = {
    "error": Output(ErrorOutput, note="Of every command that fails."),
    "submit": Output(
        submission.SubmitOutput,
        ("gmml-submit JOB", "gmml resume RUN", "gmml resume --all"),
        note="The last prints a list in one line, of the runs that it resumed, and of errors of others at its end.",
    ),
    "dry-run": Output(DryRunOutput, ("gmml-submit JOB --dry-run",)),
    "sweep": Output(submission.SweepOutput, ("gmml-submit JOB --sweep FIELD=VALUE,VALUE",), note=_OF_SEVERAL),
    "sweep-dry-run": Output(SweepDryRunOutput, ("gmml-submit JOB --sweep FIELD=VALUE,VALUE --dry-run",)),
    "resume-sweep": Output(submission.ResumedOutput, ("gmml resume SWEEP",), note=f"Also of a pattern. {_OF_SEVERAL}"),
    "status": Output(
        status.StatusOutput,
        ("gmml status [RUN]",),
        note="One document for a run that is named, else a list in one line: of all runs, or of those of a sweep or "
        "pattern. A run of the list that cannot be read is an error at its end.",
    ),
    "top": Output(
        status.StatusOutput,
        ("gmml top",),
        "list",
        note="The documents of `gmml status`, those at work first, then those that failed or were interrupted. A run "
        "that cannot be read is an error at the end.",
    ),
    "wait": Output(submission.WaitOutput, ("gmml wait RUN ...",)),
    "logs": Output(run.LogsOutput, ("gmml logs RUN",)),
    "cancel": Output(submission.CancelOutput, ("gmml cancel RUN ...",), note=_OF_SEVERAL),
    "log": Output(run.EntryOutput, ("gmml log RUN",), "lines"),
    "log-check": Output(run.LogCheckOutput, ("gmml log RUN --check",)),
    "metrics": Output(run.MetricsOutput, ("gmml metrics RUN",), "lines"),
    "events": Output(run.EventsOutput, ("gmml metrics RUN --tensorboard DIR",)),
    "track": Output(run.TrackOutput, ("gmml track RUN",)),
    "order": Output(run.OrderOutput, ("gmml order JOB|RUN [KEY=VALUE]...",), "lines"),
    "see": Output(run.SeeOutput, ("gmml see JOB|RUN [KEY=VALUE]...",)),
    "corpus-pack": Output(corpus.PackedOutput, ("gmml corpus pack SOURCE DESTINATION",)),
    "corpus-index": Output(corpus.IndexedOutput, ("gmml corpus index URL",)),
    "eval": Output(run.EvalOutput, ("gmml eval RUN",), "lines"),
    "export": Output(run.ExportOutput, ("gmml export RUN",)),
    "replay": Output(run.ReplayOutput, ("gmml replay RUN",)),
    "diff": Output(runs.DiffOutput, ("gmml diff RUN RUN",)),
    "drill": Output(runs.DrillOutput, ("gmml drill JOB [KEY=VALUE]...",), "lines"),
    "compare": Output(runs.CompareOutput, ("gmml compare RUN ...",)),
    "report": Output(runs.ReportOutput, ("gmml report RUN ...",)),
    "new": Output(submission.NewOutput, ("gmml new NAME",)),
    "rm": Output(submission.RemovedOutput, ("gmml rm RUN --yes",)),
    "notify": Output(notify.MessageOutput, note="Sent by a run, not printed."),
}
"""Name of a schema -> what it describes. `gmml schema` prints a schema itself."""


class _Described(GenerateJsonSchema):
    """Schemas with the docstrings of fields, and without titles, which only repeat their names."""

    def field_title_should_be_set(self, schema: object) -> bool:
        return False

    def typed_dict_schema(self, schema: core_schema.TypedDictSchema) -> JsonSchemaValue:
        return _described(super().typed_dict_schema(schema), schema["cls"])

    def dataclass_schema(self, schema: core_schema.DataclassSchema) -> JsonSchemaValue:
        return _described(super().dataclass_schema(schema), schema["cls"])


def _described(schema: Schema, cls: type) -> Schema:
    texts = docstrings_of(cls)
    for name, hint in get_type_hints(cls, include_extras=True).items():
        notes = [note.documentation for note in getattr(hint, "__metadata__", ()) if isinstance(note, Doc)]
        text = texts.get(name, *notes[:1])
        if text and name in schema["properties"]:
            schema["properties"][name]["description"] = _of_json(text)
    schema["description"] = _of_json(cls.__doc__ or "")
    return schema


def _of_json(text: str) -> str:
    """A docstring about JSON: in one line, and with its word for nothing."""
    return re.sub(r"\bNone\b", "null", " ".join(text.split()))


def output_schema(name: str) -> Schema:
    """Schema of one document of `OUTPUTS`; fields that it does not know are valid, as a later version may have more."""
    schema = TypeAdapter(OUTPUTS[name].type).json_schema(mode="serialization", schema_generator=_Described)
    return {"$schema": DIALECT, **schema}
