"""A server that gives several requests one ``scope["state"]``, as Hypercorn 0.17 does with those of one connection."""

import asyncio
from typing import Any

import pytest

from harness.support import SECRET, MemoryUsers
from powauth import SessionAuth
from powauth.backends.memory import MemoryBackend
from powauth.integrations.asgi import SessionAuthMiddleware, request_auth

ADA, BOB = "ada@example.org", "bob@example.org"


class Shop:
    """An app of customers and administrators, and a connection whose requests share one state."""

    def __init__(self) -> None:
        users = MemoryUsers()
        for email in (ADA, BOB):
            users.add(email)
        backend = MemoryBackend()
        options: dict[str, Any] = {"secret_key": SECRET, "users": users, "backend": backend, "throttle": None}
        self.auth: SessionAuth[Any, Any] = SessionAuth(**options)
        admins: SessionAuth[Any, Any] = SessionAuth(**options, session_key="admin", current_user_key="current_admin")
        self.app = SessionAuthMiddleware(SessionAuthMiddleware(self._handler, admins), self.auth)
        self.state: dict[str, Any] = {"pool": "of the lifespan"}
        self.held: dict[str, asyncio.Event] = {}

    async def _handler(self, scope: Any, receive: Any, send: Any) -> None:
        del receive
        email = scope["path"].removeprefix("/login/")
        if email != scope["path"]:
            for key in ("current_user", "current_admin"):
                await request_auth(scope, key).sign_in(email=email, password="correct horse")
        if scope["path"] in self.held:
            await self.held[scope["path"]].wait()
        scope["state"]["seen"] = scope["path"]
        if scope["type"] == "websocket":
            await send({"type": "websocket.accept"})
            await send({"type": "websocket.close", "code": 1000})
            return
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def request(self, path: str, cookie: str = "", kind: str = "http") -> tuple[Any, Any, str]:
        """Send a request. Return its users as the app saw them, and the cookies that it was given."""
        cookies: list[str] = []
        headers = [(b"cookie", cookie.encode())] if cookie else []
        scope: dict[str, Any] = {"type": kind, "method": "GET", "path": path, "query_string": b"", "headers": headers}
        scope["state"] = self.state

        async def receive() -> Any:
            return {"type": "http.request"} if kind == "http" else {"type": "websocket.connect"}

        async def send(message: Any) -> None:
            cookies.extend(
                value.decode().partition(";")[0] for name, value in message.get("headers", []) if name == b"set-cookie"
            )

        await self.app(scope, receive, send)
        assert scope["state"]["pool"] == "of the lifespan"
        assert scope["state"]["seen"] == path, "what the app keeps in the state, a middleware outside can read"
        found = [scope["state"][key] for key in ("current_user", "current_admin")]
        customer, admin = (None if user is None else user.email for user in found)
        return customer, admin, "; ".join(cookies)


def test_no_request_gets_the_user_of_another_one_over_its_connection() -> None:
    async def work() -> None:
        shop = Shop()
        ada = (await shop.request(f"/login/{ADA}"))[2]
        bob = (await shop.request(f"/login/{BOB}"))[2]
        for cookie, email in ((ada, ADA), (bob, BOB), ("", None), (ada, ADA), ("__Host-auth=forged", None)):
            assert (await shop.request("/", cookie))[:2] == (email, email)
        only_admin = ada.partition("; ")[0]
        assert (await shop.request("/", only_admin))[:2] == (None, ADA)

    asyncio.run(work())


@pytest.mark.parametrize("first", [ADA, BOB, None])
def test_requests_at_the_same_time_do_not_change_the_user_of_each_other(first: str | None) -> None:
    async def work() -> None:
        shop = Shop()
        cookies = {email: (await shop.request(f"/login/{email}"))[2] for email in (ADA, BOB)} | {None: ""}
        shop.state.clear()
        shop.state["pool"] = "of the lifespan"
        order = [first, *(email for email in cookies if email != first)]
        shop.held = {f"/{email}": asyncio.Event() for email in order}
        tasks = [asyncio.create_task(shop.request(f"/{email}", cookies[email])) for email in order]
        for email in reversed(order):
            await asyncio.sleep(0)
            shop.held[f"/{email}"].set()
        assert [(await task)[:2] for task in tasks] == [(email, email) for email in order]

    asyncio.run(work())


def test_a_socket_does_not_get_the_user_of_another_request_over_its_connection() -> None:
    async def work() -> None:
        shop = Shop()
        ada = (await shop.request(f"/login/{ADA}"))[2]
        assert (await shop.request("/", ada))[:2] == (ADA, ADA)
        assert (await shop.request("/", kind="websocket"))[:2] == (None, None)

    asyncio.run(work())


def test_a_user_whom_the_app_has_assigned_for_this_request_is_taken() -> None:
    async def work() -> None:
        shop = Shop()
        shop.state["current_user"] = shop.state["current_admin"] = type("Somebody", (), {"email": "somebody"})
        assert (await shop.request("/"))[:2] == ("somebody", "somebody")

    asyncio.run(work())


def test_a_server_may_say_that_it_has_no_state() -> None:
    shop = Shop()
    seen: list[Any] = []

    async def page(scope: Any, receive: Any, send: Any) -> None:
        del receive, send
        seen.append(scope["state"]["current_user"])

    scope: Any = {"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": [], "state": None}
    app: Any = SessionAuthMiddleware(page, shop.auth)
    asyncio.run(app(scope, None, None))
    assert seen == [None]
