"""What `notify` of a job sends."""

from gmml_cluster.outputs.base import FirstVersion


class MessageOutput(FirstVersion):
    """A message of `notify`, which a webhook gets by POST and a command as the variable `GMML_EVENT`."""

    id: str
    """The same for the same event, should it be sent twice."""
    text: str
    """One or two sentences for people."""
    event: str
    """`finished`, `failed`, `gave_up`, `stopped` or `node_avoided`."""
    run: str
    """Its name."""
    url: str
    """Where it lies."""
    time: float
    """Of the event, seconds since 1970."""
    attempt: int | None
    """The attempt that ended; null where none did."""
    step: int | None
    """Of the latest checkpoint; null without one."""
