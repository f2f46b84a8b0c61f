"""What programs are told of errors."""

from datetime import timedelta

import pytest

from powauth.errors import Overloaded, PowauthError, Throttled
from powauth.http.answers import answer_to


@pytest.mark.parametrize(
    "error",
    [
        Overloaded("busy", retry_after=timedelta(seconds=7)),
        Throttled(scope="account", retry_after=timedelta(seconds=7)),
    ],
)
def test_a_client_is_asked_to_wait_as_long_as_the_error_says(error: PowauthError) -> None:
    answer = answer_to(error)
    assert answer is not None
    assert dict(answer.headers)[b"retry-after"] == b"7"
