"""Users in an app's own table, through SQLAlchemy 2.

>>> from sqlalchemy import create_engine
>>> from sqlalchemy.orm import DeclarativeBase
>>> class Base(DeclarativeBase):
...     pass
>>> class User(UserMixin, Base):
...     __tablename__ = "users"
>>> engine = create_engine("sqlite://")
>>> Base.metadata.create_all(engine)
>>> users = SQLAlchemyUsers(engine, User)
>>> mia = drive(users.create({"email": "Mia@Example.com", "password": "seven red herons"}))
>>> mia.identity.email
'mia@example.com'
>>> drive(users.authenticate({"email": "mia@example.com", "password": "six red herons"})) is None
True
>>> engine.dispose()
"""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Generic, TypeVar, overload

import msgspec

from powauth._extras import needs
from powauth._options import instance, wrong
from powauth.accounts.base import Account, Params, Rehash, U, UsersContext
from powauth.accounts.changes import ChangeListener
from powauth.accounts.checking import Ids, UserIdCheck, UserIdProblem
from powauth.accounts.fields import FormField
from powauth.accounts.forms import GONE, INVALID
from powauth.accounts.identifiers import Identifier
from powauth.accounts.identity import I, Key, key_text, stored_key
from powauth.accounts.passwords import PasswordHasher, PasswordPolicy
from powauth.backends.base import drive
from powauth.errors import ConfigError, InvalidParams, Overtaken

with needs("users", "SQLAlchemyUsers", "sqlalchemy", "greenlet"):
    import sqlalchemy as sa
    from sqlalchemy.ext.asyncio import AsyncEngine

from powauth.accounts._comparing import compare_with_rows
from powauth.accounts._database import database_of
from powauth.accounts._forms import UserForm, lacks_password
from powauth.accounts._listing import ListedTable, UserLister
from powauth.accounts._mapped import MappedUsers, plain_key
from powauth.accounts._models import (
    AccountMixin,
    EmailMixin,
    UserMixin,
    UsernameMixin,
    UTCDateTime,
    exact_string,
    user_key_string,
    utc_now,
)
from powauth.accounts._reading import AccountReader, Found, proof_of
from powauth.accounts._table import UserTable
from powauth.accounts._watched import WatchedColumns
from powauth.accounts.following import Following, Sessions
from powauth.accounts.rows import SQLAlchemyRows

__all__ = [
    "AccountMixin",
    "EmailMixin",
    "SQLAlchemyUsers",
    "UTCDateTime",
    "UserMixin",
    "UsernameMixin",
    "drive",
    "exact_string",
    "user_key_string",
    "utc_now",
]

T = TypeVar("T")

_ATTEMPTS = 3
"""Tries of a change. A try fails only if the password hash changes, or the user is deleted, meanwhile."""

_OVERTAKEN = {"base": ["was changed at the same time; try again"]}


class SQLAlchemyUsers(UsersContext[U, I], ListedTable, Generic[U, I]):
    """Users in a table of the app, through the app's declarative model.

    The model has `UserMixin`, or the same attributes: a single primary key, a unique user id, a nullable password hash,
    ``is_active``, and optionally ``created_at`` and ``updated_at``.

    A query reads only the columns that an account needs. If ``is_active`` or a field of the identity is a property of
    the model, the query loads the row instead, and powauth reads the property in a database session. During a sign-in,
    a property can make further queries only after the password was verified.

    A mixin of the model may restrict further who is active; see `powauth.accounts.restrictions`.

    The database decides whether a user id is unique. powauth also refuses one that differs from an existing one only by
    case, or that another user has in another column of user ids. A change is one UPDATE statement of
    the changed columns. The model's validators and its ORM events for updates do not run.

    Args:
        engine: the app's ``Engine`` or ``AsyncEngine``. With an ``Engine``, the context is ``blocking``.
        model: the declarative class. It must accept keyword arguments, as declarative classes do.
        identity: the class of identities: a frozen `msgspec.Struct`. Its fields are attributes of the model, and one of
            them is the primary key. By default powauth makes one from the primary key and the user id.
        user_id_field: the attribute of the user id, which users type to sign in. With a tuple of names, such as
            ``("email", "username")``, users sign in with any of them. An earlier one takes precedence.
        hash_field: the attribute of the password hash.
        identifier: normalises the user id. By default `EmailIdentifier` for ``email`` and `UsernameIdentifier` for
            ``username``. Several user ids take a mapping by the attribute's name.
        fields: further attributes that users may set themselves, at registration and later. powauth ignores all others
            that a client sends. A field called ``email`` or ``username`` is normalised as such.
        policy: decides which passwords may be set.
        hasher: hashes and verifies passwords. Contexts may share a hasher and its limit on concurrency.
        clock: returns the current time as an aware datetime, for ``created_at`` and ``updated_at`` and
            for the restrictions of the model.

    Attributes:
        model: the declarative class.
        key_name: the name of the primary key's attribute.
        row_reader: reads rows in database sessions of the app.

    Raises:
        ConfigError: if the model or an option is wrong. The message says which one and what to do.
    """

    @overload
    def __init__(
        self: "SQLAlchemyUsers[U, Any]",
        engine: "sa.Engine | AsyncEngine",
        model: type[U],
        *,
        identity: None = None,
        user_id_field: str | Sequence[str] = "email",
        hash_field: str = "password_hash",
        identifier: Identifier | Mapping[str, Identifier] | None = None,
        fields: Sequence[str] = (),
        policy: PasswordPolicy | None = None,
        hasher: PasswordHasher | None = None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None: ...

    @overload
    def __init__(
        self,
        engine: "sa.Engine | AsyncEngine",
        model: type[U],
        *,
        identity: type[I],
        user_id_field: str | Sequence[str] = "email",
        hash_field: str = "password_hash",
        identifier: Identifier | Mapping[str, Identifier] | None = None,
        fields: Sequence[str] = (),
        policy: PasswordPolicy | None = None,
        hasher: PasswordHasher | None = None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None: ...

    def __init__(
        self,
        engine: "sa.Engine | AsyncEngine",
        model: type[U],
        *,
        identity: type[I] | None = None,
        user_id_field: str | Sequence[str] = "email",
        hash_field: str = "password_hash",
        identifier: Identifier | Mapping[str, Identifier] | None = None,
        fields: Sequence[str] = (),
        policy: PasswordPolicy | None = None,
        hasher: PasswordHasher | None = None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        instance("policy", policy, PasswordPolicy | None, "a PasswordPolicy or None")
        instance("hasher", hasher, PasswordHasher | None, "a PasswordHasher or None")
        database = database_of(engine)
        self.mode = database.mode
        self._users = MappedUsers(model, user_id_field, hash_field, engine.dialect)
        self._form = UserForm(self._users, fields, identifier, policy)
        if not callable(clock):
            raise wrong("clock", "a function that returns an aware datetime", clock)
        self._clock = clock
        reader = AccountReader(self._users, identity, clock)
        self._table = UserTable(database, self._users, reader, self._form)
        self.row_reader = rows = SQLAlchemyRows(self._users, reader, database)
        self._listeners: list[ChangeListener] = []
        self._following = Following(WatchedColumns(self._users, reader.names), self._listeners, rows.proof_in)
        self.model: type[U] = model
        self.key_name = self._users.key
        self.identity = reader.identity
        compare_with_rows(self.identity, model, self.key_name, self._users.key_of_row)
        self.user_id_field, *others = self._users.user_ids
        self.other_user_id_fields = tuple(others)
        self.fields = tuple(fields)
        self.columns = frozenset(self._users.columns)
        self.table_name = self._users.table_name
        self._owns_hasher = hasher is None
        self._hasher = PasswordHasher() if hasher is None else hasher
        self._lister = UserLister(database, self._users, self._hasher, clock)
        self._users.check_room_for_hash(self._hasher.max_length)

    # --- finding ------------------------------------------------------------------------------------------------------

    async def authenticate(self, params: Params) -> Account[I] | None:
        """See `UsersContext.authenticate`. One SELECT.

        Raises:
            Overloaded: if too many passwords are waiting to be verified.
        """
        password = params.get("password")
        found = await self._table.find(self._form.typed_id(self._form.typed_in(params)))
        stored = None if found is None else found.password_hash
        correct = await self._hashing(lambda: self._hasher.verify(stored, password))
        if found is None or not correct:
            return None
        account = await self._table.account(found)
        if not account.active:
            return None
        if not self._hasher.needs_rehash(stored, password):
            return account
        return msgspec.structs.replace(account, rehash=await self._rehash(found, str(password)))

    async def get(self, key: Key) -> Account[I] | None:
        """See `UsersContext.get`. One SELECT."""
        return _account_in(await self._table.read(self._key_clause(key)))

    async def read(self, key: Key, names: Sequence[str]) -> tuple[Account[I], Mapping[str, Any]] | None:
        """See `UsersContext.read`. The names are those of columns. One SELECT."""
        if unknown := [name for name in names if name not in self._users.columns]:
            raise ConfigError(f"{self.model.__name__} has no column {unknown[0]!r}")
        read = await self._table.read(self._key_clause(key), names)
        return None if read is None else (read[1], {name: read[0].values[name] for name in names})

    async def find(self, user_id: object) -> Account[I] | None:
        """See `UsersContext.find`. One SELECT."""
        return _account_in(await self._table.read(self._form.typed_id(user_id)))

    async def get_by(self, **clauses: object) -> Account[I] | None:
        """Return the account whose columns have these values, active or not; ``None`` if there is none, or several.

        A user id is looked for in its normalised form, and then as it is given. One SELECT for each of the two.

        Raises:
            ConfigError: if there is no clause, a clause names no column, or a value is ``None`` or blank. A blank
                value, such as a missing token, would find a row that was not meant.
        """
        if not clauses:
            raise ConfigError("get_by needs a clause, such as email='mia@example.com'")
        for name, value in clauses.items():
            if name not in self._users.columns:
                raise ConfigError(f"get_by: {self.model.__name__} has no column {name!r}")
            if value is None or (isinstance(value, str | bytes) and not value.strip()):
                raise ConfigError(f"get_by: {name} is blank, which identifies nobody; check the value first")
        for wanted in self._form.look_ups(clauses):
            read = await self._table.read(wanted)
            if read is not None:
                return read[1]
        return None

    def login_key(self, params: Params) -> str | None:
        """Return one form of the user id; see `UsersContext.login_key`. It is the normalised form, if there is one."""
        return self._form.login_key(params)

    async def throttle_key(self, params: Params) -> str | None:
        """See `UsersContext.throttle_key`. One SELECT if there are several user ids.

        Otherwise none, or two for a user id that was not typed in its normalised form. If two users' ids differ only by
        case, the sign-ins of one must not reset the count of guesses at the other.
        """
        typed, key = self._form.typed_in(params), self.login_key(params)
        if not self.other_user_id_fields and (key is None or key == typed):
            return key
        found = await self._table.find(self._form.typed_id(typed))
        if not self.other_user_id_fields:
            normalised = await self._table.find(self._form.typed_id(key))
            if found is None or normalised is None or found.key == normalised.key:
                return key
            return f"\0user {key_text(stored_key(found.key))}"  # no login key holds a control character
        if found is not None:
            return f"user {key_text(stored_key(found.key))}"
        return None if key is None else f"nobody {key}"

    def key_of(self, subject: object) -> Key | None:
        """See `UsersContext.key_of`. The key of an identity is in the attribute with the primary key's name.

        This makes no query. A row that was never saved has no key.
        """
        if isinstance(subject, Account):
            return subject.key
        if isinstance(subject, self.identity):
            key: Key = getattr(subject, self.key_name)
            return key
        return self._users.key_of_row(subject) if isinstance(subject, self.model) else None

    async def check_user_ids(self, *, batch: int = 1000) -> AsyncIterator[UserIdProblem]:
        """Yield the stored user ids that are not normalised, and those that collide with each other.

        Run it before users sign in through powauth. ``powauth users check`` prints the result. It reads the table
        twice, in batches, and changes nothing.

        Args:
            batch: the number of users that one query reads.

        Raises:
            StoreUnavailable: if the database cannot be reached.
        """
        check = UserIdCheck(self._form.key_of, self._form.normalized)
        async for users in self._batches(batch):
            check.first(users)
        async for users in self._batches(batch):
            check.second(users)
        for problem in check.problems():
            yield problem

    def registration_fields(self) -> list[FormField]:
        """See `UsersContext.registration_fields`: the user ids, and those of ``fields`` that a new row needs.

        Raises:
            ConfigError: if a column is ``NOT NULL``, has no default, and is not among ``fields``.
        """
        return self._form.registration()

    # --- changing -----------------------------------------------------------------------------------------------------

    def validate(self, params: Params, identity: I | None = None) -> Mapping[str, list[str]]:
        """See `UsersContext.validate`. The policy's hook for breached passwords is not called."""
        return self._form.validate(params, identity)

    async def create(self, params: Params) -> Account[I]:
        """See `UsersContext.create`. INSERT, SELECT of other spellings of the user id, SELECT."""
        values, errors = self._form.check(params, changing=False)
        errors |= await self._ask(lambda: self._form.password_errors(values, None))
        if errors:
            raise InvalidParams(errors)
        password = str(values.pop("password"))
        values[self._users.password_hash] = await self._hashing(lambda: self._hasher.hash(password))
        now = self._clock()
        values |= {name: self._users.time_for(name, now) for name in self._users.times}
        return await self._table.insert(values)

    async def update(
        self, key: Key, params: Params, *, trusted: bool = False, proof: bytes | None = None
    ) -> Account[I]:
        """See `UsersContext.update`. SELECT, UPDATE of the changed columns, SELECT. A new user id takes one more.

        With ``proof``, an UPDATE that locks the row and a SELECT come before the UPDATE, in its transaction.
        """
        account = await self._update(key, params, trusted=trusted, first=False, proof=proof)
        assert account is not None  # noqa: S101 - only a first password may be refused so
        return account

    async def set_first_password(self, key: Key, params: Params) -> Account[I] | None:
        """See `UsersContext.set_first_password`. The statements are those of `update`.

        A user has no password if the hash is ``NULL``, empty, or begins with "!" as Django's unusable passwords do.
        """
        return await self._update(key, params, trusted=False, first=True)

    async def has_password(self, key: Key) -> bool:
        """See `UsersContext.has_password`. One SELECT."""
        read = await self._table.read(self._key_clause(key))
        return read is not None and not lacks_password(read[0].password_hash)

    async def delete(self, key: Key, params: Params | None = None) -> bool:
        """See `UsersContext.delete`. The ORM deletes the row, so the model's cascades apply.

        Raises:
            InvalidParams: if the current password is wrong, or other rows need the user (``base``).
        """
        for _ in range(_ATTEMPTS):
            found = await self._table.find(self._key_clause(key))
            if found is None:
                return False
            if params is not None:
                await self._prove(found, params)
            if await self._table.delete(found):
                return True
        raise InvalidParams(_OVERTAKEN)

    # --- changes by the app's own code --------------------------------------------------------------------------------

    def follow(self, sessions: Sessions) -> None:
        """Listen to the app's database sessions, so that powauth's sessions follow changes that the app commits.

        - If a password hash, a user id or ``is_active`` changes, or a user is deleted, the user's sessions end. The
          session of the request that makes the change stays.
        - If another column of the identity changes, the next request of each session reads the user.

        If the session store is unreachable, a commit that changes credentials fails before anything is written. powauth
        does not see SQL text, upserts, ``bulk_update_mappings``, or changes that the database makes by itself. Sessions
        then end wherever the user is loaded.

        Args:
            sessions: ``Session`` or a subclass, a ``sessionmaker``, an ``async_sessionmaker``, or a ``scoped_session``,
                such as ``db.session`` of Flask-SQLAlchemy. Following one twice has no effect.

        Raises:
            ConfigError: if it is none of these.
        """
        self._following.follow(sessions)

    def unfollow(self) -> None:
        """Undo every `follow` of this users context, for tests that make several of them."""
        self._following.unfollow()

    def add_listener(self, listener: ChangeListener) -> None:
        """See `UsersContext.add_listener`."""
        self._listeners.append(listener)
        if self._following.active:
            listener.track_requests()

    async def close(self) -> None:
        """Close the hasher's threads, if the hasher is the context's own."""
        if self._owns_hasher:
            self._hasher.close()

    # --- inside -------------------------------------------------------------------------------------------------------

    async def _batches(self, size: int) -> AsyncIterator[list[Ids]]:
        names, after = self._users.user_ids, None
        while rows := await self._table.page(after, size):
            yield [
                (plain_key(key), {name: each for name, each in zip(names, ids, strict=True) if isinstance(each, str)})
                for key, *ids in rows
            ]
            after = rows[-1][0]

    async def _update(
        self, key: Key, params: Params, *, trusted: bool, first: bool, proof: bytes | None = None
    ) -> Account[I] | None:
        """Change a user. With ``first``, return ``None`` if the user has a password. It needs no current one."""
        also = [name for name in self._users.columns if name in params]
        for _ in range(_ATTEMPTS):
            read = await self._table.read(self._key_clause(key), also)
            if read is None or not (trusted or read[1].active):
                raise InvalidParams({"base": [GONE]})
            found, account = read
            if proof is not None and not (account.active and account.proof == proof):
                raise Overtaken
            if first and not lacks_password(found.password_hash):
                return None
            wanted = self._form.unchanged(params, found.values)
            values, errors = self._form.check(wanted, changing=True, trusted=trusted, first_password=first)
            user_id = found.user_id
            errors |= await self._ask(
                lambda values=values, user_id=user_id: self._form.password_errors(values, user_id)  # type: ignore[misc]
            )
            if errors:
                raise InvalidParams(errors)
            if not (trusted or first):
                await self._prove(found, params)
            changes = await self._changes(found, values)
            if not changes:
                return account
            changed = await self._table.change(found, changes, proof=proof)
            if changed is not None:
                return changed
        raise InvalidParams(_OVERTAKEN)

    def _key_clause(self, key: Key) -> Mapping[str, object] | None:
        try:
            return {self.key_name: self._users.columns[self.key_name].check_key(key)}
        except ValueError:
            return None

    async def _changes(self, found: Found[U], values: dict[str, Any]) -> dict[str, Any]:
        """Return the columns that the values change, with the hash of a new password."""
        changes = {name: value for name, value in values.items() if name in self._users.columns}
        changes = {name: value for name, value in changes.items() if found.values[name] != value}
        if "password" in values:
            password = str(values["password"])
            changes[self._users.password_hash] = await self._hashing(lambda: self._hasher.hash(password))
        if changes and "updated_at" in self._users.times:
            changes.setdefault("updated_at", self._users.time_for("updated_at", self._clock()))
        return changes

    async def _rehash(self, found: Found[U], password: str) -> Rehash:
        """Make a stronger hash of a verified password."""
        stronger = await self._hashing(lambda: self._hasher.hash(password))
        return Rehash(proof_of(found.user_ids, stronger), lambda: self._table.replace_hash(found, stronger))

    async def _prove(self, found: Found[U], params: Params) -> None:
        given = params.get("current_password")
        if not await self._hashing(lambda: self._hasher.verify(found.password_hash, given)):
            raise InvalidParams({"current_password": [INVALID]})

    # --- where work runs ----------------------------------------------------------------------------------------------

    async def _hashing(self, job: Callable[[], T]) -> T:
        """Hash or verify a password. On an event loop, this runs in the hasher's threads. Otherwise it blocks."""
        return await self._hasher.run_in_thread(job) if self.mode == "async" else self._hasher.run(job)

    async def _ask(self, job: Callable[[], T]) -> T:
        """Run a check of the policy. It runs in a thread on an event loop, because its hook may wait on a network."""
        if self.mode == "async" and self._form.policy.breached is not None:
            return await asyncio.to_thread(job)
        return job()


def _account_in(read: tuple[Any, Account[I]] | None) -> Account[I] | None:
    return None if read is None else read[1]
