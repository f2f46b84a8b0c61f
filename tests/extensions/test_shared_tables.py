"""One table of an extension for several authenticators: they must have the same users."""

import asyncio
import gc
import weakref
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase

from harness.support import SECRET, MemoryUsers
from harness.users_databases import BareUser, Base, blocking_engine, cheap_hasher, table_name
from powauth import ConfigError, CredentialsCache, Extension, SessionAuth, UsersContext
from powauth.accounts.sqlalchemy import SQLAlchemyUsers
from powauth.accounts.user_tables import bind_to_users
from powauth.backends.base import drive
from powauth.backends.memory import MemoryBackend
from powauth.extensions.api_keys import ApiKeyMixin, ApiKeys
from powauth.extensions.audit import Audit, AuditMixin
from powauth.extensions.passkeys import PasskeyMixin, Passkeys
from powauth.extensions.second_factor import (
    RecoveryCodeMixin,
    RecoveryCodes,
    SecondFactor,
    Totp,
    TotpMixin,
)
from powauth.extensions.second_factor.tables import SQLTotpStore

SEED = "JBSWY3DPEHPK3PXPJBSWY3DPEHPK3PXP"
ADA = {"email": "ada@example.org", "password": "seven red herons"}


class Customer(BareUser, Base):
    __tablename__ = table_name()


class Admin(BareUser, Base):
    __tablename__ = table_name()


class Models:
    """Models of each extension, made anew for each test."""

    def __init__(self) -> None:
        class Own(DeclarativeBase):
            pass

        class Authenticator(TotpMixin, Own):
            __tablename__ = "authenticators"

        class Code(RecoveryCodeMixin, Own):
            __tablename__ = "codes"

        class Passkey(PasskeyMixin, Own):
            __tablename__ = "passkeys"

        class ApiKey(ApiKeyMixin, Own):
            __tablename__ = "api_keys"

        class Entry(AuditMixin, Own):
            __tablename__ = "audit"

        self.metadata = Own.metadata
        self.totp: Any = Authenticator
        self.codes: Any = Code
        self.passkeys: Any = Passkey
        self.keys: Any = ApiKey
        self.audit: Any = Entry


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    with blocking_engine("sqlite", str(tmp_path), Customer, Admin) as engine:
        yield engine


def _users(engine: Any, model: type[Any]) -> SQLAlchemyUsers[Any, Any]:
    return SQLAlchemyUsers(engine, model, hasher=cheap_hasher())


def _auth(users: UsersContext[Any, Any], name: str, *extensions: Extension[Any], **options: Any) -> Any:
    given = {"backend": MemoryBackend(), "public_url": "https://app.example", **options}
    return SessionAuth(
        secret_key=SECRET, users=users, session_key=name, current_user_key=name, extensions=extensions, **given
    )


Make = Callable[[Models, Any], Extension[Any]]

SHARED: dict[str, Make] = {
    "authenticator apps": lambda models, engine: SecondFactor(Totp(engine, models.totp)),
    "recovery codes": lambda models, engine: SecondFactor(
        Totp(engine, Models().totp), RecoveryCodes(engine, models.codes)
    ),
    "passkeys": lambda models, engine: Passkeys(engine, models.passkeys),
    "the audit log": lambda models, engine: Audit(engine, models.audit, synchronous=True),
}


@pytest.mark.parametrize("make", SHARED.values(), ids=SHARED)
def test_mfa_a_table_never_serves_users_of_two_tables(make: Make, engine: sa.Engine) -> None:
    """Customer 1 and administrator 1 have one key. The factor of one would be that of the other."""
    models = Models()
    _auth(_users(engine, Customer), "customer", make(models, engine))
    message = f"users in '{Customer.__tablename__}', and an authenticator with the users in '{Admin.__tablename__}'"
    with pytest.raises(ConfigError, match=message):
        _auth(_users(engine, Admin), "admin", make(models, engine))
    _auth(_users(engine, Admin), "admin", make(Models(), engine))


def test_mfa_one_extension_for_users_of_two_tables_is_refused(engine: sa.Engine) -> None:
    given: Any = SecondFactor(Totp(engine, Models().totp))
    _auth(_users(engine, Customer), "customer", given)
    with pytest.raises(ConfigError, match="give each authenticator a model of its own"):
        _auth(_users(engine, Admin), "admin", given)


def test_mfa_a_store_of_the_app_never_serves_users_of_two_tables(engine: sa.Engine) -> None:
    class Store(SQLTotpStore):
        def bind(self, users: UsersContext[Any, Any]) -> None:
            bind_to_users(self, users)

    store = Store(engine, Models().totp)
    _auth(_users(engine, Customer), "customer", SecondFactor(Totp(store)))
    with pytest.raises(ConfigError, match="Store has rows of the users"):
        _auth(_users(engine, Admin), "admin", SecondFactor(Totp(store)))


def test_api_keys_of_two_tables_of_users_need_two_namespaces(engine: sa.Engine) -> None:
    models = Models()

    def auth(model: type[Any], namespace: str) -> None:
        store = CredentialsCache(MemoryBackend(), namespace=namespace)
        _auth(_users(engine, model), "auth", ApiKeys(engine, models.keys), store=store, backend=None)

    auth(Customer, "shop")
    auth(Admin, "admin")
    with pytest.raises(ConfigError, match="ApiKey has rows of the users"):
        auth(Admin, "shop")


@pytest.mark.parametrize("of", ["one engine", "two engines", "an engine of each kind"])
def test_authenticators_of_the_same_users_share_their_factors(of: str, engine: sa.Engine) -> None:
    """Such as a site with a cookie and an API with tokens."""
    models, other = Models(), engine
    models.metadata.create_all(engine)
    if of == "two engines":
        other = sa.create_engine(engine.url)
    site = _auth(_users(engine, Customer), "site", SecondFactor(Totp(engine, models.totp)))
    key = drive(site.create_account(ADA)).id
    assert drive(site.extension(SecondFactor).factor(Totp).adopt(key, SEED))

    async def shares() -> bool:
        own: Any = create_async_engine(engine.url.set(drivername="sqlite+aiosqlite")) if "kind" in of else other
        api = _auth(_users(own, Customer), "api", SecondFactor(Totp(own, models.totp)))
        with pytest.raises(ConfigError, match="give each authenticator a model of its own"):
            _auth(_users(own, Admin), "admin", SecondFactor(Totp(own, models.totp)))
        found: bool = await api.extension(SecondFactor).is_on(key)
        if "kind" in of:
            await own.dispose()
        return found

    assert asyncio.run(shares())
    if other is not engine:
        other.dispose()


@pytest.mark.parametrize("url", ["sqlite://", None])
def test_a_model_may_have_a_table_in_each_of_two_databases(url: str | None, tmp_path: Path) -> None:
    models = Models()
    for number, model in enumerate([Customer, Admin]):
        engine = sa.create_engine(url or f"sqlite:///{tmp_path}/{number}.db")
        _auth(_users(engine, model), "auth", SecondFactor(Totp(engine, models.totp)))
        engine.dispose()


def test_a_model_may_have_a_table_in_each_of_two_schemas(engine: sa.Engine) -> None:
    models = Models()
    for name, model in {"shop": Customer, "admin": Admin}.items():
        own = engine.execution_options(schema_translate_map={None: name})
        _auth(_users(own, model), "auth", SecondFactor(Totp(own, models.totp)))


def test_users_of_whom_no_table_is_known_are_never_refused(engine: sa.Engine) -> None:
    models = Models()
    for users in (MemoryUsers(), _users(engine, Customer), MemoryUsers()):
        _auth(users, "auth", SecondFactor(Totp(engine, models.totp)))


def test_the_name_of_the_users_is_their_table_with_its_schema(engine: sa.Engine) -> None:
    class Employee(BareUser, Base):
        __tablename__ = "employees"
        __table_args__ = {"schema": "staff"}  # noqa: RUF012

    assert _users(engine, Employee).table_name == "staff.employees"
    assert MemoryUsers().table_name is None


def test_a_model_that_is_gone_leaves_nothing(engine: sa.Engine) -> None:
    def made() -> weakref.ref[Any]:
        models = Models()
        _auth(_users(engine, Customer), "auth", Passkeys(engine, models.passkeys))
        return weakref.ref(models.passkeys)

    model = made()
    gc.collect()
    assert model() is None


def test_an_object_that_cannot_be_noted_is_never_refused(engine: sa.Engine) -> None:
    class Slots:
        __slots__ = ()

    store = Slots()
    bind_to_users(store, _users(engine, Customer))
    bind_to_users(store, _users(engine, Admin))


def test_an_engine_that_is_gone_holds_no_model(tmp_path: Path, engine: sa.Engine) -> None:
    models = Models()
    own = sa.create_engine(f"sqlite:///{tmp_path}/own.db")
    bind_to_users(models.audit, _users(engine, Customer), own)
    own.dispose()
    del own
    gc.collect()
    own = sa.create_engine(f"sqlite:///{tmp_path}/own.db")
    bind_to_users(models.audit, _users(engine, Admin), own)
    own.dispose()
