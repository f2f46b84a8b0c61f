"""The apps that `benchmarks.end_to_end` puts behind servers, by the name in ``POWAUTH_BENCH_APP``."""

import os
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from benchmarks.contenders import contenders
from benchmarks.contenders.base import ASGIApp, Place, Receive, Scope, Send
from benchmarks.contenders.plain import anyone, asgi_app, wsgi_app
from benchmarks.workers import quiet
from powauth.backends.base import drive


def _with_vary() -> ASGIApp:
    """Return the app without authentication plus the one header that powauth adds, to show the cost of writing it."""
    app = asgi_app(anyone)

    async def with_vary(scope: Scope, receive: Receive, send: Send) -> None:
        def sends(message: Any) -> Awaitable[None]:
            if message["type"] == "http.response.start":
                message["headers"].append((b"vary", b"Cookie"))
            return send(message)

        await app(scope, receive, sends)

    return with_vary


BARE: dict[str, Callable[[], Any]] = {
    "bare-asgi": lambda: asgi_app(anyone),
    "bare-asgi-vary": _with_vary,
    "bare-wsgi": lambda: wsgi_app(anyone),
}
"""The apps without authentication."""


_opened: list[Any] = []
"""Objects that stay open until the process ends."""


async def _layered(name: str) -> Any:
    opened = contenders()[name].open(Place(Path(tempfile.mkdtemp(dir=Path.cwd()))))
    _opened.append(opened)
    return (await opened.__aenter__()).layered


def make() -> Any:
    """Return an app, for uvicorn's ``--factory`` and for gunicorn.

    A server's event loop may run already, so this supports only contenders whose opening never suspends.
    """
    quiet()
    name = os.environ["POWAUTH_BENCH_APP"]
    if name in BARE:
        return BARE[name]()
    return drive(_layered(name))
