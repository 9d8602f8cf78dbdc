"""Times for people."""

from datetime import UTC, datetime


def moment(seconds: float | None) -> str:
    """A time of day in local time, with the date where it is not today's."""
    if seconds is None:
        return "-"
    then, now = datetime.fromtimestamp(seconds, UTC).astimezone(), datetime.now(UTC).astimezone()
    return then.strftime("%H:%M" if then.date() == now.date() else "%Y-%m-%d %H:%M")
