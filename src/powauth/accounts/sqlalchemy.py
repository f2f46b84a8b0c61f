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
>>> mia.email
'mia@example.com'
>>> drive(users.authenticate({"email": "mia@example.com", "password": "six red herons"})) is None
True
>>> engine.dispose()
"""

import asyncio
import hashlib
import logging
import warnings
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any, Generic, TypeVar
from uuid import UUID

import msgspec

from powauth._extras import needs
from powauth.accounts.base import UsersContext
from powauth.accounts.identifiers import EmailIdentifier, Identifier, UsernameIdentifier
from powauth.accounts.passwords import PasswordHasher, PasswordPolicy
from powauth.backends.base import drive
from powauth.errors import ConfigError, ConfigWarning, InvalidParams

with needs("users", "SQLAlchemyUsers", "sqlalchemy", "greenlet"):
    import sqlalchemy as sa
    from sqlalchemy import orm
    from sqlalchemy.exc import DBAPIError, NoInspectionAvailable, StatementError
    from sqlalchemy.ext.asyncio import AsyncEngine
    from sqlalchemy.orm.exc import DetachedInstanceError

from powauth.accounts._columns import fields_of
from powauth.accounts._database import database_of
from powauth.accounts._models import AccountMixin, EmailMixin, UserMixin, UsernameMixin, UTCDateTime, utc_now
from powauth.accounts._rows import RowLoader
from powauth.accounts._snapshot import SnapshotCodec

__all__ = ["AccountMixin", "EmailMixin", "SQLAlchemyUsers", "UTCDateTime", "UserMixin", "UsernameMixin", "drive"]

U = TypeVar("U")
T = TypeVar("T")

log = logging.getLogger("powauth.accounts")

_HASH = "password_hash"
_TIMES = ("created_at", "updated_at")

_ATTEMPTS = 3
"""How often a change is tried that others overtake: each needs a change of the password in between."""

_BLANK = "can't be blank"
_INVALID = "is invalid"
_TAKEN = "has already been taken"
_GONE = "the user no longer exists"

Errors = dict[str, list[str]]


class SQLAlchemyUsers(UsersContext[U], Generic[U]):
    """Users in a table of the app, seen through the app's declarative model.

    The model has `UserMixin`, or the same attributes: a single primary key, a unique user id, a nullable
    ``password_hash``, ``is_active``, and if it likes ``created_at`` and ``updated_at``. With a primary key that may be
    used again after a deletion (an integer), ``created_at`` should be a `UTCDateTime`: it tells the second owner from
    the first.

    Users that come back are detached from any session, with their columns loaded. Uniqueness is the database's; no
    query asks first. Changes are single UPDATE statements of the changed columns alone: ORM events of the model's
    updates, and its validators, do not run.

    Args:
        engine: The app's `Engine` or `AsyncEngine`. With an `Engine` the context is ``blocking``.
        model: The declarative class. It is made with keyword arguments, as declarative classes are.
        user_id_field: The attribute that users name themselves by.
        identifier: How it is normalised; by default `EmailIdentifier` for ``email`` and `UsernameIdentifier` for
            ``username``.
        fields: Further attributes that users set themselves, when they register and later. Nothing else is ever
            assigned from what a client sends. One called ``email`` or ``username`` is normalised as such.
        snapshot: Attributes that sessions keep beside the primary key, the user id, the times, and ``is_active`` where
            that is a column.
        policy: Which passwords may be set.
        hasher: How they are kept. Contexts may share one, and with it its bound on concurrency.
        clock: The time now, aware; for ``created_at`` and ``updated_at``.

    Raises:
        ConfigError: the model or an option is wrong; the message says which and what to do.
    """

    authenticates_current = True

    def __init__(
        self,
        engine: "sa.Engine | AsyncEngine",
        model: type[U],
        *,
        user_id_field: str = "email",
        identifier: Identifier | None = None,
        fields: Sequence[str] = (),
        snapshot: Sequence[str] = (),
        policy: PasswordPolicy | None = None,
        hasher: PasswordHasher | None = None,
        clock: Callable[[], datetime] = utc_now,
    ) -> None:
        self._database = database_of(engine)
        self.mode = self._database.mode
        self._model = self.user_type = model
        self._mapper = mapper = _mapper_of(model)
        self._columns = fields_of(mapper)
        self._key = self._key_of(mapper)
        self._user_id = self.user_id_field = user_id_field
        self._check_model()
        self._identifiers = self._choose_identifiers(identifier, fields)
        self._fields = tuple(fields)
        self._policy = PasswordPolicy() if policy is None else policy
        self._owns_hasher = hasher is None
        self._hasher = PasswordHasher() if hasher is None else hasher
        if not callable(clock):
            raise ConfigError("clock must be a function that returns an aware datetime")
        self._clock = clock
        self._times = tuple(name for name in _TIMES if name in self._columns)
        self._codec = self._make_codec(snapshot)
        self._reused_key = self._columns[self._key].type is not UUID
        self._dated = "created_at" in self._columns and isinstance(mapper.columns["created_at"].type, UTCDateTime)
        if self._reused_key and not self._dated:
            warnings.warn(
                f"{model.__name__}.{self._key} is no UUID: if the database gives it to another user after a deletion, "
                "the first user's session becomes the second's; add created_at as a UTCDateTime, or use UserMixin's id",
                ConfigWarning,
                stacklevel=2,
            )

    # Construction

    def _key_of(self, mapper: orm.Mapper[U]) -> str:
        name = self._model.__name__
        if mapper.polymorphic_on is not None:
            raise ConfigError(f"{name} has subclasses in its table (polymorphic_on); give a class without them")
        if len(mapper.primary_key) != 1:
            raise ConfigError(f"{name} must have one primary key column; it has {len(mapper.primary_key)}")
        key = mapper.get_property_by_column(mapper.primary_key[0]).key
        if self._columns[key].type not in {UUID, int, str}:
            raise ConfigError(f"{name}.{key}, the primary key, must be a UUID, an integer or text")
        return key

    def _check_model(self) -> None:
        name = self._model.__name__
        for attribute in (self._user_id, _HASH):
            if not isinstance(attribute, str) or attribute not in self._columns:
                raise ConfigError(f"{name} has no column {attribute!r}; add it, or derive the model from UserMixin")
            if self._columns[attribute].type is not str:
                raise ConfigError(f"{name}.{attribute} must be a column of text")
        if not self._columns[self._user_id].unique:
            raise ConfigError(f"{name}.{self._user_id} must be unique in the database: add unique=True to its column")
        if not hasattr(self._model, "is_active"):
            raise ConfigError(f"{name} needs is_active, a property or column that is True for users who may sign in")

    def _choose_identifiers(self, identifier: Identifier | None, fields: Sequence[str]) -> dict[str, Identifier]:
        known: dict[str, Identifier] = {"email": EmailIdentifier(), "username": UsernameIdentifier()}
        chosen = identifier or known.get(self._user_id)
        if chosen is None:
            raise ConfigError(f"say how {self._user_id!r} is normalised: identifier=UsernameIdentifier(), or your own")
        if not callable(getattr(chosen, "normalize", None)):
            raise ConfigError("identifier must have a method normalize(value) -> str, as EmailIdentifier() has")
        if isinstance(fields, str):
            raise ConfigError(f"fields must be a sequence of names, such as [{fields!r}]")
        for name in fields:
            if name not in self._columns:
                raise ConfigError(f"fields names {name!r}, which is no column of {self._model.__name__}")
            if name in {self._key, _HASH, "is_active", *_TIMES}:
                raise ConfigError(f"fields names {name!r}, which no user may set")
            if name in {"password", "current_password"} or self._columns[name].type is None:
                raise ConfigError(f"fields names {name!r}, whose values cannot come from a form or from JSON")
        return {name: each for name, each in known.items() if name in fields} | {self._user_id: chosen}

    def _make_codec(self, snapshot: Sequence[str]) -> SnapshotCodec[U]:
        if isinstance(snapshot, str):
            raise ConfigError(f"snapshot must be a sequence of names, such as [{snapshot!r}]")
        for name in snapshot:
            if name not in self._columns:
                raise ConfigError(f"snapshot names {name!r}, which is no column of {self._model.__name__}")
            if name == _HASH:
                raise ConfigError("snapshot must not hold password_hash: sessions never carry what proves a user")
        active = ["is_active"] if "is_active" in self._columns else []
        names = dict.fromkeys([self._key, self._user_id, *self._times, *active, *snapshot])
        loaded = (*names, _HASH)
        self._rows = RowLoader(self._model, self._mapper, self._key, loaded)
        self._of_rows = sa.select(*self._rows.attributes)
        self._of_entities = sa.select(self._model).options(*(orm.undefer(self._attribute(name)) for name in loaded))
        self._queries: dict[tuple[object, ...], sa.Select[Any]] = {}
        return SnapshotCodec(self._model, self._mapper, self._key, [self._columns[name] for name in names])

    def _attribute(self, name: str) -> orm.InstrumentedAttribute[Any]:
        attribute: orm.InstrumentedAttribute[Any] = getattr(self._model, name)
        return attribute

    # What a session asks

    def key(self, user: U) -> str:
        """The primary key: a UUID in 32 hexadecimal digits, a number in decimal, text as it is."""
        value = self._identity(user)[0]
        return value.hex if isinstance(value, UUID) else str(value)

    def fingerprint(self, user: U) -> bytes:
        """A hash of the user id and the password hash."""
        proof = msgspec.msgpack.encode((getattr(user, self._user_id), getattr(user, _HASH)))
        return hashlib.blake2b(proof, digest_size=16, person=b"powauth users").digest()

    def is_active(self, user: U) -> bool:
        """Whether the model's ``is_active`` is ``True``: nothing else will do (CVE-2022-24880).

        Raises:
            ConfigError: the user comes from a session, and ``is_active`` reads a column that the snapshot lacks.
        """
        try:
            active: object = getattr(user, "is_active")  # noqa: B009 - of the app's type, which mypy cannot know
        except DetachedInstanceError as error:
            raise ConfigError("is_active reads a column that sessions do not keep: name it in snapshot=") from error
        return active is True

    def snapshot(self, user: U) -> bytes:
        """See `SnapshotCodec`."""
        return self._codec.encode(user)

    def restore(self, snapshot: bytes) -> U:
        """See `SnapshotCodec`."""
        return self._codec.decode(snapshot)

    # Finding

    async def authenticate(self, params: Mapping[str, object]) -> U | None:
        """See `UsersContext.authenticate`. One SELECT; one UPDATE more when the hash is made stronger.

        Raises:
            Overloaded: too many passwords are waiting to be verified.
        """
        password = params.get("password")
        user = await self._find(self._user_id, params.get(self._user_id))
        for _ in range(_ATTEMPTS):
            stored = None if user is None else getattr(user, _HASH)
            correct = await self._verify(stored, password)
            if user is None or not correct or not self.is_active(user):
                return None
            if not self._hasher.needs_rehash(stored):
                return user
            if await self._rehash(user, stored, str(password)):
                return user
            # Somebody changed the hash meanwhile: another sign-in made it stronger, or the password is a new one.
            user = await self._load(user)
        return None

    def login_key(self, params: Mapping[str, object]) -> str | None:
        """The normalised user id; see `UsersContext.login_key`."""
        try:
            return self._identifiers[self._user_id].normalize(params.get(self._user_id))
        except ValueError:
            return None

    async def get_by(self, **clauses: object) -> U | None:
        """See `UsersContext.get_by`. Several users are no user: ``None``.

        Raises:
            ConfigError: a clause names no column or has the value ``None``, or there is no clause.
        """
        if not clauses:
            raise ConfigError("get_by needs a clause, such as email='mia@example.com'")
        for name, value in clauses.items():
            if name not in self._columns:
                raise ConfigError(f"get_by: {self._model.__name__} has no column {name!r}")
            if value is None:
                # Otherwise a token that a client left out would find the first user who has none.
                raise ConfigError(f"get_by: {name} is None, which names nobody; check the value before the look-up")
        try:
            wanted = {name: self._cleaned(name, value) for name, value in clauses.items()}
        except ValueError:
            return None
        if any(value in ("", b"") for value in wanted.values()):
            return None
        return await self._select(wanted)

    async def reload(self, user: U) -> U | None:
        """See `UsersContext.reload`. Users who are not active come back too."""
        return await self._load(user)

    async def _find(self, name: str, value: object) -> U | None:
        try:
            wanted = self._cleaned(name, value)
        except ValueError:
            return None
        return await self._select({name: wanted})

    async def _load(self, user: U) -> U | None:
        key, created_at = self._identity(user)
        found = await self._users_where({self._key: key})
        return found[0] if found and self._is_same(found[0], created_at) else None

    def _is_same(self, found: U, created_at: object) -> bool:
        return created_at is None or created_at == getattr(found, "created_at", None)

    async def _select(self, wanted: Mapping[str, object]) -> U | None:
        try:
            found = await self._users_where(wanted)
        except StatementError:  # a value that the column cannot have
            return None
        # A collation may find "mike" for a name with a dotless i, or with trailing spaces: what was asked for counts.
        exact = [
            user
            for user in found
            if all(getattr(user, name) == value for name, value in wanted.items() if isinstance(value, str))
        ]
        return exact[0] if len(found) == len(exact) == 1 else None

    async def _users_where(self, wanted: Mapping[str, object]) -> Sequence[U]:
        """At most two users: more are no more use than two."""
        parameters = {f"wanted_{name}": value for name, value in wanted.items()}
        if not self._rows.suffices():
            return await self._database.run(lambda session: self._entities(session, wanted, parameters))
        query = self._query(self._of_rows, wanted)
        rows = await self._database.connected(lambda connection: connection.execute(query, parameters).all())
        return [self._rows.make(row) for row in rows]

    def _read(self, session: orm.Session, key: object) -> U | None:
        found = self._entities(session, {self._key: key}, {f"wanted_{self._key}": key})
        return found[0] if found else None

    def _entities(
        self, session: orm.Session, wanted: Mapping[str, object], parameters: Mapping[str, object]
    ) -> Sequence[U]:
        return session.scalars(self._query(self._of_entities, wanted), parameters).unique().all()

    # The parameters of `Select` differ between SQLAlchemy 2.0 and 2.1.
    def _query(self, selected: "sa.Select[Any]", wanted: Mapping[str, object]) -> "sa.Select[Any]":
        """A statement for at most two users. One object for each set of columns.

        SQLAlchemy knows a statement again by going through all of it, which takes longer than SQLite's answer; of the
        same object it remembers the result.
        """
        shape = (selected, *wanted)
        query = self._queries.get(shape)
        if query is None:
            clauses = (self._attribute(name) == sa.bindparam(f"wanted_{name}") for name in wanted)
            query = self._queries[shape] = selected.where(*clauses).limit(2)
        return query

    def _identity(self, user: U) -> tuple[Any, datetime | None]:
        """The primary key and, where keys are used again, the time of registration. Never a query."""
        state = orm.attributes.instance_state(user)
        key = state.identity[0] if state.identity else state.dict.get(self._key)
        if key is None:
            raise ConfigError("this user was never saved: it has no primary key")
        return key, state.dict.get("created_at") if self._reused_key and self._dated else None

    # Changing

    def change(self, params: Mapping[str, object], user: U | None = None) -> Mapping[str, list[str]]:
        """See `UsersContext.change`. The policy's hook for breached passwords is not called."""
        values, errors = self._validated(params, user)
        return errors | self._password_errors(values, user, offline=True)

    async def create(self, params: Mapping[str, object]) -> U:
        """See `UsersContext.create`. One INSERT."""
        values, errors = self._validated(params, None)
        errors |= await self._ask(lambda: self._password_errors(values, None))
        if errors:
            raise InvalidParams(errors)
        password = str(values.pop("password"))
        values[_HASH] = await self._work(lambda: self._hasher.hash(password))
        values |= dict.fromkeys(self._times, self._clock())

        def insert(session: orm.Session) -> U:
            user = self._model(**values)
            session.add(user)
            session.flush()
            absent = sa.inspect(user).unloaded & self._columns.keys()
            if absent:  # made by the database, and not returned by it
                session.refresh(user, absent)
            session.commit()
            return user

        try:
            return await self._database.run(insert)
        except StatementError as error:
            raise await self._refused(error, values, None) from error

    async def update(self, user: U, params: Mapping[str, object], *, trusted: bool = False) -> U:
        """See `UsersContext.update`. SELECT, UPDATE of the changed columns, SELECT."""
        key, created_at = self._identity(user)
        for _ in range(_ATTEMPTS):
            row = await self._load(user)
            if row is None or not (trusted or self.is_active(row)):
                raise InvalidParams({"base": [_GONE]})
            values, errors = self._validated(params, row, trusted=trusted)
            errors |= await self._ask(lambda values=values, row=row: self._password_errors(values, row))  # type: ignore[misc]
            if errors:
                raise InvalidParams(errors)
            stored = getattr(row, _HASH)
            if not trusted:
                await self._prove(stored, params)
            changes = {name: value for name, value in values.items() if name in self._columns}
            changes = {name: value for name, value in changes.items() if getattr(row, name) != value}
            if "password" in values:
                password = str(values["password"])
                changes[_HASH] = await self._work(lambda password=password: self._hasher.hash(password))  # type: ignore[misc]
            if not changes:
                return row
            if "updated_at" in self._times:
                changes.setdefault("updated_at", self._clock())
            changed = await self._write(key, created_at, stored, changes)
            if changed is not None:
                return changed
        raise InvalidParams({"base": ["was changed at the same time; try again"]})

    async def delete(self, user: U, params: Mapping[str, object] | None = None) -> bool:
        """See `UsersContext.delete`. Through the ORM, so that the model's cascades apply.

        Raises:
            InvalidParams: the current password is wrong, or other rows need the user (``base``).
        """
        for _ in range(_ATTEMPTS):
            row = await self._load(user)
            if row is None:
                return False
            stored = getattr(row, _HASH)
            if params is not None:
                await self._prove(stored, params)
            try:
                if await self._database.run(lambda session, row=row, stored=stored: self._remove(session, row, stored)):  # type: ignore[misc]
                    return True
            except DBAPIError as error:
                raise InvalidParams({"base": ["cannot be deleted while other records need it"]}) from error
        raise InvalidParams({"base": ["was changed at the same time; try again"]})

    async def close(self) -> None:
        """Let go of the hasher's threads, if the hasher is the context's own."""
        if self._owns_hasher:
            self._hasher.close()

    def _validated(
        self, params: Mapping[str, object], user: U | None, *, trusted: bool = False
    ) -> tuple[dict[str, Any], Errors]:
        """The clean values of what may be set, the password as it is, and what is wrong with the rest."""
        values: dict[str, Any] = {}
        errors: Errors = {}
        allowed = [name for name in self._columns if name != self._key] if trusted else [self._user_id, *self._fields]
        for name in allowed:
            if name not in params:
                if user is None and (name == self._user_id or self._columns[name].required):
                    errors[name] = [_BLANK]
                continue
            try:
                values[name] = self._cleaned(name, params[name], nullable=trusted and self._columns[name].nullable)
            except ValueError as error:
                errors[name] = [str(error)]
        if trusted:
            errors |= {str(name): ["cannot be set"] for name in params if name not in allowed and name != "password"}
        elif user is not None and _is_blank(params.get("current_password")):
            errors["current_password"] = [_BLANK]
        password = params.get("password")
        if user is None or ("password" in params and password != ""):  # an empty box of a form changes nothing
            values["password"] = password
        return values, errors

    def _cleaned(self, name: str, value: object, *, nullable: bool = False) -> Any:
        if value is None and nullable:
            return None
        if name in self._identifiers:
            value = self._identifiers[name].normalize(value)
        return self._columns[name].check(value)

    def _password_errors(self, values: Mapping[str, Any], user: U | None, *, offline: bool = False) -> Errors:
        if "password" not in values:
            return {}
        password = values["password"]
        if _is_blank(password):
            return {"password": [_BLANK]}
        user_id = values.get(self._user_id) or (None if user is None else getattr(user, self._user_id))
        messages = self._policy.check(password, user_id, offline=offline)
        return {"password": messages} if messages else {}

    async def _prove(self, stored: object, params: Mapping[str, object]) -> None:
        if not await self._verify(stored, params.get("current_password")):
            raise InvalidParams({"current_password": [_INVALID]})

    async def _write(self, key: object, created_at: object, stored: object, changes: Mapping[str, Any]) -> U | None:
        """Write and read back, unless the row is gone or its password is another by now."""

        def work(session: orm.Session) -> U | None:
            if not self._update_row(session, key, stored, changes):
                return None
            changed = self._read(session, key)
            session.commit()
            return changed

        try:
            return await self._database.run(work)
        except StatementError as error:
            raise await self._refused(error, changes, key) from error

    def _update_row(self, session: orm.Session, key: object, stored: object, changes: Mapping[str, Any]) -> bool:
        statement = (
            sa.update(self._model)
            .where(self._attribute(self._key) == key, self._attribute(_HASH) == stored)
            .values({self._attribute(name): value for name, value in changes.items()})
            .execution_options(synchronize_session=False)
        )
        result = session.execute(statement)
        return isinstance(result, sa.CursorResult) and result.rowcount == 1

    def _remove(self, session: orm.Session, row: U, stored: object) -> bool:
        key = self._identity(row)[0]
        # Takes the row's lock on every database, and finds out whether it is still the row that was proved.
        if not self._update_row(session, key, stored, {_HASH: self._attribute(_HASH)}):
            return False
        session.delete(self._read(session, key))
        session.commit()
        return True

    async def _rehash(self, user: U, stored: object, password: str) -> bool:
        stronger = await self._work(lambda: self._hasher.hash(password))
        changes: dict[str, Any] = {_HASH: stronger}
        if "updated_at" in self._times:
            changes["updated_at"] = self._attribute("updated_at")  # no change that the user made
        key = self._identity(user)[0]

        def work(session: orm.Session) -> bool:
            written = self._update_row(session, key, stored, changes)
            session.commit()
            return written

        if not await self._database.run(work):
            return False
        orm.attributes.set_committed_value(user, _HASH, stronger)
        return True

    async def _refused(self, error: StatementError, values: Mapping[str, Any], key: object) -> Exception:
        """What a refused write means: a value that another user has, or that some constraint does not allow."""
        # ``None`` is taken by nobody: any number of rows may have it in a unique column.
        given = [name for name in (self._user_id, *self._fields) if values.get(name) is not None]
        unique = [name for name in given if self._columns[name].unique]

        def taken(session: orm.Session) -> list[str]:
            own = self._attribute(self._key)
            found = []
            for name in unique:
                others = sa.select(own).where(self._attribute(name) == values[name])
                if key is not None:
                    others = others.where(own != key)
                if session.scalars(others.limit(1)).first() is not None:
                    found.append(name)
            return found

        names = await self._database.run(taken)
        if not names:
            log.warning("the database refused a user's values: %s", type(error).__name__)
        return InvalidParams({name: [_TAKEN] for name in names} or {"base": ["could not be saved"]})

    # Where work runs

    async def _verify(self, stored: object, password: object) -> bool:
        return await self._work(lambda: self._hasher.verify(stored, password))

    async def _work(self, job: Callable[[], T]) -> T:
        """Hash or verify: here where nobody else is kept waiting, in the hasher's threads on an event loop."""
        return await self._hasher.run_in_thread(job) if self.mode == "async" else self._hasher.run(job)

    async def _ask(self, job: Callable[[], T]) -> T:
        """The policy, whose hook may wait on a network."""
        if self.mode == "async" and self._policy.breached is not None:
            return await asyncio.to_thread(job)
        return job()


def _is_blank(value: object) -> bool:
    return value is None or value == ""


def _mapper_of(model: type[U]) -> "orm.Mapper[U]":
    try:
        mapper = sa.inspect(model)
    except NoInspectionAvailable:
        mapper = None
    if not isinstance(mapper, orm.Mapper):
        raise ConfigError("model must be a SQLAlchemy declarative class, such as class User(UserMixin, Base)")
    return mapper
