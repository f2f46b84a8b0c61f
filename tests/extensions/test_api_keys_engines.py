"""`ApiKeys` on every database, over an ``Engine`` and an ``AsyncEngine``; and what it refuses when the app is made."""

import asyncio
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from harness.keys_support import ApiKey, KeySite, Me, Member, ask, rights_of
from harness.support import SECRET, Clock, Kind, MemoryUsers, User
from harness.tables_support import ADA
from harness.users_databases import (
    ASYNC,
    BLOCKING,
    PASSWORD,
    Base,
    blocking_engine,
    cheap_hasher,
    memory_engine,
    run_async,
    table_name,
)
from powauth import (
    AnyOf,
    BearerCarrier,
    ConfigError,
    CookieCarrier,
    Event,
    InvalidParams,
    Refused,
    RequestAuth,
    SessionAuth,
)
from powauth.accounts.sqlalchemy import SQLAlchemyUsers, UserMixin
from powauth.backends.base import drive
from powauth.backends.memory import MemoryBackend
from powauth.extensions.api_keys import ApiKeys
from powauth.extensions.confirm_email import ConfirmEmail, ConfirmEmailMixin
from powauth.integrations import asgi, wsgi
from powauth.testing import MemoryMailer


async def life_of_a_key(auth: SessionAuth[Any, Any], clock: Clock) -> None:
    """Make a key, use it, list it, and end it."""
    keys = auth.extension(ApiKeys)
    bound = RequestAuth(auth, ask())
    assert await bound.sign_in(email=ADA, password=PASSWORD) is not None
    made = await keys.create(bound, "Käse 🧀", ["write", "read", "read"], expires_in=timedelta(days=1))
    used = RequestAuth(auth, ask(made.key))
    await auth.call(used.connection)
    assert used.identity == bound.identity
    assert (used.signed_in_by, sorted(used.scopes or ())) == ("api_key", ["read", "write"])
    assert await auth.recheck(used.connection)
    (info,) = await keys.keys(bound)
    assert (info.name, info.scopes, info.id) == ("Käse 🧀", ["read", "write"], made.key[7:17])
    assert info.last_used_at == info.created_at
    assert info.expires_at == info.created_at + timedelta(days=1)
    assert not await keys.end(bound, info.id.swapcase())
    assert await keys.end(bound, info.id)
    assert not await auth.recheck(used.connection)
    assert used.identity is None
    await keys.create(bound, "a", expires_in=timedelta(minutes=1))
    await keys.create(bound, "b")
    with pytest.raises(InvalidParams, match="base"):
        await keys.create(bound, "c")
    clock.advance(61)
    assert await keys.purge() == 1
    assert [each.name for each in await keys.keys(bound)] == ["b"]
    await auth.revoke_user(bound.identity)
    assert await keys.keys_of(bound.identity) == []


@pytest.mark.parametrize("driver", BLOCKING)
def test_on_every_database(driver: str, tmp_path: Path) -> None:
    with blocking_engine(driver, str(tmp_path), Member, ApiKey) as engine:
        site = KeySite("wsgi", engine, most=2)
        drive(life_of_a_key(site.auth, site.clock))


@pytest.mark.parametrize("driver", ASYNC)
def test_over_an_asynchronous_engine(driver: str, tmp_path: Path) -> None:
    async def scenario(engine: AsyncEngine) -> None:
        clock = Clock()
        users: SQLAlchemyUsers[Member, Me] = SQLAlchemyUsers(engine, Member, identity=Me, hasher=cheap_hasher())
        keys: ApiKeys[Me] = ApiKeys(engine, ApiKey, scopes=rights_of, most=2)
        auth = SessionAuth(
            secret_key=SECRET, users=users, backend=MemoryBackend(), extensions=[keys], clock=clock, throttle=None
        )
        await auth.create_account({"email": ADA, "password": PASSWORD})
        await life_of_a_key(auth, clock)

    run_async(driver, str(tmp_path), [Member, ApiKey], scenario)


@pytest.mark.parametrize("driver", BLOCKING)
def test_users_whose_keys_a_database_could_confuse(driver: str, tmp_path: Path) -> None:
    """One user's keys are not those of a user whose primary key differs by case, accents or spaces."""
    users = MemoryUsers()
    names = ("Ann", "ann", "ann ", "\u00e4nn", "i42", "x616e6e", "\u00e9" * 127, "a\0b")
    for name in names:
        users.rows[name] = User(name, f"{len(users.rows)}@example.org")
    with blocking_engine(driver, str(tmp_path), ApiKey) as engine:
        auth: SessionAuth[Any, Any] = SessionAuth(
            secret_key=SECRET, users=users, backend=MemoryBackend(), extensions=[ApiKeys(engine, ApiKey)], throttle=None
        )
        keys = {}
        for name in names:
            bound = RequestAuth(auth, ask())
            drive(bound.sign_in_user(name))
            keys[name] = drive(auth.extension(ApiKeys).create(bound, "a program")).key
        for name, key in keys.items():
            connection = ask(key)
            drive(auth.call(connection))
            assert auth.current_key(connection) == name
            assert [each.id for each in drive(auth.extension(ApiKeys).keys_of(name))] == [key[7:17]]


@pytest.mark.parametrize("driver", BLOCKING)
def test_of_many_creations_at_once_no_more_than_the_limit_stay(driver: str, tmp_path: Path) -> None:
    """Each of them counts the keys before any of the others has committed its own."""
    with blocking_engine(driver, str(tmp_path), Member, ApiKey) as engine:
        site = KeySite("wsgi", engine, most=3)
        bound = RequestAuth(site.auth, ask())
        drive(bound.sign_in(email=ADA, password=PASSWORD))

        def one(number: int) -> bool:
            try:
                drive(site.keys.create(bound, f"program {number}"))
            except InvalidParams:
                return False
            return True

        with ThreadPoolExecutor(8) as pool:
            made = sum(pool.map(one, range(8)))
        assert made == len(drive(site.keys.keys(bound))) <= 3
        while one(99):
            made += 1
        assert made == 3


class Confirmed(ConfirmEmailMixin, UserMixin, Base):
    """A user with an address to confirm."""

    __tablename__ = table_name()


def test_aut_06_keys_of_a_user_whose_address_must_be_confirmed(tmp_path: Path) -> None:
    """The keys are refused, and not ended: the address may be confirmed again."""
    with blocking_engine("sqlite", str(tmp_path), Confirmed, ApiKey) as engine:
        users: SQLAlchemyUsers[Confirmed, Any] = SQLAlchemyUsers(engine, Confirmed, hasher=cheap_hasher())
        events: list[Event] = []
        auth = SessionAuth(
            secret_key=SECRET,
            users=users,
            backend=MemoryBackend(),
            extensions=[ConfirmEmail(MemoryMailer(), required=True), ApiKeys(engine, ApiKey)],
            public_url="https://app.example",
            on_event=events.append,
        )

        def confirm(at: datetime | None) -> None:
            with engine.begin() as connection:
                connection.execute(sa.update(Confirmed).values(email_confirmed_at=at))

        def user(key: str) -> Any:
            connection = ask(key)
            drive(auth.call(connection))
            return auth.current_identity(connection)

        ada = drive(auth.create_account({"email": ADA, "password": PASSWORD}))
        confirm(datetime.now(UTC))
        bound = RequestAuth(auth, ask())
        drive(bound.sign_in(email=ADA, password=PASSWORD))
        key = drive(auth.extension(ApiKeys).create(bound, "a program")).key
        assert user(key) == ada
        confirm(None)
        assert user(key) is None
        assert (events[-1].name, events[-1].detail) == ("api_key_refused", "owner may not sign in")
        confirm(datetime.now(UTC))
        assert user(key) == ada
        drive(auth.aclose())


# --- the app is made --------------------------------------------------------------------------------------------------


@pytest.fixture
def engine() -> Iterator[sa.Engine]:
    with memory_engine(Member, ApiKey) as engine:
        yield engine


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"model": Member}, "a declarative class with ApiKeyMixin"),
        ({"model": "keys"}, "a declarative class with ApiKeyMixin"),
        ({"engine": "sqlite://"}, "Engine"),
        ({"scopes": 7}, "scopes must be a function"),
        ({"ends_with_password": "no"}, "ends_with_password must be True or False"),
        ({"most": 0}, "most must be a whole number"),
        ({"fresh": timedelta(0)}, "fresh must be"),
        ({"prefix": "key"}, "the prefix of API keys"),
        ({"prefix": "a-b_"}, "the prefix of API keys"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], message: str, engine: sa.Engine) -> None:
    given: dict[str, Any] = {"engine": engine, "model": ApiKey} | options
    with pytest.raises(ConfigError, match=message):
        ApiKeys(given.pop("engine"), given.pop("model"), **given)


def test_scopes_must_be_a_field_of_the_identity(engine: sa.Engine) -> None:
    with pytest.raises(ConfigError, match="scopes must name a field of the identity"):
        KeySite("wsgi", engine, scopes="roles")


@pytest.mark.parametrize("found", ["read write", ["read write"], [7], 7, None, ['a"b'], [""]])
def test_scopes_of_the_app_must_be_texts_without_spaces(found: Any, engine: sa.Engine) -> None:
    keys: ApiKeys[Any] = ApiKeys(engine, ApiKey, scopes=lambda identity: found)
    with pytest.raises(ConfigError, match="scope"):
        keys.scopes_of(None)


def test_keys_and_bearer_sessions_must_have_different_prefixes(engine: sa.Engine) -> None:
    carrier = AnyOf(CookieCarrier(), BearerCarrier(prefix="POWKEY_"))
    with pytest.raises(ConfigError, match="give one of them another prefix"):
        KeySite("wsgi", engine, auth={"carrier": carrier})
    other = AnyOf(CookieCarrier(), BearerCarrier(prefix="acme_"))
    key = KeySite("wsgi", engine, auth={"carrier": other}, prefix="acme1_").a_key()
    assert key.startswith("acme1_")


def test_the_extension_of_another_authenticator_is_refused(engine: sa.Engine) -> None:
    site = KeySite("wsgi", engine)
    other: SessionAuth[Any, Any] = SessionAuth(
        secret_key=SECRET, users=site.users, backend=MemoryBackend(), extensions=[ApiKeys(engine, ApiKey)]
    )
    bound = RequestAuth(site.auth, ask())
    with pytest.raises(ConfigError, match="this ApiKeys is not that of the request"):
        drive(other.extension(ApiKeys).keys(bound))


def test_two_extensions_cannot_have_keys_of_one_kind(engine: sa.Engine) -> None:
    with pytest.raises(ConfigError, match="same kind of credentials"):
        KeySite("wsgi", engine, others=[ApiKeys(engine, ApiKey, prefix="other_")])


def test_wsgi_needs_an_engine() -> None:
    engine = create_async_engine("sqlite+aiosqlite://")
    auth: SessionAuth[Any, Any] = SessionAuth(
        secret_key=SECRET, users=MemoryUsers(), backend=MemoryBackend(), extensions=[ApiKeys(engine, ApiKey)]
    )
    with pytest.raises(ConfigError, match="a WSGI app needs an Engine for its API keys"):
        wsgi.SessionAuthMiddleware(lambda environ, start: [], auth)
    asyncio.run(engine.dispose())


@pytest.mark.parametrize("kind", ["asgi", "wsgi"])
def test_the_authenticator_alone_in_front_of_an_app(kind: Kind, engine: sa.Engine) -> None:
    """An app for programs only has no sessions and no cookies."""
    site = KeySite(kind, engine)
    key = site.a_key(scopes=["read"])
    cookie = site.browser(signed_in=True).cookie_header()
    alone = site.alone()
    assert alone.send("/private", None, {"authorization": f"Bearer {key}"}).json() == {"user": ADA}
    authenticator, connection = site.keys.authenticator, ask(key)
    account = drive(site.users.get(site.ada.id))
    assert account is not None
    with pytest.raises(Refused, match="this needs a sign-in"):
        drive(authenticator.create(connection, account))
    with pytest.raises(Refused, match="this needs a sign-in"):
        drive(authenticator.delete(connection))
    assert not authenticator.is_ambient(connection)
    assert not authenticator.is_presented(connection)
    assert not authenticator.is_due(connection)
    refused = alone.send("/private", cookie, {})
    assert (refused.status, refused.header("www-authenticate")) == (401, 'Bearer realm="api_key"')
    assert refused.header("vary") == "Authorization"
    for name in ("sign_out", "sign_in", "update_user", "delete_user", "register"):

        async def work(request: Any, name: str = name) -> object:
            await request.call(name, *([{}] if name != "sign_out" else []))
            return {}

        site.to_do(work)
        answer = alone.send("/do", None, {"authorization": f"Bearer {key}"})
        assert (answer.status, answer.json()["error"]) == (403, "session_required"), name


def test_trm_02_a_key_that_is_used_while_it_ends_stays_ended(engine: sa.Engine) -> None:
    """Whoever has stolen the key uses it all the time, over the one connection of the engine."""
    site = KeySite("wsgi", engine)
    headers = {"authorization": f"Bearer {site.a_key()}"}
    uses: list[Future[int]] = []
    with ThreadPoolExecutor(1) as pool:

        def use() -> int:
            return site.alone().send("/private", None, headers).status

        def use_in_between(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
            if statement.startswith("DELETE"):
                uses.append(pool.submit(use))
                wait(uses, timeout=0.2)  # the use must wait: without turns it has ended by now

        sa.event.listen(engine, "after_cursor_execute", use_in_between)
        drive(site.keys.end_all(site.ada))
        assert [each.result(60) for each in uses] == [401]
        assert use() == 401


def test_a_socket_with_a_key_closes_when_the_key_ends(engine: sa.Engine) -> None:
    site = KeySite("asgi", engine)
    key = site.a_key()
    sent: list[Any] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        assert asgi.request_auth(scope).require_user().email == ADA
        await receive()
        await send({"type": "websocket.accept"})
        await site.keys.end_all(site.ada)
        sent.append(await receive())

    async def scenario() -> None:
        messages: asyncio.Queue[Any] = asyncio.Queue()
        closed = asyncio.Event()
        messages.put_nowait({"type": "websocket.connect"})

        async def send(message: Any) -> None:
            if message["type"] == "websocket.close":
                sent.append(message)
                messages.put_nowait({"type": "websocket.disconnect", "code": 1006})
                closed.set()

        middleware = asgi.SessionAuthMiddleware(app, site.auth, websocket_recheck=timedelta(milliseconds=1))
        headers = [(b"authorization", f"Bearer {key}".encode()), (b"origin", b"https://evil.example")]
        scope = {"type": "websocket", "path": "/", "query_string": b"", "headers": headers, "client": ("192.0.2.1", 1)}
        await middleware(scope, messages.get, send)

    asyncio.run(scenario())
    assert [(each["type"], each["code"]) for each in sent] == [
        ("websocket.close", 1008),
        ("websocket.disconnect", 1008),
    ]
