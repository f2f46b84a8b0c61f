"""Conversion of times: apps see `datetime` and `timedelta`, powauth's own parts count milliseconds."""

from datetime import UTC, datetime, timedelta

from powauth._options import wrong

LONGEST = timedelta(days=100 * 365)
"""A hundred years. A longer time is a mistake."""

MILLISECOND = timedelta(milliseconds=1)


def duration(name: str, value: object, *, at_least: int = 0, at_most: timedelta = LONGEST) -> int:
    """Return an option that is a length of time, in milliseconds.

    >>> duration("ttl", timedelta(minutes=30))
    1800000

    Raises:
        ConfigError: if it is no `timedelta`, shorter than ``at_least`` milliseconds, or longer than ``at_most``.
    """
    if not isinstance(value, timedelta):
        raise wrong(name, "a timedelta, such as timedelta(minutes=15)", value)
    if timedelta(0) <= value <= at_most and (millis := round(value / MILLISECOND)) >= at_least:
        return millis
    bound = {0: "zero or more", 1: "more than zero"}.get(at_least, f"{at_least * MILLISECOND} or more")
    raise wrong(name, f"{bound} and at most {at_most}", value)


def moment(millis: int) -> datetime:
    """Return a time in UTC.

    >>> moment(1_900_000_000_500).isoformat()
    '2030-03-17T17:46:40.500000+00:00'
    """
    return datetime.fromtimestamp(millis / 1000, UTC)
