"""One contender under the clock: signed in to through its own door, checked, and called in blocks."""

import asyncio
import gc
import itertools
from collections.abc import Awaitable
from contextlib import AbstractAsyncContextManager
from hashlib import blake2b
from time import perf_counter
from typing import Any, NamedTuple, TypeVar

from benchmarks.contenders.base import EMAIL, READ_PATH, Contender, Pair, Place
from benchmarks.requests import OTHER_COOKIE, Answer, asgi_scope, ask_asgi, ask_wsgi, scope_like, wsgi_environ
from powauth.backends.base import drive

T = TypeVar("T")

SESSIONS = 16
"""Signed in to before, and presented in turn: one alone would flatter whoever remembers the last."""

WARM_UP = 200
"""Requests before any are timed: CPython specialises code that has run a few times."""

YARDSTICK_STEPS = 1_000


class Sample(NamedTuple):
    """One visit to a contender: two blocks, and the yardstick before, between and after them.

    Attributes:
        layered: seconds for each request of the app with its layer.
        bare: the same without.
        yards: seconds of the yardstick, three times.
        layered_first: which of the two blocks came first.
    """

    layered: float
    bare: float
    yards: tuple[float, float, float]
    layered_first: bool


class Counts(NamedTuple):
    """What an authenticated request asks of engines outside of the process, counted there; ``None`` is "has none".

    Attributes:
        round_trips: to Redis.
        commands: that Redis ran.
        writes: those of them, or of the statements, that change something.
        statements: of SQL.
    """

    round_trips: float | None = None
    commands: float | None = None
    writes: float | None = None
    statements: float | None = None


def yardstick() -> float:
    """Seconds of a fixed piece of work: what the processor is worth at this moment.

    Calls, attribute and dict lookups, small objects, and hashes: what a request is made of.
    """
    start = perf_counter()
    kept: dict[str, tuple[int, bytes]] = {}
    for number in range(YARDSTICK_STEPS):
        digest = blake2b(number.to_bytes(8, "big"), digest_size=16).hexdigest()
        kept[digest] = (number, digest.encode("latin-1"))
        if kept[digest][1].startswith(b"powauth"):
            raise AssertionError("16 bytes of hash in base 16 have no such letters")
    return perf_counter() - start


class Subject:
    """A contender, opened. Use it as a context manager.

    Raises:
        AssertionError: it lets in who is not signed in, or does not let in who is: its figures would mean nothing.
    """

    def __init__(self, contender: Contender, place: Place) -> None:
        self.contender = contender
        self.place = place
        self.cookies: list[str] = []
        self._runner = asyncio.Runner()
        self._opened: AbstractAsyncContextManager[Pair] | None = None
        self._pair: Pair | None = None

    @property
    def pair(self) -> Pair:
        assert self._pair is not None, "not opened"
        return self._pair

    def __enter__(self) -> "Subject":
        self._opened = self.contender.open(self.place)
        self._pair = self._to_end(self._opened.__aenter__())
        try:
            self.cookies = [self._sign_in() for _ in range(SESSIONS)]
            self.check()
            self.block(WARM_UP, layered=True)
            self.block(WARM_UP, layered=False)
        except BaseException:
            self.__exit__()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        if self._opened is not None:
            self._to_end(self._opened.__aexit__(None, None, None))
        self._runner.close()

    def _to_end(self, awaitable: Awaitable[T]) -> T:
        """On the event loop; without one for WSGI, where some libraries refuse to work on a loop's thread."""
        coroutine = _awaited(awaitable)
        return self._runner.run(coroutine) if self.contender.interface == "asgi" else drive(coroutine)

    def _sign_in(self) -> str:
        login = self.pair.login
        if self.contender.interface == "asgi":
            scope = asgi_scope(login.path, None, method="POST", content_type=login.content_type)
            answer = self._runner.run(ask_asgi(self.pair.layered, scope, login.body))
        else:
            environ = wsgi_environ(login.path, method="POST", content_type=login.content_type, body=login.body)
            answer = ask_wsgi(self.pair.layered, environ)
        assert answer.status < 400, f"{self.contender.name}: the sign-in was answered {answer}"
        assert answer.cookies, f"{self.contender.name}: the sign-in set no cookie"
        return f"{OTHER_COOKIE}; {answer.cookies}"

    def ask(self, cookie: str | None, *, layered: bool = True) -> Answer:
        """One request for the page of the signed-in user."""
        app = self.pair.layered if layered else self.pair.bare
        if self.contender.interface == "asgi":
            scope = asgi_scope(READ_PATH, None if cookie is None else cookie.encode())
            return self._runner.run(ask_asgi(app, scope))
        environ = wsgi_environ(READ_PATH)
        if cookie is not None:
            environ["HTTP_COOKIE"] = cookie
        return ask_wsgi(app, environ)

    def check(self) -> None:
        """It lets in all who are signed in, and (unless its handler asks for nobody) nobody else."""
        for cookie in self.cookies:
            for layered in (True, False):
                answer = self.ask(cookie, layered=layered)
                assert answer.status == 200, f"{self.contender.name}: {answer}"
                assert EMAIL.encode() in answer.body, f"{self.contender.name}: {answer}"
        if self.contender.guarded:
            strangers: list[str | None] = [None, OTHER_COOKIE, forged(self.cookies[0])]
            for stranger in strangers:
                answer = self.ask(stranger)
                assert answer.status == 401, f"{self.contender.name} lets {stranger!r} in: {answer}"

    def settle(self) -> None:
        """What a process that never stands still has behind it: see `Pair.settle`; then each session is seen once."""
        if self.pair.settle is not None:
            self._to_end(self.pair.settle())
            for cookie in self.cookies:
                self.ask(cookie)

    def block(self, requests: int, *, layered: bool) -> float:
        """Seconds for each of so many requests, one after the other; their making is included."""
        app = self.pair.layered if layered else self.pair.bare
        if layered:
            self.settle()
        gc.collect()
        if self.contender.interface == "asgi":
            return self._runner.run(_asgi_block(app, self.cookies, requests)) / requests
        return _wsgi_block(app, self.cookies, requests) / requests

    def requests_within(self, seconds: float) -> int:
        """How many requests of the layered app take that long, from a few: the size of a block."""
        return max(int(seconds / self.block(20, layered=True)), 10)

    def sample(self, requests: int, *, layered_first: bool) -> Sample:
        """Both blocks, and three yardsticks."""
        yardstick()  # what the collection before has thrown out of the caches is not for the yardstick to fetch
        first = yardstick()
        one = self.block(requests, layered=layered_first)
        second = yardstick()
        other = self.block(requests, layered=not layered_first)
        third = yardstick()
        layered, bare = (one, other) if layered_first else (other, one)
        return Sample(layered, bare, (first, second, third), layered_first)


def forged(cookies: str) -> str:
    """The same cookies, each with one character of its value changed: near the end, where a signature would be."""

    def change(pair: str) -> str:
        place = len(pair) - 4
        return pair[:place] + ("A" if pair[place] != "A" else "B") + pair[place + 1 :]

    return "; ".join(pair if pair == OTHER_COOKIE else change(pair) for pair in cookies.split("; "))


async def _awaited(awaitable: Awaitable[T]) -> T:
    return await awaitable


async def _asgi_block(app: Any, cookies: list[str], requests: int) -> float:
    template = asgi_scope(READ_PATH, None)
    presented = [cookie.encode() for cookie in cookies]

    async def receive() -> dict[str, Any]:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        """Nobody is there."""

    start = perf_counter()
    for cookie in itertools.islice(itertools.cycle(presented), requests):
        await app(scope_like(template, cookie), receive, send)
    return perf_counter() - start


def _wsgi_block(app: Any, cookies: list[str], requests: int) -> float:
    template = wsgi_environ(READ_PATH)

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        """Nobody is there."""

    start = perf_counter()
    for cookie in itertools.islice(itertools.cycle(cookies), requests):
        parts = app({**template, "HTTP_COOKIE": cookie}, start_response)
        for _ in parts:
            pass
        close = getattr(parts, "close", None)
        if close is not None:
            close()
    return perf_counter() - start
