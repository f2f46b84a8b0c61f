"""Extensions that take over a registration, or a part of a change, under every kind of app."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

import fastapi
import flask
import httpx
import pytest
import sqlalchemy as sa

from harness.pages_support import ORIGIN, SyncASGI
from harness.support import SECRET, FakeConnection, Me, MemoryUsers
from harness.users_databases import cheap_hasher
from powauth import (
    Accepted,
    Account,
    ConfigError,
    Diversion,
    Extension,
    InvalidParams,
    Refused,
    RequestAuth,
    SessionAuth,
    Step,
)
from powauth.accounts.anywhere import anywhere
from powauth.accounts.sqlalchemy import SQLAlchemyUsers
from powauth.backends.base import drive
from powauth.backends.memory import MemoryBackend
from powauth.integrations import asgi, wsgi
from powauth.integrations.fastapi import Auth as FastAPIAuth
from powauth.integrations.flask import PowAuth
from powauth.integrations.flask import request_auth as flask_auth
from powauth.pages import BasePages, Pages
from powauth.pages.asgi import PagesApp

ADA, PASSWORD, BETTER = "ada@example.org", "correct horse", "battery staple"
SENT = Accepted("We have sent you a mail.", code="mail_sent")


class Slow(Extension[Me]):
    """Takes over registrations and new names, as an extension that asks somebody first."""

    name = "slow"

    def __init__(self) -> None:
        self.asked: list[object] = []

    def registers_with(self) -> Sequence[str] | None:
        return ("email",)

    async def divert(self, step: Step[Me]) -> Diversion[Me] | None:
        params = step.params or {}
        if step.flow == "registration" and step.proven_address is None:
            self.asked.append(params.get("email"))
            raise Accepted("We have sent you a mail.", code="mail_sent", page="login", done="signed_out")
        if step.flow == "update" and "name" in params:
            rest = {name: value for name, value in params.items() if name != "name"}
            return Diversion(params=rest, finish=self._finish(params))
        return None

    def _finish(self, params: Mapping[str, object]) -> Callable[[Account[Me]], Any]:
        async def finish(account: Account[Me]) -> None:
            self.asked.append((account.identity.email, params["name"]))
            raise SENT

        return finish


class Plain(Extension[Me]):
    name = "plain"


def made(**options: Any) -> tuple[SessionAuth[Any, Me], Slow]:
    users, slow = MemoryUsers(), Slow()
    users.add(ADA)
    given: dict[str, Any] = {"secret_key": SECRET, "users": users, "backend": MemoryBackend()}
    return SessionAuth(**{**given, "extensions": [Plain(), slow], **options}), slow


def test_a_registration_that_is_taken_over_makes_no_user_until_it_is_completed() -> None:
    auth, slow = made()
    bound = RequestAuth(auth, FakeConnection())
    with pytest.raises(Accepted, match="We have sent you a mail") as accepted:
        drive(bound.register(email="ben@example.org", password=PASSWORD))
    assert (accepted.value.code, bound.current_user, slow.asked) == ("mail_sent", None, ["ben@example.org"])
    assert drive(auth.users.find("ben@example.org")) is None
    params = {"email": "ben@example.org", "password": PASSWORD}
    user = drive(auth.accounts.register(bound.connection, params, proven_address="ben@example.org"))
    assert bound.current_user == user


def test_a_part_of_a_change_is_taken_out_and_finished_after_the_password_was_checked() -> None:
    auth, slow = made()
    bound = RequestAuth(auth, FakeConnection())
    drive(bound.sign_in(email=ADA, password=PASSWORD))
    with pytest.raises(InvalidParams):
        drive(bound.update_user(name="Ada", current_password="wrong"))
    assert slow.asked == []
    with pytest.raises(Accepted):
        drive(bound.update_user(name="Ada", password=BETTER, current_password=PASSWORD))
    assert slow.asked == [(ADA, "Ada")]
    assert bound.current_user is not None
    assert drive(RequestAuth(auth, FakeConnection()).sign_in(email=ADA, password=BETTER)) is not None
    changed = drive(bound.update_user(password=PASSWORD, current_password=BETTER))
    assert changed.email == ADA


def _asgi(auth: SessionAuth[Any, Me]) -> httpx.BaseTransport:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        bound = asgi.request_auth(scope)
        if scope["path"] == "/login":
            await bound.sign_in(email=ADA, password=PASSWORD)
        elif scope["path"] == "/register":
            await bound.register(email="ben@example.org")
        else:
            await bound.update_user(name="Ada", password=BETTER, current_password=PASSWORD)
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    return SyncASGI(asgi.SessionAuthMiddleware(app, auth))


def _wsgi(auth: SessionAuth[Any, Me]) -> httpx.BaseTransport:
    def app(environ: Any, start_response: Any) -> list[bytes]:
        bound = wsgi.request_auth(environ)
        if environ["PATH_INFO"] == "/login":
            bound.sign_in(email=ADA, password=PASSWORD)
        elif environ["PATH_INFO"] == "/register":
            bound.register(email="ben@example.org")
        else:
            bound.update_user(name="Ada", password=BETTER, current_password=PASSWORD)
        start_response("200 OK", [])
        return [b""]

    return httpx.WSGITransport(wsgi.SessionAuthMiddleware(app, auth))


def _fastapi(auth: SessionAuth[Any, Me]) -> httpx.BaseTransport:
    app, session = fastapi.FastAPI(), FastAPIAuth(auth)
    app.add_middleware(asgi.SessionAuthMiddleware, auth=auth)
    bound = fastapi.Depends(session.request_auth)

    @app.post("/login")
    async def sign_in(auth: Any = bound) -> None:
        await auth.sign_in(email=ADA, password=PASSWORD)

    @app.post("/register")
    async def register(body: Annotated[dict[str, Any], session.registration_body], auth: Any = bound) -> None:
        await auth.register(body)

    @app.post("/update")
    async def update(auth: Any = bound) -> None:
        await auth.update_user(name="Ada", password=BETTER, current_password=PASSWORD)

    schema = app.openapi()["components"]["schemas"]["RegistrationBody"]
    assert (schema["required"], [*schema["properties"]]) == (["email"], ["email"])
    return SyncASGI(app)


def _flask(auth: SessionAuth[Any, Me]) -> httpx.BaseTransport:
    app = flask.Flask(__name__)
    PowAuth(app, auth)

    @app.post("/login")
    def sign_in() -> str:
        flask_auth().sign_in(email=ADA, password=PASSWORD)
        return ""

    @app.post("/register")
    def register() -> str:
        flask_auth().register(email="ben@example.org")
        return ""

    @app.post("/update")
    def update() -> str:
        flask_auth().update_user(name="Ada", password=BETTER, current_password=PASSWORD)
        return ""

    return httpx.WSGITransport(app)


@pytest.mark.parametrize("app", [_asgi, _wsgi, _fastapi, _flask])
def test_every_app_answers_202_and_keeps_the_session_that_the_flow_began(
    app: Callable[[SessionAuth[Any, Me]], httpx.BaseTransport],
) -> None:
    auth, _ = made()
    client = httpx.Client(transport=app(auth), base_url=ORIGIN)
    registered = client.post("/register", json={"email": "ben@example.org"})
    assert (registered.status_code, registered.json()) == (202, {"accepted": "mail_sent"})
    assert "set-cookie" not in registered.headers
    client.post("/login")
    before = dict(client.cookies)
    changed = client.post("/update")
    assert (changed.status_code, changed.json()) == (202, {"accepted": "mail_sent"})
    assert dict(client.cookies) != before
    page = client.post("/register", json={"email": "ben@example.org"}, headers={"accept": "text/html"})
    assert page.status_code == 202


def test_a_person_gets_a_page_that_says_so_and_the_ready_made_pages_lead_on() -> None:
    auth, _ = made()
    client = httpx.Client(transport=_wsgi(auth), base_url=ORIGIN, headers={"accept": "text/html"})
    page = client.post("/register")
    assert (page.status_code, "We have sent you a mail." in page.text) == (202, True)
    pages = SyncASGI(asgi.SessionAuthMiddleware(PagesApp(Pages(auth)), auth))
    browser = httpx.Client(transport=pages, base_url=ORIGIN, headers={"accept": "text/html", "origin": ORIGIN})
    form = browser.get("/register").text
    assert 'name="email"' in form
    assert 'name="password"' not in form
    sent = browser.post("/register", data={"email": "ben@example.org"})
    assert (sent.status_code, sent.headers["location"]) == (303, "/login?done=signed_out")
    assert browser.get("/register", headers={"accept": "application/json"}).json() == {"fields": ["email"]}


def test_a_refusal_has_a_code_for_programs_and_a_page_for_people() -> None:
    class Strict(Extension[Me]):
        name = "strict"

        async def before(self, step: Step[Me]) -> None:
            if step.flow == "sign_in":
                raise Refused("not yet", code="too_early", page="register", done="registered")

    auth, _ = made(extensions=[Strict()])
    transport = SyncASGI(asgi.SessionAuthMiddleware(PagesApp(Pages(auth)), auth))
    given = {"email": ADA, "password": PASSWORD}
    program = httpx.Client(transport=transport, base_url=ORIGIN)
    answer = program.post("/login", json=given, headers={"accept": "application/json"})
    assert (answer.status_code, answer.json()) == (403, {"error": "too_early", "reason": "not yet"})
    browser = httpx.Client(transport=transport, base_url=ORIGIN, headers={"accept": "text/html", "origin": ORIGIN})
    sent = browser.post("/login", data=given)
    assert (sent.status_code, sent.headers["location"]) == (303, "/register?done=registered")
    assert BasePages(auth).settings.asks_password


def test_a_users_context_returns_further_columns_of_a_user(tmp_path: Path) -> None:
    from harness.pages_support import Base, User

    engine = sa.create_engine(f"sqlite:///{tmp_path / 'users.sqlite3'}")
    Base.metadata.create_all(engine)
    users = SQLAlchemyUsers(engine, User, hasher=cheap_hasher())
    ada = drive(users.create({"email": ADA, "password": PASSWORD}))
    assert "locked" in users.columns
    for context in (users, anywhere(users)):
        assert context.columns == users.columns
        found = drive(context.read(ada.key, ["locked", "email"]))
        assert found is not None
        assert (found[0], found[1]) == (ada, {"locked": False, "email": ADA})
        assert drive(context.read(7, ["locked"])) is None
        with pytest.raises(ConfigError, match="no column 'secret'"):
            drive(context.read(ada.key, ["secret"]))

    async def on_a_loop() -> Any:
        return await anywhere(users).read(ada.key, ["email"])

    import asyncio

    assert asyncio.run(on_a_loop())[1] == {"email": ADA}
    drive(users.close())
    engine.dispose()
    with pytest.raises(ConfigError, match="MemoryUsers has no locked"):
        drive(MemoryUsers().read("1", ["locked"]))
