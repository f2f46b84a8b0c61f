"""The reader of what Redis says on the connection of the near cache: however it arrives, and whatever it is."""

from itertools import pairwise

import pytest
import redis
from hypothesis import given
from hypothesis import strategies as st

from powauth.backends._redis_messages import Messages  # malformed messages, which no server sends

SAID = (
    b"+OK\r\n"
    b">2\r\n+invalidate\r\n*2\r\n$3\r\nk\r\n\r\n$0\r\n\r\n"
    b"%3\r\n$4\r\nrole\r\n$6\r\nmaster\r\n$5\r\nproto\r\n:3\r\n$7\r\nmodules\r\n*0\r\n"
    b">2\r\n+invalidate\r\n_\r\n"
    b"|1\r\n+ttl\r\n:7\r\n~2\r\n#t\r\n#f\r\n"
    b"=7\r\ntxt:yes\r\n,1.5\r\n(3492890328409238509324850943850943825024385\r\n$-1\r\n*-1\r\n"
)
MEANT = [
    b"OK",
    [b"invalidate", [b"k\r\n", b""]],
    {b"role": b"master", b"proto": 3, b"modules": []},
    [b"invalidate", None],
    [True, False],
    b"txt:yes",
    b"1.5",
    b"3492890328409238509324850943850943825024385",
    None,
    None,
]


@given(st.lists(st.integers(0, len(SAID)), max_size=12))
def test_messages_are_the_same_however_the_bytes_arrive(cuts: list[int]) -> None:
    messages = Messages()
    bounds = [0, *sorted(cuts), len(SAID)]
    parts = [SAID[start:end] for start, end in pairwise(bounds)]
    assert [message for part in parts for message in messages.feed(part)] == MEANT


@pytest.mark.parametrize(
    "said", [b"-NOPERM no right to 'client|tracking'\r\n", b"!38\r\nNOPERM no right to 'client|tracking'xxx\r\n"]
)
def test_an_error_is_raised_with_the_servers_text(said: bytes) -> None:
    with pytest.raises(redis.ResponseError, match=r"NOPERM no right to 'client\|tracking'"):
        list(Messages().feed(b"+OK\r\n" + said))


@pytest.mark.parametrize(
    "said",
    [b"HTTP/1.1 400 Bad Request\r\n", b"\r\n", b"$many\r\n", b"$-7\r\n", b"*-2\r\n", b">?\r\n", b"%1\r\n*0\r\n+a\r\n"],
)
def test_what_is_not_the_protocol_is_refused(said: bytes) -> None:
    with pytest.raises(redis.InvalidResponse):
        list(Messages().feed(said))
