"""The log of failures that become `StoreUnavailable`: it shows each cause, without a flood of lines.

The response 503 gives no cause, so the log is the only place where an operator can see it. During an outage each
request fails for the same cause. `OutageLog` therefore writes one line per cause in `INTERVAL_SECONDS`. The next line
says how many it left out.

A line never holds a secret. It consists of the exception's class, a sentence by powauth, and a part of the driver's
message if that part cannot hold a value. No traceback is logged: error collectors keep the local variables of each
frame, and records are among them.
"""

import contextlib
import logging
import threading
from collections.abc import Callable
from time import monotonic
from typing import Final, NamedTuple

from powauth import _forks
from powauth.errors import StoreMissing, StoreUnavailable

logger = logging.getLogger("powauth")

INTERVAL_SECONDS: Final = 10.0
"""The shortest time between two lines about one cause."""

MAX_CAUSES: Final = 64
"""The most causes that are remembered. A further one replaces the cause whose last line is the oldest."""

MAX_LENGTH: Final = 300
"""The most characters of a driver's message that are logged."""


class Failure(NamedTuple):
    """A failure of an engine, in words for an operator.

    Attributes:
        sentence: what is wrong, and what to do about it where that is known. It names no value of a statement.
        detail: the driver's own words, cut and made printable; empty where they may hold a value.
        missing: whether the engine is well, and only lacks a table, a database or a file: `StoreMissing`.
    """

    sentence: str
    detail: str = ""
    missing: bool = False


class _Seen:
    """One cause: the time of its last line, and the number of failures since then."""

    __slots__ = ("at", "left_out")

    def __init__(self, at: float) -> None:
        self.at = at
        self.left_out = 0


class OutageLog:
    """Write one line per cause in `INTERVAL_SECONDS`. Safe to call from any thread.

    Args:
        clock: seconds, from any starting point; they never go back.
    """

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._seen: dict[str, _Seen] = {}
        _forks.on_fork(self, OutageLog._forget)

    def write(self, failure: Failure, kind: str) -> None:
        """Log the failure at ERROR, unless a line about the same cause is younger than `INTERVAL_SECONDS`.

        Args:
            failure: what to write. Its sentence and ``kind`` are the cause; the detail is not, because it may differ
                each time.
            kind: the class of the exception, and its code if it has one.
        """
        left_out = self._claim(f"{kind} {failure.sentence}")
        if left_out is None:
            return
        more = f" ({left_out} more of these since the last line)" if left_out else ""
        detail = f": {failure.detail}" if failure.detail else ""
        with contextlib.suppress(Exception):  # a log that cannot be written must not change an answer
            logger.error("%s [%s%s]%s", failure.sentence, kind, detail, more)

    def _claim(self, cause: str) -> int | None:
        """Return the number of failures of this cause that were not logged, if a line is due; else ``None``."""
        _forks.check()
        with self._lock:
            now = self._clock()
            seen = self._seen.get(cause)
            if seen is not None and now - seen.at < INTERVAL_SECONDS:
                seen.left_out += 1
                return None
            left_out = 0 if seen is None else seen.left_out
            self._seen.pop(cause, None)  # the order of the dict is the order of the last lines
            if len(self._seen) >= MAX_CAUSES:
                del self._seen[next(iter(self._seen))]
            self._seen[cause] = _Seen(now)
            return left_out

    def _forget(self) -> None:
        """Start anew in a child. A thread of the parent may have held the lock, and changed the causes, at the fork."""
        self._lock = threading.Lock()
        self._seen = {}


outages = OutageLog()
"""The log of this process."""


def unavailable(failure: Failure, error: BaseException | None = None, code: object = None) -> StoreUnavailable:
    """Log a failure, and make the `StoreUnavailable` to raise from ``error``.

    Args:
        failure: the cause in words.
        error: the driver's exception.
        code: the driver's code of the error, such as an SQLSTATE.
    """
    kind = "powauth" if error is None else kind_of(error)
    outages.write(failure, kind if code is None else f"{kind} {code}")
    words = f"{failure.sentence} ({failure.detail})" if failure.detail else failure.sentence
    made = StoreMissing(words) if failure.missing else StoreUnavailable(words)
    made.logged = True
    return made


def report(error: StoreUnavailable) -> None:
    """Log a `StoreUnavailable` that is not logged yet: one of an app's own backend or users context.

    Only class names and the message of the `StoreUnavailable` are written. The message of its cause may hold a secret.
    """
    first: BaseException | None = error
    while isinstance(first, StoreUnavailable):
        if first.logged:
            return
        first.logged = True
        error, first = first, first.__cause__
    outages.write(Failure(str(error)), type(error).__name__ if first is None else kind_of(first))


def kind_of(error: BaseException) -> str:
    """Return the class of an exception as an operator would look it up, such as ``psycopg.errors.UndefinedTable``."""
    kind = type(error)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"


def one_line(text: object) -> str:
    """Return the first line of a driver's message, printable and not too long.

    >>> one_line('relation "x" does not exist' + chr(10) + "LINE 1: select")
    'relation "x" does not exist'
    """
    line = str(text).strip().partition("\n")[0].strip()[:MAX_LENGTH]
    return "".join(character if character.isprintable() else "?" for character in line)
