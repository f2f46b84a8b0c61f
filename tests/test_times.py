"""Lengths of time as options: a `timedelta`, and one clear error for everything else."""

from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

# The one place where times are converted has no public name: apps see its effect in every option.
from powauth._times import LONGEST, duration, moment
from powauth.errors import ConfigError


@pytest.mark.parametrize(
    ("value", "millis"),
    [
        (timedelta(minutes=30), 1_800_000),
        (timedelta(microseconds=1500), 2),
        (timedelta(microseconds=100), 0),
        (timedelta(0), 0),
        (timedelta(seconds=1.5), 1_500),
        (LONGEST, 100 * 365 * 24 * 3600 * 1000),
    ],
)
def test_lengths_of_time_are_counted_in_milliseconds(value: timedelta, millis: int) -> None:
    assert duration("grace", value) == millis


@pytest.mark.parametrize("value", [15, 0, 1.5, "15", "PT15M", None, True, b"15", [], {}, float("nan"), float("inf")])
def test_whatever_is_no_timedelta_is_refused_with_an_example(value: Any) -> None:
    with pytest.raises(ConfigError, match=r"grace must be a timedelta, such as timedelta\(minutes=15\), not"):
        duration("grace", value)


@pytest.mark.parametrize(
    "value", [timedelta(seconds=-1), timedelta.max, timedelta.min, LONGEST + timedelta(milliseconds=1)]
)
def test_a_length_of_time_out_of_bounds_is_refused(value: timedelta) -> None:
    with pytest.raises(ConfigError, match="grace must be zero or more and at most 36500 days"):
        duration("grace", value)


@pytest.mark.parametrize("value", [timedelta(0), timedelta(microseconds=1)])
def test_a_length_of_time_may_have_to_be_more_than_zero(value: timedelta) -> None:
    with pytest.raises(ConfigError, match="ttl must be more than zero"):
        duration("ttl", value, at_least=1)
    assert duration("ttl", timedelta(milliseconds=1), at_least=1) == 1


@given(st.timedeltas())
def test_any_timedelta_is_in_bounds_or_refused(value: timedelta) -> None:
    try:
        assert 0 <= duration("ttl", value) <= LONGEST / timedelta(milliseconds=1)
    except ConfigError:
        assert not timedelta(0) <= value <= LONGEST


def test_moments_are_aware_and_in_utc() -> None:
    assert moment(1_900_000_000_500) == datetime(2030, 3, 17, 17, 46, 40, 500_000, tzinfo=UTC)
    assert moment(0).utcoffset() == timedelta(0)
