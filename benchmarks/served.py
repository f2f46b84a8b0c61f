"""The apps that `benchmarks.end_to_end` puts behind servers, by the name in ``POWAUTH_BENCH_APP``."""

import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.contenders import contenders
from benchmarks.contenders.base import Place
from benchmarks.contenders.plain import anyone, asgi_app, wsgi_app
from benchmarks.workers import quiet
from powauth.backends.base import drive

BARE: dict[str, Callable[[], Any]] = {"bare-asgi": lambda: asgi_app(anyone), "bare-wsgi": lambda: wsgi_app(anyone)}
"""Those without authentication."""


_opened: list[Any] = []
"""What is open until the process ends."""


async def _layered(name: str) -> Any:
    opened = contenders()[name].open(Place(Path(tempfile.mkdtemp(dir=Path.cwd()))))
    _opened.append(opened)
    return (await opened.__aenter__()).layered


def make() -> Any:
    """An app, for uvicorn's ``--factory`` and for gunicorn.

    A server's event loop may run already, so only contenders whose opening never suspends can be had.
    """
    quiet()
    name = os.environ["POWAUTH_BENCH_APP"]
    if name in BARE:
        return BARE[name]()
    return drive(_layered(name))
