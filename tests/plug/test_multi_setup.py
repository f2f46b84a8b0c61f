"""Users and admins with a `SessionAuth` each in one app; one browser signed in to both; nothing shared."""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from typing import Annotated, Any

import flask
import httpx
import litestar
import pytest
from fastapi import Depends, FastAPI

from harness.support import SECRET, Clock, Me, MemoryUsers, User
from powauth import ConfigError, RequestAuth, SessionAuth
from powauth.backends.base import drive
from powauth.backends.memory import MemoryBackend
from powauth.integrations.asgi import SessionAuthMiddleware
from powauth.integrations.fastapi import Auth
from powauth.integrations.flask import PowAuth
from powauth.integrations.litestar import CurrentRequestAuth, PowAuthPlugin
from powauth.sessions.store import CredentialsCache

PAGE = {"accept": "text/html"}
ADMIN_SECRET = "c4W8jQ2sYk6vNp0bRzXe5tLhGm9uDfAi3oKqT7Vw"


class Setups:
    """Two authenticators that share a backend, an app and a browser, and users of the same e-mail address."""

    def __init__(self) -> None:
        backend, self.clock = MemoryBackend(), Clock()
        self.users, self.admins = MemoryUsers(), MemoryUsers()
        self.ada = self.users.add("ada@example.org", "a user's pass phrase")
        boss = self.admins.add("ada@example.org", "an admin's pass phrase")
        self.admins.rows = {self.ada.id: replace(boss, id=self.ada.id)}  # the worst case: keys that collide
        self.people: SessionAuth[User, Me] = SessionAuth(
            secret_key=SECRET, users=self.users, backend=backend, clock=self.clock
        )
        self.staff: SessionAuth[User, Me] = SessionAuth(
            secret_key=ADMIN_SECRET,
            users=self.admins,
            store=CredentialsCache(backend, namespace="admins"),
            session_key="admin",
            current_user_key="current_admin",
            clock=self.clock,
        )

    def counts(self) -> tuple[int, int]:
        """How many sessions there are of users, and of admins."""
        now = self.people.now()
        return drive(self.people.store.count(now)), drive(self.staff.store.count(now))


def fastapi_app(setups: Setups) -> Any:
    app = FastAPI()
    app.add_middleware(SessionAuthMiddleware, auth=setups.people, sign_in_path="/login")
    app.add_middleware(SessionAuthMiddleware, auth=setups.staff, sign_in_path="/admin/login")
    people, staff = Auth(setups.people), Auth(setups.staff)

    def add(prefix: str, auth: Auth[User, Me]) -> None:
        @app.get(f"{prefix}/me")
        async def me(user: Annotated[User, Depends(auth.identity)]) -> dict[str, str]:
            return {"email": user.email}

        @app.get(f"{prefix}/fresh")
        async def fresh(user: Annotated[User, Depends(auth.fresh(timedelta(minutes=5)))]) -> str:
            return user.email

        @app.post(f"{prefix}/login")
        async def login(
            params: dict[str, str], bound: Annotated[RequestAuth[User, Me], Depends(auth.request_auth)]
        ) -> bool:
            return await bound.sign_in(params) is not None

        @app.post(f"{prefix}/logout")
        async def logout(bound: Annotated[RequestAuth[User, Me], Depends(auth.request_auth)]) -> None:
            await bound.sign_out()

    add("", people)
    add("/admin", staff)
    return httpx.ASGITransport(app)


def flask_app(setups: Setups) -> Any:
    app = flask.Flask("both")
    people = PowAuth(app, setups.people, sign_in_path="/login")
    staff = PowAuth(app, setups.staff, sign_in_path="/admin/login")

    def add(prefix: str, auth: PowAuth[User, Me, Me]) -> None:
        def login() -> Any:
            return flask.jsonify(auth.request_auth().sign_in(flask.request.get_json()) is not None)

        def logout() -> Any:
            auth.request_auth().sign_out()
            return {}

        views: Mapping[str, tuple[str, Callable[[], Any]]] = {
            "me": ("GET", auth.login_required(lambda: {"email": auth.current_user.email})),
            "fresh": ("GET", auth.fresh_login_required(within=timedelta(minutes=5))(lambda: auth.current_user.email)),
            "login": ("POST", login),
            "logout": ("POST", logout),
        }
        for name, (method, view) in views.items():
            app.add_url_rule(f"{prefix}/{name}", f"{prefix}/{name}", view, methods=[method])

    add("", people)
    add("/admin", staff)
    return httpx.WSGITransport(app)


def litestar_app(setups: Setups) -> Any:
    people = PowAuthPlugin(setups.people, sign_in_path="/login")
    staff = PowAuthPlugin(setups.staff, dependency="admin_auth", sign_in_path="/admin/login")

    @litestar.get("/me", guards=[people.require_user])
    async def me(request: litestar.Request[User, Any, Any]) -> dict[str, str]:
        return {"email": request.user.email}

    @litestar.get("/admin/me", guards=[staff.require_user])
    async def admin_me(request: litestar.Request[User, Any, Any]) -> dict[str, str]:
        return {"email": request.state.current_admin.email}

    @litestar.get("/fresh", guards=[people.require_fresh(timedelta(minutes=5))])
    async def fresh() -> None: ...

    @litestar.get("/admin/fresh", guards=[staff.require_fresh(timedelta(minutes=5))])
    async def admin_fresh() -> None: ...

    @litestar.post("/login")
    async def login(request_auth: CurrentRequestAuth[User, Me], request: litestar.Request[Any, Any, Any]) -> bool:
        return await request_auth.sign_in(await request.json()) is not None

    @litestar.post("/admin/login")
    async def admin_login(admin_auth: CurrentRequestAuth[User, Me], request: litestar.Request[Any, Any, Any]) -> bool:
        return await admin_auth.sign_in(await request.json()) is not None

    @litestar.post("/logout")
    async def logout(request_auth: CurrentRequestAuth[User, Me]) -> None:
        await request_auth.sign_out()

    @litestar.post("/admin/logout")
    async def admin_logout(admin_auth: CurrentRequestAuth[User, Me]) -> None:
        await admin_auth.sign_out()

    handlers = [me, admin_me, fresh, admin_fresh, login, admin_login, logout, admin_logout]
    app: Any = litestar.Litestar(handlers, plugins=[people, staff], logging_config=None)
    return httpx.ASGITransport(app)


class OneBrowser:
    """A browser in front of both setups, whatever the framework."""

    def __init__(self, make: Callable[[Setups], Any]) -> None:
        self.setups = Setups()
        self.transport = make(self.setups)
        self.cookies = httpx.Cookies()

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        if isinstance(self.transport, httpx.WSGITransport):
            with httpx.Client(transport=self.transport, base_url="https://app.example", cookies=self.cookies) as client:
                response = client.request(method, path, **options)
                self.cookies = client.cookies
                return response

        async def send() -> httpx.Response:
            async with httpx.AsyncClient(
                transport=self.transport, base_url="https://app.example", cookies=self.cookies
            ) as client:
                response = await client.request(method, path, **options)
                self.cookies = client.cookies
                return response

        return asyncio.run(send())

    def known(self) -> tuple[bool, bool]:
        """Whether the browser is a user, and an admin."""
        codes = [self.request("GET", path).status_code for path in ("/me", "/admin/me")]
        assert {*codes} <= {200, 401}
        return codes[0] == 200, codes[1] == 200

    def login(self, prefix: str, password: str) -> bool:
        response = self.request("POST", f"{prefix}/login", json={"email": "ada@example.org", "password": password})
        assert response.is_success
        found: bool = response.json()
        return found


@pytest.fixture(params=[fastapi_app, flask_app, litestar_app], ids=["fastapi", "flask", "litestar"])
def browser(request: pytest.FixtureRequest) -> OneBrowser:
    return OneBrowser(request.param)


def test_each_sign_in_is_for_its_own_setup(browser: OneBrowser) -> None:
    assert not browser.login("/admin", "a user's pass phrase")
    assert not browser.login("", "an admin's pass phrase")
    assert browser.known() == (False, False)
    assert browser.login("", "a user's pass phrase")
    assert browser.known() == (True, False)
    assert browser.login("/admin", "an admin's pass phrase")
    assert browser.known() == (True, True)
    assert {*browser.cookies} == {"__Host-auth", "__Host-admin"}
    assert browser.setups.counts() == (1, 1)


def test_each_sign_out_is_of_its_own_setup(browser: OneBrowser) -> None:
    for last, prefix in ((False, ""), (True, "/admin")):
        browser.login("", "a user's pass phrase")
        browser.login("/admin", "an admin's pass phrase")
        browser.request("POST", f"{prefix}/logout")
        assert browser.known() == (last, not last)
        assert browser.setups.counts() == (int(last), int(not last))
        browser.request("POST", "/logout")
        browser.request("POST", "/admin/logout")
        assert browser.setups.counts() == (0, 0)


def test_each_cookie_opens_its_own_setup_only(browser: OneBrowser) -> None:
    browser.login("", "a user's pass phrase")
    stolen = browser.cookies["__Host-auth"]
    browser.cookies = httpx.Cookies({"__Host-admin": stolen})
    assert browser.known() == (False, False)
    browser.cookies = httpx.Cookies({"__Host-auth": stolen, "__Host-admin": stolen})
    assert browser.known() == (True, False)


def test_each_is_renewed_by_itself_and_both_at_once(browser: OneBrowser) -> None:
    browser.login("", "a user's pass phrase")
    browser.setups.clock.advance(600)
    browser.login("/admin", "an admin's pass phrase")
    before = dict(browser.cookies)
    browser.setups.clock.advance(400)
    assert browser.known() == (True, True)
    assert browser.cookies["__Host-auth"] != before["__Host-auth"]
    assert browser.cookies["__Host-admin"] == before["__Host-admin"]
    browser.setups.clock.advance(1000)
    response = browser.request("GET", "/me")
    assert len(response.headers.get_list("set-cookie")) == 2
    assert browser.known() == (True, True)


def test_each_ends_all_of_its_own_sessions(browser: OneBrowser) -> None:
    browser.login("", "a user's pass phrase")
    browser.login("/admin", "an admin's pass phrase")
    assert drive(browser.setups.people.revoke_user(browser.setups.ada)) == 1
    assert browser.known() == (False, True)
    assert drive(browser.setups.staff.revoke_everyone()) == 1
    assert browser.known() == (False, False)


def test_each_guard_sends_people_to_its_own_sign_in_page(browser: OneBrowser) -> None:
    for path, page in (("/me", "/login"), ("/admin/me", "/admin/login")):
        refused = browser.request("GET", path, headers=PAGE)
        assert (refused.status_code, refused.headers["location"]) == (303, f"{page}?next={path}")
    browser.login("", "a user's pass phrase")
    browser.login("/admin", "an admin's pass phrase")
    browser.setups.clock.advance(301)
    for path, page in (("/fresh", "/login"), ("/admin/fresh", "/admin/login")):
        refused = browser.request("GET", path, headers=PAGE)
        assert (refused.status_code, refused.headers["location"]) == (303, f"{page}?next={path}")


@pytest.mark.parametrize(
    "options",
    [
        {"backend": MemoryBackend(), "session_key": "throttle"},
        {"store": CredentialsCache(MemoryBackend(), namespace="credentials.throttle")},
    ],
)
def test_no_sessions_live_among_the_counters_of_another(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="must not end in 'throttle': choose another session_key"):
        SessionAuth(secret_key=SECRET, users=MemoryUsers(), **options)
