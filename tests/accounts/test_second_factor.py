"""A second factor that a hook asks for: a right password is no failure, and guesses at the factor are counted."""

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import flask
import litestar
import pytest
from fastapi import FastAPI
from litestar.testing import TestClient as LitestarClient
from starlette.applications import Starlette
from starlette.requests import Request as StarletteRequest
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.testclient import TestClient

from harness.core_support import Site, open_backend
from harness.http_support import COMBINATION_IDS, COMBINATIONS
from harness.pages_support import EMAIL, MOUNTS, PASSWORD
from harness.pages_support import site as pages_site
from harness.support import SECRET, FakeConnection, Kind, MemoryUsers, Request, User, make_app
from powauth import ConfigError, Hooks, Limit, MoreNeeded, Refused, RequestAuth, SessionAuth, Step, Throttle, Throttled
from powauth.accounts.throttle import MAX_PER_ACCOUNT
from powauth.backends.base import Backend, drive
from powauth.backends.memory import MemoryBackend
from powauth.integrations.asgi import SessionAuthMiddleware
from powauth.integrations.flask import PowAuth
from powauth.integrations.flask import request_auth as flask_request_auth
from powauth.integrations.litestar import PowAuthPlugin
from powauth.integrations.starlette import request_auth

RIGHT = {"email": "ada@example.org", "password": "correct horse"}
WRONG = {"email": "ada@example.org", "password": "six black herons"}
NEEDED = (401, {"error": "second_factor_required", "factors": ["totp", "recovery"]})
PERIOD = 900


def second_factor(step: Step[Any]) -> None:
    """Ask for a code in a header."""
    code = step.request.header("x-code")
    if code is None:
        raise MoreNeeded(["totp", "recovery"])
    if code != "123456":
        raise Refused("the code is wrong")


class Door(Site):
    """A site whose ``/login`` takes a password, and a code from a header."""

    def __init__(
        self, backend: Backend, kind: Kind, hook: Callable[[Step[Any]], None] = second_factor, **options: Any
    ) -> None:
        given: dict[str, Any] = {"throttle": Throttle(), "hooks": Hooks(before_sign_in=hook)} | options
        super().__init__(backend, kind, **given)
        self.params: dict[str, str] = {}
        self.app = make_app(self.kind, self.auth, {"/login": self._try})

    async def _try(self, request: Request) -> object:
        user = await request.call("sign_in", self.params)
        return None if user is None else user.email

    def knock(self, params: dict[str, str] = RIGHT, **headers: str) -> tuple[int, object]:
        self.params = params
        response = self.browser().send("/login", None, headers)
        return response.status, response.json()


@pytest.fixture(params=COMBINATIONS, ids=COMBINATION_IDS)
def door(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Door]:
    kind, name = request.param
    backend = open_backend(name, tmp_path)
    yield Door(backend, kind)
    drive(backend.close())


def test_rep_49_a_right_password_is_no_failure(door: Door) -> None:
    for _ in range(30):
        assert door.knock() == NEEDED
    assert door.knock(x_code="123456") == (200, "ada@example.org")
    assert door.event_names.count("second_factor_required") == 30
    assert "throttled" not in door.event_names


def test_rep_49_eleven_sign_ins_of_two_steps_in_a_quarter_of_an_hour(door: Door) -> None:
    for _ in range(11):
        assert door.knock() == NEEDED
        assert door.knock(x_code="123456") == (200, "ada@example.org")


def test_rep_49_the_answer_signs_nobody_in_and_sets_no_cookie(door: Door) -> None:
    door.params = RIGHT
    browser = door.browser()
    response = browser.get("/login")
    assert (response.status, response.set_cookies, response.header("cache-control")) == (401, [], "no-store")
    assert browser.get().json() == {"user": None}
    assert drive(door.auth.store.count(door.auth.now())) == 0


def test_rep_49_guesses_at_the_second_factor_are_failures(door: Door) -> None:
    for guess in range(10):
        assert door.knock(x_code=f"{guess:06}") == (403, {"error": "refused", "reason": "the code is wrong"})
        if guess < 9:
            assert door.knock() == NEEDED  # and this takes none of them back
    assert door.knock(x_code="123456") == (429, {"error": "throttled"})
    assert door.knock() == (429, {"error": "throttled"})
    door.clock.advance(PERIOD)
    assert door.knock(x_code="123456") == (200, "ada@example.org")


def test_rep_49_a_right_password_does_not_clear_the_failures(door: Door) -> None:
    for _ in range(5):
        assert door.knock(WRONG) == (200, None)
    for _ in range(20):
        assert door.knock() == NEEDED
    for _ in range(5):
        assert door.knock(WRONG) == (200, None)
    assert door.knock(WRONG) == (429, {"error": "throttled"})


def test_rep_49_the_last_factor_clears_the_failures(door: Door) -> None:
    for _ in range(9):
        assert door.knock(WRONG) == (200, None)
    assert door.knock() == NEEDED
    assert door.knock(x_code="123456") == (200, "ada@example.org")
    for _ in range(10):
        assert door.knock(WRONG) == (200, None)
    assert door.knock(WRONG) == (429, {"error": "throttled"})


def test_rep_49_a_right_password_costs_its_source_nothing(door: Door) -> None:
    site = Door(
        door.backend.inner,
        door.kind,
        throttle=Throttle(per_account=None, per_source=Limit(3, timedelta(seconds=PERIOD))),
    )
    for _ in range(10):
        assert site.knock() == NEEDED
    for _ in range(3):
        assert site.knock(WRONG) == (200, None)
    assert site.knock() == (429, {"error": "throttled"})


def test_rep_49_a_hook_that_asks_again_for_a_wrong_code_bounds_the_guesses_too(door: Door) -> None:
    def careless(step: Step[User]) -> None:
        if step.request.header("x-code") != "123456":
            raise MoreNeeded(["totp", "recovery"])

    site = Door(door.backend.inner, door.kind, hook=careless)
    for guess in range(MAX_PER_ACCOUNT):
        assert site.knock(x_code=f"{guess:06}") == NEEDED
    assert site.knock(x_code="999999") == (429, {"error": "throttled"})
    assert site.events[-1].detail == "factor"
    site.clock.advance(PERIOD)
    assert site.knock(x_code="999999") == NEEDED


def test_rep_49_support_lets_an_account_in_again() -> None:
    site = Door(MemoryBackend(), "wsgi")
    for _ in range(MAX_PER_ACCOUNT):
        assert site.knock() == NEEDED
    assert site.knock() == (429, {"error": "throttled"})
    drive(site.auth.forget_failures(RIGHT))
    assert site.knock() == NEEDED


def test_rep_49_without_a_limit_for_accounts_nothing_is_counted() -> None:
    for throttle in (None, Throttle(per_account=None)):
        site = Door(MemoryBackend(), "wsgi", throttle=throttle)
        for _ in range(MAX_PER_ACCOUNT + 1):
            assert site.knock() == NEEDED


def test_rep_49_a_change_of_password_that_needs_a_second_factor_signs_out(door: Door) -> None:
    calm = Site(door.backend, door.kind, users=door.users, clock=door.clock)
    browser = calm.signed_in()

    async def change(request: Request) -> object:
        params = {"current_password": "correct horse", "password": "nine grey herons wade"}
        return await request.call("update_user", params)

    response = door.serve({"/change": change}, browser).get("/change")
    assert (response.status, response.json()) == NEEDED
    assert door.serve({}, browser).get().json() == {"user": None}


# --- every integration ------------------------------------------------------------------------------------------------


def app_auth() -> SessionAuth[User, Any]:
    users = MemoryUsers()
    users.add(RIGHT["email"])
    return SessionAuth(
        secret_key=SECRET, users=users, backend=MemoryBackend(), hooks=Hooks(before_sign_in=second_factor)
    )


async def login(request: StarletteRequest) -> Response:
    user = await request_auth(request).sign_in(RIGHT)
    assert user is not None
    return JSONResponse(user.email)


def through_starlette(headers: dict[str, str]) -> Any:
    app = Starlette(routes=[Route("/login", login, methods=["POST"])])
    app.add_middleware(SessionAuthMiddleware, auth=app_auth())
    return TestClient(app, base_url="https://app.example").post("/login", headers=headers)


def through_fastapi(headers: dict[str, str]) -> Any:
    app = FastAPI()
    app.add_middleware(SessionAuthMiddleware, auth=app_auth())
    app.add_route("/login", login, methods=["POST"])
    return TestClient(app, base_url="https://app.example").post("/login", headers=headers)


def through_litestar(headers: dict[str, str]) -> Any:
    @litestar.post("/login", status_code=200)
    async def litestar_login(request: litestar.Request[Any, Any, Any]) -> str:
        user = await request_auth(request).sign_in(RIGHT)  # type: ignore[call-overload]
        assert user is not None
        return json.dumps(user.email)

    app = litestar.Litestar([litestar_login], plugins=[PowAuthPlugin(app_auth())], openapi_config=None)
    with LitestarClient(app, base_url="https://app.example") as client:
        return client.post("/login", headers=headers)


class _WerkzeugAnswer:
    def __init__(self, response: Any) -> None:
        self.status_code, self.headers, self.json = response.status_code, response.headers, lambda: response.json


def through_flask(headers: dict[str, str]) -> Any:
    app = flask.Flask(__name__)
    PowAuth(app, app_auth())

    @app.post("/login")
    def flask_login() -> Any:
        user = flask_request_auth().sign_in(RIGHT)
        assert user is not None
        return flask.jsonify(user.email)

    return _WerkzeugAnswer(app.test_client().post("/login", headers=headers))


@pytest.mark.parametrize("send", [through_starlette, through_fastapi, through_litestar, through_flask])
def test_rep_49_every_framework_gives_the_same_answer(send: Callable[[dict[str, str]], Any]) -> None:
    response = send({})
    assert (response.status_code, response.json()) == NEEDED
    assert response.headers["cache-control"] == "no-store"
    assert "set-cookie" not in response.headers
    response = send({"x-code": "123456"})
    assert (response.status_code, response.json()) == (200, RIGHT["email"])


@pytest.mark.parametrize("framework", MOUNTS)
def test_rep_49_the_pages_and_their_json_twins_ask_for_it(framework: str, tmp_path: Path) -> None:
    with pages_site(framework, tmp_path, auth_options={"hooks": Hooks(before_sign_in=second_factor)}) as site:
        form = {"email": EMAIL, "password": PASSWORD}
        program, browser = site.program(), site.browser()
        registered = program.post("/register", json=form)
        assert (registered.status_code, registered.json()) == NEEDED
        assert site.emails == [EMAIL]
        refused = program.post("/login", json=form)
        assert (refused.status_code, refused.json()) == NEEDED
        assert program.post("/login", json=form, headers={"x-code": "123456"}).status_code == 200

        page = browser.sign_in()
        assert (page.status, len(page.forms)) == (401, 1)
        assert "confirm that it is you" in page.text
        assert "do not match" not in page.text
        assert PASSWORD not in page.html
        assert browser.post("/login", form, x_code="123456").location == "/account"


# --- the error itself -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("factors", ["totp", [], (), [b"totp"], [1], [None]])
def test_factors_are_names(factors: Any) -> None:
    with pytest.raises(ConfigError, match="factors must be names"):
        MoreNeeded(factors)


def test_aut_03_a_right_password_buys_no_unlimited_guesses_at_a_second_factor() -> None:
    users = MemoryUsers()
    users.add("ada@example.com")
    auth = SessionAuth(
        secret_key=SECRET,
        users=users,
        backend=MemoryBackend(),
        hooks=Hooks(before_sign_in=second_factor),
        throttle=Throttle(per_account=Limit(3, timedelta(seconds=PERIOD))),
    )
    params = {"email": "ada@example.com", "password": "correct horse"}
    for code in ("000000", "000001", "000002"):
        with pytest.raises(Refused):
            drive(RequestAuth(auth, FakeConnection(x_code=code)).sign_in(params))
    with pytest.raises(Throttled):
        drive(RequestAuth(auth, FakeConnection(x_code="123456")).sign_in(params))
