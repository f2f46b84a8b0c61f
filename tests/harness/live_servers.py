"""Real servers in a thread of the test, and raw requests to them: uvicorn for ASGI, the standard library for WSGI."""

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.client import HTTPResponse
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import httpx
import uvicorn

from harness.support import Kind


class _Quiet(WSGIRequestHandler):
    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        del code, size


@contextmanager
def serving(app: Any, kind: Kind, **options: Any) -> Iterator[tuple[str, int]]:
    """Serve an app; gives the address. ``options`` are uvicorn's."""
    with _uvicorn(app, options) if kind == "asgi" else _wsgiref(app) as address:
        yield address


@contextmanager
def _uvicorn(app: Any, options: dict[str, Any]) -> Iterator[tuple[str, int]]:
    listener = socket.create_server(("127.0.0.1", options.get("port", 0)))
    config = uvicorn.Config(app, **{"log_level": "warning", "lifespan": "off", "ws": "none"} | options)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]})
    thread.start()
    try:
        yield listener.getsockname()
    finally:
        server.should_exit = True
        thread.join(30)
        listener.close()


@contextmanager
def _wsgiref(app: Any) -> Iterator[tuple[str, int]]:
    with make_server("127.0.0.1", 0, app, handler_class=_Quiet) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            yield ("127.0.0.1", server.server_port)
        finally:
            server.shutdown()
            thread.join(30)


def send_raw(address: tuple[str, int], method: str, path: str, *fields: tuple[str, str]) -> httpx.Response:
    """Send a request with exactly these header fields, and ``Connection: close``."""
    lines = [f"{method} {path} HTTP/1.1", *(f"{name}: {value}" for name, value in fields), "Connection: close", "", ""]
    with socket.create_connection(address, 30) as connection:
        connection.sendall("\r\n".join(lines).encode("latin-1"))
        answer = HTTPResponse(connection, method=method)
        answer.begin()
        return httpx.Response(answer.status, headers=answer.getheaders(), content=answer.read())
