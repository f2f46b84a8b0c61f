"""What FastAPI's OpenAPI document shows of sign-in, registration and credentials."""

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any
from uuid import UUID

import msgspec
import pytest
from fastapi import Body, Depends, FastAPI, HTTPException
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from starlette.middleware.sessions import SessionMiddleware
from starlette.testclient import TestClient

from harness.support import SECRET, MemoryUsers
from powauth import (
    AlreadySignedIn,
    AnyOf,
    BearerCarrier,
    ConfigError,
    CookieCarrier,
    CrossSiteRequest,
    FrameworkSessionCarrier,
    InvalidParams,
    MoreNeeded,
    NotFresh,
    NotSignedIn,
    PowauthError,
    Refused,
    RequestAuth,
    SessionAuth,
    StoreUnavailable,
    Throttled,
)
from powauth.accounts.sqlalchemy import SQLAlchemyUsers, UserMixin
from powauth.http.carriers import Carrier
from powauth.integrations.fastapi import Auth, SessionAuthMiddleware, refusals, response_model

HTTPS = "https://app.example"
WHO = {"email": "ada@example.org", "password": "five brown owls hoot", "nick": "ada"}
Document = dict[str, Any]


class Base(DeclarativeBase): ...


class Person(UserMixin, Base):
    __tablename__ = "people"
    nick: Mapped[str]
    town: Mapped[str | None] = mapped_column(default=None)


class Me(msgspec.Struct, frozen=True):
    id: UUID
    email: str
    nick: str


def app_of(auth: SessionAuth[Any, Me]) -> FastAPI:
    session = Auth(auth)
    app = FastAPI()
    app.add_middleware(SessionAuthMiddleware, auth=auth)
    Session = Annotated[RequestAuth[Any, Me], Depends(session.request_auth)]  # noqa: N806 - an alias

    @app.post("/register", status_code=201, responses=refusals(422))
    async def register(params: Annotated[dict[str, Any], session.registration_body], auth: Session) -> Me:
        return await auth.register(params)

    @app.post("/login")
    async def login(params: Annotated[dict[str, Any], session.sign_in_body], auth: Session) -> Me:
        if (user := await auth.sign_in(params)) is None:
            raise HTTPException(401, "wrong e-mail or password")
        return user

    @app.post("/token")
    async def token(
        params: Annotated[dict[str, Any], session.sign_in_body], device: Annotated[str, Body()], auth: Session
    ) -> dict[str, str]:
        await auth.sign_in(params, bearer=True)
        return {"access_token": auth.access_token, "device": device}

    @app.get("/me")
    async def me(user: Annotated[Me, Depends(session.identity)]) -> Me:
        return user

    return app


@pytest.fixture
def app(tmp_path: Path) -> Iterator[FastAPI]:
    engine = create_engine(f"sqlite:///{tmp_path}/users.sqlite3")
    Base.metadata.create_all(engine)
    users = SQLAlchemyUsers(engine, Person, identity=Me, fields=["nick", "town"])
    carrier = AnyOf(CookieCarrier(), BearerCarrier())
    yield app_of(SessionAuth(secret_key=SECRET, users=users, backend="memory://", carrier=carrier))
    engine.dispose()


def body_of(document: Document, path: str) -> Any:
    return document["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]


def test_the_bodies_of_sign_in_and_registration_are_shown(app: FastAPI) -> None:
    document = app.openapi()
    schemas = document["components"]["schemas"]
    email = {"type": "string", "format": "email"}
    password = {"type": "string", "format": "password", "writeOnly": True}
    assert body_of(document, "/login") == {"$ref": "#/components/schemas/SignInBody"}
    assert schemas["SignInBody"] == {
        "title": "SignInBody",
        "type": "object",
        "properties": {"email": email, "password": password},
        "required": ["email", "password"],
    }
    assert body_of(document, "/register") == {"$ref": "#/components/schemas/RegistrationBody"}
    assert schemas["RegistrationBody"]["properties"] == {"email": email, "password": password, "nick": {}, "town": {}}
    assert schemas["RegistrationBody"]["required"] == ["email", "password", "nick"]


def test_another_body_beside_it_goes_by_name(app: FastAPI) -> None:
    reference = body_of(app.openapi(), "/token")["$ref"]
    shown = app.openapi()["components"]["schemas"][reference.rpartition("/")[2]]
    assert shown["properties"]["params"] == {"$ref": "#/components/schemas/SignInBody"}
    assert set(shown["required"]) == {"params", "device"}


def test_a_user_id_of_another_name_is_shown() -> None:
    class Named(MemoryUsers):
        user_id_field = "username"

    auth: SessionAuth[Any, Any] = SessionAuth(secret_key=SECRET, users=Named(), backend="memory://")
    shown = Auth(auth).sign_in_body.schema
    assert shown["properties"]["username"] == {"type": "string"}
    assert shown["required"] == ["username", "password"]


def test_a_program_registers_and_signs_in_with_both_carriers(app: FastAPI) -> None:
    browser, program = TestClient(app, base_url=HTTPS), TestClient(app, base_url=HTTPS)
    made = browser.post("/register", json=WHO)
    assert (made.status_code, made.json()["nick"]) == (201, "ada")
    assert browser.get("/me").json() == made.json()
    assert program.post("/login", json={**WHO, "password": "six brown owls hoot"}).status_code == 401
    token = program.post("/token", json={"params": WHO, "device": "phone"}).json()["access_token"]
    assert not program.cookies
    assert program.get("/me").status_code == 401
    assert program.get("/me", headers={"authorization": f"Bearer {token}"}).json() == made.json()


def test_what_is_wrong_is_said_in_powauths_own_form(app: FastAPI) -> None:
    client = TestClient(app, base_url=HTTPS)
    refused = client.post("/register", json={"email": "nobody", "password": 7})
    assert refused.status_code == 422
    assert refused.json()["errors"].keys() == {"email", "password", "nick"}
    assert client.post("/login", json={"email": 7}).status_code == 401
    assert client.post("/login", json=[7]).status_code == 422
    shown = app.openapi()["paths"]["/register"]["post"]["responses"]["422"]
    assert shown == refusals(422)[422]


BEARER = {"type": "http", "scheme": "bearer", "bearerFormat": "pow_<id>"}
TOKEN = {"type": "apiKey", "in": "header", "name": "Authorization", "description": "Token pow_<id>"}


@pytest.mark.parametrize(
    ("carrier", "schemes"),
    [
        (CookieCarrier(), {"__Host-auth": {"type": "apiKey", "in": "cookie", "name": "__Host-auth"}}),
        (BearerCarrier(), {"auth-bearer": BEARER}),
        (BearerCarrier(scheme="Token"), {"auth-bearer": TOKEN}),
        (FrameworkSessionCarrier(), {"session": {"type": "apiKey", "in": "cookie", "name": "session"}}),
        (
            AnyOf(CookieCarrier(), BearerCarrier()),
            {"__Host-auth": {"type": "apiKey", "in": "cookie", "name": "__Host-auth"}, "auth-bearer": BEARER},
        ),
    ],
    ids=["cookie", "bearer", "token", "framework", "both"],
)
def test_the_credentials_that_count_are_shown(carrier: Carrier, schemes: Document) -> None:
    users: Any = MemoryUsers()
    document = app_of(SessionAuth(secret_key=SECRET, users=users, backend="memory://", carrier=carrier)).openapi()
    assert document["components"]["securitySchemes"] == schemes
    assert document["paths"]["/me"]["get"]["security"] == [{name: []} for name in schemes], "any one of them is enough"
    assert "security" not in document["paths"]["/login"]["post"]


@pytest.mark.parametrize(
    ("carrier", "challenges"),
    [
        (CookieCarrier(), "APIKey"),
        (FrameworkSessionCarrier(), "APIKey"),
        (BearerCarrier(), 'Bearer realm="auth"'),
        (BearerCarrier(scheme="Token"), 'Token realm="auth"'),
        (AnyOf(CookieCarrier(), BearerCarrier()), 'Bearer realm="auth", APIKey'),
    ],
    ids=["cookie", "framework", "bearer", "token", "both"],
)
def test_a_401_asks_for_the_credentials_that_count(carrier: Carrier, challenges: str) -> None:
    """RFC 9110, section 11.6.1; RFC 6750, section 3: an error only after a token."""
    users: Any = MemoryUsers()
    response_model(Me)  # these users have another identity
    app = app_of(SessionAuth(secret_key=SECRET, users=users, backend="memory://", carrier=carrier))
    app.add_middleware(SessionMiddleware, secret_key="of Starlette")
    client = TestClient(app, base_url=HTTPS)
    scheme = "Token" if challenges.startswith("Token") else "Bearer"
    for credentials, error in [
        ("", ""),
        ("Basic eA==", ""),
        (f"{scheme} foreign", ""),
        (f"{scheme} pow_ended", "invalid_token"),
    ]:
        refused = client.get("/me", headers={"authorization": credentials})
        assert refused.status_code == 401
        named = f'"auth", error="{error}"' if error else '"auth"'
        assert refused.headers["www-authenticate"] == challenges.replace('"auth"', named)


def matches(body: Any, schema: Document) -> bool:
    """Whether a body has exactly the fields of one of the objects that a schema shows, with values of their types."""
    types: dict[str, type] = {"string": str, "array": list, "object": dict}

    def fits(value: Any, field: Document) -> bool:
        return isinstance(value, types[field["type"]]) and ("enum" not in field or value in field["enum"])

    def is_of(each: Document) -> bool:
        fields: Document = each["properties"]
        named = set(each["required"]) <= body.keys() <= fields.keys()
        return named and all(fits(value, fields[name]) for name, value in body.items())

    return any(is_of(each) for each in schema.get("anyOf", [schema]))


def raised(error: PowauthError) -> Any:
    async def handler() -> None:
        raise error

    return handler


def test_the_answers_that_are_shown_are_those_that_are_given() -> None:
    users: Any = MemoryUsers()
    auth: SessionAuth[Any, Any] = SessionAuth(secret_key=SECRET, users=users, backend="memory://")
    session = Auth(auth)
    app = FastAPI(responses=refusals(401, 403, 422, 429, 503))
    app.add_middleware(SessionAuthMiddleware, auth=auth)
    errors = [
        (401, NotSignedIn("nobody")),
        (401, MoreNeeded(["totp"])),
        (401, MoreNeeded(["totp", "passkey"], challenge="c2l4IGhlcm9ucw")),
        (403, Refused("the office is closed")),
        (403, NotFresh("sign in again")),
        (403, NotFresh("confirm that it is you", methods=["otp"])),
        (403, AlreadySignedIn("you are signed in")),
        (403, CrossSiteRequest("not from here")),
        (422, InvalidParams({"email": ["is taken"]})),
        (429, Throttled(scope="account", retry_after=timedelta(seconds=60))),
        (503, StoreUnavailable("down")),
    ]
    for number, (_, error) in enumerate(errors):
        app.get(f"/{number}")(raised(error))
    app.get("/guarded", dependencies=[Depends(session.identity)])(lambda: None)
    app.post("/defended", dependencies=[Depends(session.same_origin())])(lambda: None)
    client = TestClient(app, base_url=HTTPS)
    given = [(f"/{number}", status, client.get(f"/{number}")) for number, (status, _) in enumerate(errors)]
    given += [("/guarded", 401, client.get("/guarded")), ("/defended", 403, client.post("/defended"))]
    for path, status, response in given:
        assert response.status_code == status
        (operation,) = app.openapi()["paths"][path].values()
        shown = operation["responses"][str(status)]
        assert matches(response.json(), shown["content"]["application/json"]["schema"]), path
        assert ("retry-after" in response.headers) == ("headers" in shown)


def test_the_two_answers_401_have_schemas_of_their_own() -> None:
    by_guard, nobody, more = refusals(401)[401]["content"]["application/json"]["schema"]["anyOf"]
    assert [each["title"] for each in (by_guard, nobody, more)] == ["Guarded", "NotSignedIn", "MoreNeeded"]
    assert not matches({"error": "second_factor_required"}, nobody)
    assert not matches({"error": "not_signed_in", "factors": ["totp"]}, more)
    assert matches({"error": "second_factor_required", "factors": ["totp"], "challenge": "c2l4"}, more)


def test_a_status_that_powauth_does_not_give_is_refused() -> None:
    with pytest.raises(ConfigError, match="a status must be 401, 403, 422, 429 or 503, not 404"):
        refusals(401, 404)


@pytest.mark.parametrize("method", ["access", "fresh", "same_origin", "row", "optional_row"])
def test_a_method_that_returns_a_dependency_is_none_itself(app: FastAPI, method: str) -> None:
    session = Auth(SessionAuth(secret_key=SECRET, users=MemoryUsers(), backend="memory://"))
    forgotten = Depends(getattr(session, method))
    with pytest.raises(ConfigError, match=rf"write Depends\(session.{method}\(…\)\)"):
        app.get("/guarded", dependencies=[forgotten])(lambda: "open")
    everywhere = FastAPI(dependencies=[forgotten])
    with pytest.raises(ConfigError, match="refuse nobody"):
        everywhere.get("/guarded")(lambda: "open")
