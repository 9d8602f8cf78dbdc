"""What a launcher can prove of a start that is over, besides the exit code of its ranks."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Evidence:
    """What the scheduler and the ranks' own output say of the end of one start.

    Attributes:
        cause: why it ended, where that is proved; outranks the exit code.
        proof: the line or field that proves `cause` or `notice`.
        notice: why the scheduler gave notice, if it did: it explains ranks that left after a notice, and nothing else.
        stderr_tail: the error that is quoted in the log, and the file that holds it.
        node: the one whose rank or hardware failed; empty where none is known to be to blame.
        bad_nodes: nodes whose hardware failed; the job must not start on them again.
    """

    cause: str | None = None
    proof: str = ""
    notice: str | None = None
    stderr_tail: str = ""
    node: str = ""
    bad_nodes: tuple[str, ...] = ()
