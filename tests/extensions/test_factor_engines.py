"""`SecondFactor` on every engine of the sessions, and in every framework's guard."""

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import flask
import pytest
from fastapi import Depends, FastAPI
from fastapi.testclient import TestClient
from litestar import Litestar, get
from litestar.testing import TestClient as LitestarClient

from harness.all_backends import ASYNC, LOCAL, SYNC, Stores, stores
from harness.factors import WORD, Words
from harness.support import SECRET, FakeConnection, MemoryUsers
from powauth import MoreNeeded, RequestAuth, SessionAuth, Throttled
from powauth.backends.base import Backend, drive
from powauth.backends.memory import MemoryBackend
from powauth.errors import Refused
from powauth.extensions.second_factor import SecondFactor
from powauth.integrations.asgi import SessionAuthMiddleware
from powauth.integrations.fastapi import Auth
from powauth.integrations.flask import PowAuth
from powauth.integrations.litestar import PowAuthPlugin
from powauth.testing import sign_in

__all__ = ["stores"]

PASSWORD = "seven red herons"


class World:
    """An app with one user, who has a factor."""

    def __init__(self, backend: Backend) -> None:
        self.users = MemoryUsers()
        self.user = self.users.add("ada@example.org", PASSWORD)
        self.auth: SessionAuth[Any, Any] = SessionAuth(
            secret_key=SECRET, users=self.users, backend=backend, extensions=[SecondFactor(Words())]
        )
        self.engine = self.auth.extension(SecondFactor)
        self.engine.factor(Words).give(self.user.id)

    def asked(self) -> str:
        """Give the password, and return the cookie of the challenge."""
        connection = FakeConnection()
        drive(self.auth.call(connection))
        with pytest.raises(MoreNeeded):
            drive(RequestAuth(self.auth, connection).sign_in(email="ada@example.org", password=PASSWORD))
        (cookie,) = drive(self.auth.respond(connection)).cookies
        return cookie.partition(";")[0]

    def answer(self, cookie: str, code: str) -> str:
        """The outcome of an answer."""
        connection = FakeConnection([cookie])
        drive(self.auth.call(connection))
        try:
            user = drive(self.engine.answer(RequestAuth(self.auth, connection), {"code": code}))
        except (Refused, Throttled) as error:
            return type(error).__name__
        return "wrong" if user is None else "signed in"


@pytest.mark.parametrize("engine", [*LOCAL, *SYNC, *ASYNC])
def test_of_20_parallel_answers_one_signs_in_on_every_engine(engine: str, tmp_path: Path, stores: Stores) -> None:
    with stores.store(engine, tmp_path) as backend, ThreadPoolExecutor(20) as pool:
        world = World(backend)
        cookie = world.asked()
        assert world.answer(cookie, "wrong") == "wrong"
        outcomes = list(pool.map(lambda _: world.answer(cookie, WORD), range(20)))
        assert outcomes.count("signed in") == 1, outcomes
        assert world.answer(cookie, WORD) == "Refused"
        cookies = [world.asked() for _ in range(3)]
        guesses = list(pool.map(lambda each: world.answer(cookies[each % 3], "wrong"), range(20)))
        assert guesses.count("wrong") <= 10, guesses
        assert world.answer(cookies[0], WORD) == "Throttled"


def fastapi_client(auth: SessionAuth[Any, Any]) -> Any:
    app, session = FastAPI(), Auth(auth)
    app.add_middleware(SessionAuthMiddleware, auth=auth)

    @app.get("/any", dependencies=[Depends(session.fresh(timedelta(minutes=5), methods=["mfa"]))])
    async def any_factor() -> str:
        return "shown"

    @app.get("/key", dependencies=[Depends(session.fresh(methods=["hwk"]))])
    async def key() -> str:
        return "shown"

    return TestClient(app, base_url="https://example.org")


def flask_client(auth: SessionAuth[Any, Any]) -> Any:
    app = flask.Flask("guarded")
    guarded = PowAuth(app, auth)

    @app.get("/any")
    @guarded.fresh_login_required(within=timedelta(minutes=5), methods=["mfa"])
    def any_factor() -> str:
        return "shown"

    @app.get("/key")
    @guarded.fresh_login_required(methods=["hwk"])
    def key() -> str:
        return "shown"

    return app.test_client()


def litestar_client(auth: SessionAuth[Any, Any]) -> Any:
    plugin = PowAuthPlugin(auth)

    @get("/any", guards=[plugin.require_fresh(timedelta(minutes=5), methods=["mfa"])])
    async def any_factor() -> str:
        return "shown"

    @get("/key", guards=[plugin.require_fresh(methods=["hwk"])])
    async def key() -> str:
        return "shown"

    return LitestarClient(Litestar([any_factor, key], plugins=[plugin]), base_url="https://example.org")


@pytest.mark.parametrize("make", [fastapi_client, flask_client, litestar_client], ids=lambda make: make.__name__)
def test_a_guard_of_each_framework_asks_for_a_method(make: Callable[[SessionAuth[Any, Any]], Any]) -> None:
    world = World(MemoryBackend())
    client = make(world.auth)
    sign_in(client, world.user, auth=world.auth, base_url="https://localhost" if make is flask_client else None)
    prefix = "https://localhost" if make is flask_client else ""
    assert client.get(f"{prefix}/any").status_code == 200
    refused = client.get(f"{prefix}/key")
    body = refused.get_json() if make is flask_client else refused.json()
    own = {"detail": "fresh_sign_in_required"}  # FastAPI's own form of an error
    told = own if make is fastapi_client else {"error": "fresh_sign_in_required", "methods": ["hwk"]}
    assert (refused.status_code, body) == (403, told)
