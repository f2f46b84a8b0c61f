"""A handler returns the identity: the response is its JSON, and documents show its schema."""

import ipaddress
from datetime import date
from enum import Enum
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import flask
import litestar
import litestar.testing
import msgspec
import pytest
from fastapi import APIRouter, Depends, FastAPI
from fastapi.exceptions import ResponseValidationError
from flask.json.provider import JSONProvider
from pydantic import BaseModel
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.authentication import AuthenticationMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from harness.support import SECRET, CountingBackend, MemoryUsers, User
from powauth import Account, RequestAuth, SessionAuth, StoreUnavailable, UsersContext
from powauth.accounts.as_json import as_json
from powauth.accounts.sqlalchemy import SQLAlchemyUsers, UserMixin
from powauth.backends.memory import MemoryBackend
from powauth.integrations.asgi import SessionAuthMiddleware
from powauth.integrations.fastapi import Auth, auth_dependency, response_model
from powauth.integrations.flask import PowAuth, current_user
from powauth.integrations.litestar import CurrentRequestAuth, PowAuthPlugin
from powauth.integrations.starlette import SessionAuthBackend
from powauth.testing import sign_in

HTTPS = "https://app.example"
WHO = {"email": "ada@example.org", "password": "five brown owls hoot"}


class Role(Enum):
    ADMIN = 2


class Team(msgspec.Struct, frozen=True):
    name: str


class Me(msgspec.Struct, frozen=True, kw_only=True):
    id: str
    email: str
    role: Role = Role.ADMIN
    team: Team = Team("owls")
    born: date = date(2001, 2, 3)
    address: ipaddress.IPv4Address = ipaddress.IPv4Address("192.0.2.1")


class RichUsers(MemoryUsers):
    """Users whose identity has fields of many types."""

    identity: Any = Me

    async def get(self, key: Any) -> Any:
        account = await super().get(key)
        return None if account is None else _rich(account)

    async def authenticate(self, params: Any) -> Any:
        account = await super().authenticate(params)
        return None if account is None else _rich(account)


def _rich(account: Account[Any]) -> Account[Any]:
    identity = Me(id=str(account.key), email=account.identity.email)
    return msgspec.structs.replace(account, identity=identity)


class Parts:
    def __init__(self, users: UsersContext[Any, Any] | None = None) -> None:
        self.backend = CountingBackend(MemoryBackend())
        self.users = RichUsers() if users is None else users
        self.auth: SessionAuth[Any, Any] = SessionAuth(secret_key=SECRET, users=self.users, backend=self.backend)
        self.ada: User | None = None
        if isinstance(self.users, RichUsers):
            self.ada = self.users.add(WHO["email"])
        self.json = {
            "id": self.ada and self.ada.id,
            "email": WHO["email"],
            "role": 2,
            "team": {"name": "owls"},
            "born": "2001-02-03",
            "address": "192.0.2.1",
        }


SCHEMA: dict[str, Any] = {
    "title": "Me",
    "type": "object",
    "properties": {
        "id": {"type": "string"},
        "email": {"type": "string"},
        "role": {"title": "Role", "enum": [2]},
        "team": {"title": "Team", "type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
        "born": {"type": "string", "format": "date"},
        "address": {"type": "string", "format": "ipv4"},
    },
    "required": ["id", "email", "role", "team", "born", "address"],
}


def fastapi_app(parts: Parts) -> FastAPI:
    session = Auth(parts.auth)
    current_user = Annotated[Me, Depends(session.identity)]
    app = FastAPI()
    app.add_middleware(SessionAuthMiddleware, auth=parts.auth)

    class Page(BaseModel):
        user: Me

    @app.get("/me")
    async def me(user: current_user) -> Me:
        return user

    @app.get("/maybe")
    async def maybe(user: Annotated[Me | None, Depends(session.optional_identity)]) -> Me | None:
        return user

    @app.get("/all")
    async def everybody(user: current_user) -> list[Me]:
        return [user]

    @app.get("/page")
    async def page(user: current_user) -> Page:
        return Page(user=user)

    @app.get("/plain", response_model=Me)
    def plain(user: current_user) -> Any:
        return {**as_json(user), "password_hash": "secret"}

    @app.get("/wrong", response_model=Me)
    async def wrong() -> Any:
        return {"email": "somebody"}

    @app.get("/row", response_model=Me)
    async def row(user: current_user) -> Any:
        class Row:
            id, email, password_hash = user.id, user.email, "secret"

        return Row()

    return app


@pytest.fixture
def parts() -> Parts:
    return Parts()


def test_rep_25_fastapi_returns_the_identity_and_shows_its_schema(parts: Parts) -> None:
    app = fastapi_app(parts)
    client = TestClient(app, base_url=HTTPS)
    assert client.get("/me").status_code == 401
    assert client.get("/maybe").json() is None
    sign_in(client, parts.ada)
    assert client.get("/me").json() == parts.json
    assert client.get("/maybe").json() == parts.json
    assert client.get("/all").json() == [parts.json]
    assert client.get("/page").json() == {"user": parts.json}
    document = app.openapi()
    assert document["components"]["schemas"]["Me"] == SCHEMA
    for path in ("/me", "/plain"):
        content = document["paths"][path]["get"]["responses"]["200"]["content"]["application/json"]
        assert content["schema"] == {"$ref": "#/components/schemas/Me"}


def test_fastapi_filters_what_a_handler_returns_by_the_identity(parts: Parts) -> None:
    client = TestClient(fastapi_app(parts), base_url=HTTPS)
    sign_in(client, parts.ada)
    assert client.get("/plain").json() == parts.json
    assert client.get("/row").json() == parts.json
    with pytest.raises(ResponseValidationError, match="id"):
        client.get("/wrong")


def test_the_identity_stays_a_plain_struct(parts: Parts) -> None:
    Auth(parts.auth)
    assert Me.__mro__ == (Me, msgspec.Struct, *msgspec.Struct.__mro__[1:])
    assert msgspec.json.decode(msgspec.json.encode(Team("x")), type=Team) == Team("x")


def test_routes_before_the_authenticator_take_a_class_that_was_prepared() -> None:
    @response_model
    class Early(msgspec.Struct, frozen=True):
        id: str
        email: str

    router = APIRouter()

    @router.get("/me")
    async def me(user: Annotated[Early, Depends(auth_dependency)]) -> Early:
        return user

    class Users(MemoryUsers):
        identity: Any = Early

    auth: SessionAuth[Any, Any] = SessionAuth(secret_key=SECRET, users=Users(), backend="memory://")
    methods = vars(Early)["__get_pydantic_core_schema__"]
    Auth(auth)
    assert vars(Early)["__get_pydantic_core_schema__"] is methods
    app = FastAPI()
    app.include_router(router)
    assert app.openapi()["components"]["schemas"]["Early"]["required"] == ["id", "email"]


def test_a_class_with_pydantics_methods_of_its_own_keeps_them() -> None:
    class Own(msgspec.Struct, frozen=True):
        id: str

        @classmethod
        def __get_pydantic_core_schema__(cls, source: Any, handler: Any) -> Any: ...

    methods = vars(Own)["__get_pydantic_core_schema__"]
    assert response_model(Own) is Own
    assert vars(Own)["__get_pydantic_core_schema__"] is methods


def test_the_identity_that_powauth_makes_is_returned_too(tmp_path: Path) -> None:
    class Base(DeclarativeBase): ...

    class Person(UserMixin, Base):
        __tablename__ = "people"

    engine = create_engine(f"sqlite:///{tmp_path}/users.sqlite3")
    Base.metadata.create_all(engine)
    parts = Parts(SQLAlchemyUsers(engine, Person))
    session = Auth(parts.auth)
    app = FastAPI()
    app.add_middleware(SessionAuthMiddleware, auth=parts.auth)

    @app.post("/register", response_model=parts.users.identity)
    async def register(auth: Annotated[RequestAuth[Any, Any], Depends(session.request_auth)]) -> Any:
        return await auth.register(WHO)

    made = TestClient(app, base_url=HTTPS).post("/register").json()
    assert made == {"id": str(UUID(made["id"])), "email": WHO["email"]}
    shown = app.openapi()["components"]["schemas"]["Identity"]["properties"]
    assert shown["id"] == {"anyOf": [{"type": "integer"}, {"type": "string"}]}
    engine.dispose()


def test_litestar_returns_the_identity_and_shows_its_schema(parts: Parts) -> None:
    @litestar.get("/me")
    async def me(request_auth: CurrentRequestAuth[User, Me]) -> Me:
        return request_auth.require_user()

    app = litestar.Litestar([me], plugins=[PowAuthPlugin(parts.auth)])
    with litestar.testing.TestClient(app, base_url=HTTPS) as client:
        sign_in(client, parts.ada)
        assert client.get("/me").json() == parts.json
        document = client.get("/schema/openapi.json").json()
    shown = document["components"]["schemas"]["Me"]
    assert shown["properties"].keys() == SCHEMA["properties"].keys()


def test_starlette_returns_the_identity(parts: Parts) -> None:
    async def me(request: Request) -> JSONResponse:
        return JSONResponse(as_json(request.user))

    middleware = [
        Middleware(SessionAuthMiddleware, auth=parts.auth),
        Middleware(AuthenticationMiddleware, backend=SessionAuthBackend()),
    ]
    client = TestClient(Starlette(routes=[Route("/me", me)], middleware=middleware), base_url=HTTPS)
    sign_in(client, parts.ada)
    assert client.get("/me").json() == parts.json


def flask_app(parts: Parts) -> flask.Flask:
    app = flask.Flask("shop")
    extension = PowAuth(app, parts.auth)
    app.add_url_rule("/me", "me", lambda: flask.jsonify(current_user))
    app.add_url_rule("/dict", "dict", lambda: {"user": extension.current_user, "born": date(2001, 2, 3)})
    app.add_url_rule("/g", "g", lambda: flask.jsonify(flask.g.current_user))
    return app


def test_flask_returns_the_identity(parts: Parts) -> None:
    client = flask_app(parts).test_client()
    assert client.get("/me").json is None
    assert client.get("/g").json is None
    sign_in(client, parts.ada)
    assert client.get("/me").json == parts.json
    assert client.get("/g").json == parts.json
    assert client.get("/dict").json == {"user": parts.json, "born": "Sat, 03 Feb 2001 00:00:00 GMT"}


def test_flask_in_an_outage_takes_nobody_for_anonymous(parts: Parts) -> None:
    client = flask_app(parts).test_client()
    sign_in(client, parts.ada)
    parts.backend.fail["*"] = StoreUnavailable("down")
    assert [client.get(path).status_code for path in ("/me", "/g", "/dict")] == [503] * 3
    assert client.get("/dict").json == {"error": "store_unavailable"}


def test_flasks_other_json_providers_are_left_alone(parts: Parts) -> None:
    class Provider(JSONProvider):
        def dumps(self, obj: Any, **kwargs: Any) -> str:
            return msgspec.json.encode(as_json(obj)).decode()

        def loads(self, s: str | bytes, **kwargs: Any) -> Any:
            return msgspec.json.decode(s)

    app = flask.Flask("shop")
    app.json = Provider(app)
    PowAuth(app, parts.auth)
    app.add_url_rule("/me", "me", lambda: flask.jsonify(flask.g.current_user))
    client = app.test_client()
    sign_in(client, parts.ada)
    assert client.get("/me").json == parts.json
