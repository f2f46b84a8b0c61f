"""The pages as an ASGI app, for any framework that can mount one."""

from collections.abc import Callable, Mapping
from typing import Any, Unpack
from urllib.parse import quote

from powauth.integrations.asgi import Receive, Scope, Send, request_auth
from powauth.pages.base import BasePages
from powauth.pages.layouts import Surroundings, plainly
from powauth.pages.request import ALONE, BadRequest, PageRequest, PageResponse
from powauth.pages.site import PagesOptions, framed_pages_of
from powauth.plug import SessionAuth


class PagesApp:
    """All pages as one ASGI app. It answers unknown paths with 404.

    The authenticator's middleware must run in front of it. If it is mounted below a path, links and redirects include
    that path.

    Args:
        auth: the authenticator, or `BasePages` (such as `Pages`) made from it.
        options: the options of `Pages`, if ``auth`` is an authenticator.
    """

    def __init__(self, auth: SessionAuth[Any, Any] | BasePages, **options: Unpack[PagesOptions]) -> None:
        self.site = framed_pages_of(auth, options)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one connection."""
        if scope["type"] == "http":
            path, mount = _below_mount(scope)
            await respond(self.site, scope, receive, send, path, mount)
        elif scope["type"] == "websocket":
            await send({"type": "websocket.close", "code": 1000})
        elif scope["type"] == "lifespan":
            await _lifespan(receive, send)


class PageApp:
    """One page as an ASGI app, for a router that has matched its path.

    Args:
        site: the pages.
        path: the path of the page.
        framework: returns the variables that the framework gives to templates, from the scope.
    """

    def __init__(
        self, site: BasePages, path: str, framework: Callable[[Scope], Mapping[str, object]] = lambda _: {}
    ) -> None:
        self.site = site
        self.path = path
        self._framework = framework

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        full = full_path(scope)
        mount = full.removesuffix(self.path)
        path = self.path if mount != full else full

        def render(template: Any, variables: Mapping[str, object]) -> str:
            return plainly(template, {**self._framework(scope), **variables})

        await respond(self.site, scope, receive, send, path, mount, Surroundings(render=render))


async def respond(
    site: BasePages,
    scope: Scope,
    receive: Receive,
    send: Send,
    path: str,
    mount: str,
    surroundings: Surroundings = ALONE,
) -> None:
    """Answer a request with its page. ``path`` is its path below ``mount``; both are decoded.

    Raises:
        ConfigError: if the authenticator's middleware has not run.
    """
    reader = _Body(receive)
    auth = request_auth(scope, site.current_user_key)
    query = scope.get("query_string", b"").decode("latin-1")
    response = await site.respond(PageRequest(path, quote(mount), query, auth, reader.read, surroundings))
    await _send(send, response)


def full_path(scope: Scope) -> str:
    """Return the decoded path that the client requested. It includes the ``root_path`` that some routers remove."""
    path: str = scope["path"]
    root: str = scope.get("root_path", "").rstrip("/")
    return path if path == root or path.startswith(f"{root}/") else root + path


def _below_mount(scope: Scope) -> tuple[str, str]:
    full = full_path(scope)
    root: str = scope.get("root_path", "").rstrip("/")
    return full.removeprefix(root), root


class _Body:
    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self._more = True

    async def read(self) -> bytes:
        """Return the next part that is not empty; ``b""`` at the end.

        Raises:
            BadRequest: if the client disconnects before the end.
        """
        while self._more:
            message = await self._receive()
            if message["type"] == "http.disconnect":
                raise BadRequest(400, "bad_request")
            self._more = message.get("more_body", False)
            part: bytes = message.get("body", b"")
            if part:
                return part
        return b""


async def _send(send: Send, response: PageResponse) -> None:
    headers = [(name.lower().encode("ascii"), value.encode("latin-1")) for name, value in response.headers]
    await send({"type": "http.response.start", "status": response.status, "headers": headers})
    await send({"type": "http.response.body", "body": response.body})


async def _lifespan(receive: Receive, send: Send) -> None:
    while (await receive())["type"] == "lifespan.startup":
        await send({"type": "lifespan.startup.complete"})
    await send({"type": "lifespan.shutdown.complete"})
