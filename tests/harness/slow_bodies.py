"""Clients that do something else before they send the body of a request."""

import io
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import httpx

from harness.pages_support import Site


class SlowBody(io.BytesIO):
    """A body whose client does something else before it sends it."""

    def __init__(self, body: bytes, work: Callable[[], object]) -> None:
        super().__init__(body)
        self.work: Callable[[], object] | None = work

    def read(self, size: int | None = -1) -> bytes:
        work, self.work = self.work, None
        if work is not None:
            work()
        return super().read(size)


@contextmanager
def during_the_body(site: Site, work: Callable[[], object]) -> Iterator[None]:
    """Do work while a WSGI app waits for the body of the next request. The work may send requests of its own."""
    transport = site.transport
    assert isinstance(transport, httpx.WSGITransport)
    app = transport.app

    def slow(environ: Any, start_response: Any) -> Any:
        transport.app = app
        environ["wsgi.input"] = SlowBody(environ["wsgi.input"].read(), work)
        return app(environ, start_response)

    transport.app = slow
    yield
    transport.app = app
