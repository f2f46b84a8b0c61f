"""The parts of a contender: an app with its layer, the app without it, and the request that signs in."""

import importlib.util
from collections.abc import AsyncIterator, Awaitable, Callable, MutableMapping
from contextlib import AbstractAsyncContextManager, AbstractContextManager, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

EMAIL = "ada@example.org"
PASSWORD = "five brown owls hoot"
READ_PATH = "/me"
"""The path at which every app returns the signed-in user's e-mail address. Anybody else gets a 401."""

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
ASGIApp = Callable[[Scope, Receive, Send], Awaitable[None]]
Interface = Literal["asgi", "wsgi"]


@dataclass(frozen=True)
class Place:
    """The resources of a contender.

    Attributes:
        directory: a new one on the disk, for databases and stores.
        redis_url: of a server of the benchmark's own; empty if there is none.
    """

    directory: Path
    redis_url: str = ""


@dataclass(frozen=True)
class Login:
    """The request that signs in."""

    path: str = "/login"
    body: bytes = b""
    content_type: str = "application/x-www-form-urlencoded"


@dataclass(frozen=True)
class Pair:
    """The same app twice.

    Attributes:
        layered: with the layer; it answers `READ_PATH` with the e-mail address of the user whose cookie it is given.
        bare: without; it answers as if that user were signed in, from a constant.
        login: the sign-in of ``layered``. Whatever cookies it sets are what later requests present.
        noting: notes the SQL statements that are sent, while it is open; ``None`` where there is no database.
        settle: what has to be awaited after the app stood still, before it works as one that never does.
    """

    layered: Any
    bare: Any
    login: Login = field(default_factory=Login)
    noting: Callable[[], AbstractContextManager[list[str]]] | None = None
    settle: Callable[[], Awaitable[None]] | None = None


@dataclass(frozen=True)
class Contender:
    """One row of the comparison.

    Attributes:
        name: on the command line.
        title: in the tables.
        interface: what its apps are called by.
        open: makes the pair, and closes what it opened. WSGI contenders await nothing in it.
        keeps: where the session is, and what of the user.
        checks: what a request is checked for; and what is not comparable.
        needs: modules without which it is left out.
        redis: whether it needs the Redis server.
        guarded: whether its page answers 401 to anybody who is not signed in.
    """

    name: str
    title: str
    interface: Interface
    open: Callable[[Place], AbstractAsyncContextManager[Pair]]
    keeps: str
    checks: str
    needs: tuple[str, ...] = ()
    redis: bool = False
    guarded: bool = True

    def missing(self) -> list[str]:
        """The modules of `needs` that are not installed."""
        return [name for name in self.needs if importlib.util.find_spec(name) is None]


def constant(
    layered: Callable[[], Any], bare: Callable[[], Any], login: Login | None = None
) -> Callable[[Place], AbstractAsyncContextManager[Pair]]:
    """Return an ``open`` for apps that need no closing. Both arguments are functions that make an app."""

    @asynccontextmanager
    async def open_pair(place: Place) -> AsyncIterator[Pair]:
        del place
        yield Pair(layered(), bare(), Login() if login is None else login)

    return open_pair
