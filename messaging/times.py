"""Times as text: RFC 3339 in UTC."""

from datetime import UTC, datetime


def rfc3339(moment: datetime) -> str:
    """To the millisecond."""
    return _text(moment, "milliseconds")


def rfc3339_seconds(moment: datetime) -> str:
    return _text(moment, "seconds")


def _text(moment: datetime, timespec: str) -> str:
    return moment.astimezone(UTC).isoformat(timespec=timespec).replace("+00:00", "Z")
