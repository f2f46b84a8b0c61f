"""One contender during a measurement: signed in to by its own API, checked, and called in blocks."""

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
"""The number of sessions, presented in turn. A single one would favour a contender that caches the last session."""

WARM_UP = 200
"""Requests before the timed ones: CPython specialises code that has run a few times."""

YARDSTICK_STEPS = 1_000


class Sample(NamedTuple):
    """One sample of a contender: two blocks, and the yardstick before, between and after them.

    Attributes:
        layered: seconds for each request of the app with its layer.
        bare: the same without the layer.
        yards: seconds of the yardstick, three times.
        layered_first: whether the block with the layer came first.
    """

    layered: float
    bare: float
    yards: tuple[float, float, float]
    layered_first: bool


class Counts(NamedTuple):
    """The work of engines for an authenticated request, counted at the engine. ``None`` means that there is no engine.

    Attributes:
        round_trips: the round trips to Redis.
        commands: the commands that Redis ran.
        writes: the commands or statements that change something.
        statements: the SQL statements.
    """

    round_trips: float | None = None
    commands: float | None = None
    writes: float | None = None
    statements: float | None = None


def yardstick() -> float:
    """Return the seconds of a fixed piece of work, which show the speed of the processor at this moment.

    The work consists of calls, attribute and dict look-ups, small objects and hashes, as a request does.
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
    """An open contender. Use it as a context manager.

    Raises:
        AssertionError: if it admits a client that is not signed in, or refuses one that is. Its figures would be
            meaningless.
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
        """Await it on the event loop. WSGI has no loop, because some libraries refuse to work on a loop's thread."""
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
        """Send one request for the page of the signed-in user."""
        app = self.pair.layered if layered else self.pair.bare
        if self.contender.interface == "asgi":
            scope = asgi_scope(READ_PATH, None if cookie is None else cookie.encode())
            return self._runner.run(ask_asgi(app, scope))
        environ = wsgi_environ(READ_PATH)
        if cookie is not None:
            environ["HTTP_COOKIE"] = cookie
        return ask_wsgi(app, environ)

    def check(self) -> None:
        """Check that signed-in clients are admitted and, if the contender is guarded, that all others are refused."""
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
        """Bring the process into the state of a busy one; see `Pair.settle`. Then present each session once."""
        if self.pair.settle is not None:
            self._to_end(self.pair.settle())
            for cookie in self.cookies:
                self.ask(cookie)

    def block(self, requests: int, *, layered: bool) -> float:
        """Return the seconds for each of ``requests`` sequential requests, including the time to make the requests."""
        app = self.pair.layered if layered else self.pair.bare
        if layered:
            self.settle()
        gc.collect()
        if self.contender.interface == "asgi":
            return self._runner.run(_asgi_block(app, self.cookies, requests)) / requests
        return _wsgi_block(app, self.cookies, requests) / requests

    def requests_within(self, seconds: float) -> int:
        """Estimate from a few requests how many requests of the layered app take that long: the size of a block."""
        return max(int(seconds / self.block(20, layered=True)), 10)

    def sample(self, requests: int, *, layered_first: bool) -> Sample:
        """Measure both blocks, and three yardsticks."""
        yardstick()  # refill the processor's caches after the last garbage collection, before the timed yardstick
        first = yardstick()
        one = self.block(requests, layered=layered_first)
        second = yardstick()
        other = self.block(requests, layered=not layered_first)
        third = yardstick()
        layered, bare = (one, other) if layered_first else (other, one)
        return Sample(layered, bare, (first, second, third), layered_first)


def forged(cookies: str) -> str:
    """Return the cookies, each with one character changed near the end of its value, where a signature would be."""

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
        """Discard the message."""

    start = perf_counter()
    for cookie in itertools.islice(itertools.cycle(presented), requests):
        await app(scope_like(template, cookie), receive, send)
    return perf_counter() - start


def _wsgi_block(app: Any, cookies: list[str], requests: int) -> float:
    template = wsgi_environ(READ_PATH)

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        """Discard the status and headers."""

    start = perf_counter()
    for cookie in itertools.islice(itertools.cycle(cookies), requests):
        parts = app({**template, "HTTP_COOKIE": cookie}, start_response)
        for _ in parts:
            pass
        close = getattr(parts, "close", None)
        if close is not None:
            close()
    return perf_counter() - start
