"""Requests without a server: the calls of ASGI and WSGI that a server would make, made by hand."""

import io
from collections.abc import MutableMapping, Sequence
from http.cookies import SimpleCookie
from typing import Any, NamedTuple

HOST = "app.example"
BROWSER_HEADERS = (
    ("host", HOST),
    ("user-agent", "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"),
    ("accept", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"),
    ("accept-language", "en-GB,en;q=0.5"),
    ("accept-encoding", "gzip, deflate, br"),
    ("connection", "keep-alive"),
)
OTHER_COOKIE = "theme=dark"
"""Another cookie of a browser, which comes first."""


class Answer(NamedTuple):
    """An app's answer.

    Attributes:
        cookies: the cookies that it sets, in the form of a ``Cookie`` header.
    """

    status: int
    body: bytes
    cookies: str


def cookie_header(set_cookies: Sequence[str]) -> str:
    """Return the ``Cookie`` header of a client that received these ``Set-Cookie`` headers."""
    jar: SimpleCookie = SimpleCookie()
    for header in set_cookies:
        jar.load(header)
    return "; ".join(f"{morsel.key}={morsel.coded_value}" for morsel in jar.values() if morsel.value)


def asgi_scope(path: str, cookie: bytes | None, *, method: str = "GET", content_type: str = "") -> dict[str, Any]:
    """Return a new scope."""
    headers = [(name.encode(), value.encode()) for name, value in BROWSER_HEADERS]
    if content_type:
        headers.append((b"content-type", content_type.encode()))
    return scope_like(_scope(path, method, headers), cookie)


def _scope(path: str, method: str, headers: list[tuple[bytes, bytes]]) -> dict[str, Any]:
    return {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.3"},
        "http_version": "1.1",
        "server": ("127.0.0.1", 8000),
        "client": ("192.0.2.1", 50_000),
        "scheme": "https",
        "root_path": "",
        "method": method,
        "path": path,
        "raw_path": path.encode(),
        "query_string": b"",
        "headers": headers,
    }


def scope_like(template: dict[str, Any], cookie: bytes | None) -> dict[str, Any]:
    """Return a scope with new state and headers for another request of that kind. It is cheap, because it is timed.

    The cookie is copied: a server reads it from the wire, so its hash has not been computed.
    """
    headers = template["headers"]
    if cookie is not None:
        headers = [*headers, (bytes(bytearray(b"cookie")), bytes(bytearray(cookie)))]
    return {**template, "headers": headers, "state": {}}


async def ask_asgi(app: Any, scope: MutableMapping[str, Any], body: bytes = b"") -> Answer:
    """Send one request, and return its whole answer."""
    sent: list[MutableMapping[str, Any]] = []
    bodies = [{"type": "http.request", "body": body, "more_body": False}]

    async def receive() -> MutableMapping[str, Any]:
        return bodies.pop() if bodies else {"type": "http.disconnect"}

    async def send(message: MutableMapping[str, Any]) -> None:
        sent.append(message)

    if body:
        scope["headers"] = [*scope["headers"], (b"content-length", b"%d" % len(body))]
    await app(scope, receive, send)
    start = next(message for message in sent if message["type"] == "http.response.start")
    content = b"".join(message.get("body", b"") for message in sent if message["type"] == "http.response.body")
    set_cookies = [value.decode("latin-1") for name, value in start["headers"] if name.lower() == b"set-cookie"]
    return Answer(start["status"], content, cookie_header(set_cookies))


def wsgi_environ(path: str, *, method: str = "GET", content_type: str = "", body: bytes = b"") -> dict[str, Any]:
    """Return an environ without a cookie."""
    environ: dict[str, Any] = {
        "REQUEST_METHOD": method,
        "SCRIPT_NAME": "",
        "PATH_INFO": path,
        "QUERY_STRING": "",
        "SERVER_NAME": "127.0.0.1",
        "SERVER_PORT": "8000",
        "SERVER_PROTOCOL": "HTTP/1.1",
        "REMOTE_ADDR": "192.0.2.1",
        "wsgi.version": (1, 0),
        "wsgi.url_scheme": "https",
        "wsgi.input": io.BytesIO(body),
        "wsgi.errors": io.StringIO(),
        "wsgi.multithread": False,
        "wsgi.multiprocess": False,
        "wsgi.run_once": False,
    }
    if content_type:
        environ["CONTENT_TYPE"] = content_type
    if body:
        environ["CONTENT_LENGTH"] = str(len(body))
    for name, value in BROWSER_HEADERS:
        environ[f"HTTP_{name.upper().replace('-', '_')}"] = value
    return environ


def ask_wsgi(app: Any, environ: dict[str, Any]) -> Answer:
    """Send one request, and return its whole answer."""
    started: list[tuple[str, list[tuple[str, str]]]] = []

    def start_response(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
        del exc_info
        started.append((status, headers))

    parts = app(environ, start_response)
    try:
        content = b"".join(parts)
    finally:
        close = getattr(parts, "close", None)
        if close is not None:
            close()
    status, headers = started[-1]
    set_cookies = [value for name, value in headers if name.lower() == "set-cookie"]
    return Answer(int(status[:3]), content, cookie_header(set_cookies))
