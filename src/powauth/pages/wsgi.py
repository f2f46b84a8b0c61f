"""The pages as a WSGI app, for any framework that can mount one."""

from collections.abc import Iterable
from http import HTTPStatus
from typing import Any, Unpack
from urllib.parse import quote
from wsgiref.types import StartResponse, WSGIEnvironment

from powauth.backends.base import drive
from powauth.integrations.wsgi import request_auth
from powauth.pages.base import BasePages
from powauth.pages.layouts import Surroundings
from powauth.pages.request import ALONE, MAX_LENGTH_DIGITS, PageRequest, PageResponse
from powauth.pages.site import PagesOptions, framed_pages_of
from powauth.plug import SessionAuth
from powauth.request_auth import RequestAuth

PART_BYTES = 16_384


class PagesApp:
    """All pages as one WSGI app. It answers unknown paths with 404.

    The authenticator's middleware must run in front of it. If it is mounted below a path (``SCRIPT_NAME``), links and
    redirects include that path.

    Args:
        auth: the authenticator, or `BasePages` (such as `Pages`) made from it.
        options: the options of `Pages`, if ``auth`` is an authenticator.
    """

    def __init__(self, auth: SessionAuth[Any, Any] | BasePages, **options: Unpack[PagesOptions]) -> None:
        self.site = framed_pages_of(auth, options)

    def __call__(self, environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        """Serve one request."""
        mount = environ.get("SCRIPT_NAME", "").rstrip("/")
        response = respond(self.site, environ, environ.get("PATH_INFO", ""), mount)
        start_response(f"{response.status} {HTTPStatus(response.status).phrase}", response.headers)
        return [response.body]


def respond(
    site: BasePages, environ: WSGIEnvironment, path: str, mount: str, surroundings: Surroundings = ALONE
) -> PageResponse:
    """Answer a request with its page. ``path`` is its path below ``mount``; both are WSGI's latin-1 strings.

    Raises:
        ConfigError: if the authenticator's middleware has not run.
    """
    bound = request_auth(environ, site.current_user_key)
    auth = RequestAuth(bound.auth, bound.connection)
    query = environ.get("QUERY_STRING", "")
    reader = _Body(environ)
    page = PageRequest(path, quote(mount.encode("latin-1")), query, auth, reader.read, surroundings)
    return drive(site.respond(page))


class _Body:
    """Reads ``wsgi.input`` up to the announced length, or to its end if the server guarantees that it ends."""

    def __init__(self, environ: WSGIEnvironment) -> None:
        self._input = environ["wsgi.input"]
        announced = environ.get("CONTENT_LENGTH") or ""
        endless = environ.get("wsgi.input_terminated", False) and not announced
        # An invalid or too large length is refused before the body is read.
        a_number = announced.isascii() and announced.isdigit() and len(announced) <= MAX_LENGTH_DIGITS
        self._left = None if endless else int(announced) if a_number else 0

    async def read(self) -> bytes:
        wanted = PART_BYTES if self._left is None else min(PART_BYTES, self._left)
        part = self._input.read(wanted) if wanted else b""
        if self._left is not None:
            self._left -= len(part)
        return part
