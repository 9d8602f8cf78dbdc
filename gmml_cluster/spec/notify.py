"""The section `notify`: who learns what becomes of a run."""

import re
from typing import Annotated, ClassVar
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from gmml_cluster.spec.base import Refused, SpecModel

_VARIABLE = re.compile(r"\$([A-Za-z_][A-Za-z0-9_]*)")
Word = Annotated[str, Field(min_length=1)]


class Notify(SpecModel):
    """Where a message goes when the run has finished, failed, given up or been stopped, or avoids a node from now on.

    Messages are sent by what starts the ranks, after they have left, and tried again; none of them can hurt the run.
    """

    bare: ClassVar[tuple[str, ...]] = ("webhook",)

    webhook: str | None = Field(None, examples=["$TEAM_WEBHOOK"])
    """An `https://` address that takes a JSON document by POST, or `$NAME`, the variable that holds it: addresses of
    chat services are secrets, and the job file is kept with the run."""
    command: tuple[Word, ...] | None = Field(None, min_length=1, examples=[["mail", "-s", "pre-training", "lab"]])
    """A program and its arguments; it reads the text of the message from its input, and the JSON document from the
    variable GMML_EVENT."""

    @field_validator("webhook")
    @classmethod
    def _is_an_address(cls, given: str | None) -> str | None:
        if given is None or _VARIABLE.fullmatch(given):
            return given
        try:
            parts = urlsplit(given)
            known = parts.scheme in ("http", "https") and parts.hostname
        except ValueError:
            known = False
        if not known:
            problem = "this is neither an address nor a variable"  # the value is not repeated: it may be a secret
            raise Refused(problem, "write https://host/path, or $NAME and set that variable where you submit")
        return given

    @model_validator(mode="after")
    def _somebody_learns_it(self) -> "Notify":
        if self.webhook is None and self.command is None:
            raise Refused("neither webhook nor command given", "give one of them, or both, or null for the section")
        return self

    @property
    def variable(self) -> str | None:
        """Name of the variable that holds the webhook's address; None where it is written out, or there is none."""
        found = _VARIABLE.fullmatch(self.webhook or "")
        return found[1] if found else None
