"""`ApiKeyAuthenticator`: signs each request in by the API key in its ``Authorization``."""

import hashlib
import hmac
import logging
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any, ClassVar, Final, Generic, NoReturn

import msgspec

from powauth._times import moment
from powauth.accounts.anywhere import call_anywhere
from powauth.accounts.base import Account, U
from powauth.accounts.changes import Change
from powauth.accounts.fan_out import FanOut
from powauth.accounts.hooks import Parts
from powauth.accounts.identity import I, Key
from powauth.accounts.service import AS_BEFORE, Grant
from powauth.accounts.user_keys import user_key_in
from powauth.errors import ConfigError, Refused, StoreUnavailable
from powauth.events import log
from powauth.extensions.api_keys._table import KeyRow, KeyTable
from powauth.extensions.api_keys.events import ENDED, REFUSED
from powauth.extensions.api_keys.form import KeyForm, PresentedKey
from powauth.http.connection import Connection
from powauth.plug import Authenticator

USE_NOTED: Final = timedelta(minutes=1)
"""The last use of a key is written at most once in this time."""

ScopesOf = Callable[[I], frozenset[str] | None]
"""Returns the scopes of an identity; ``None`` if the app has no scopes."""


class _NotValid(Exception):
    """The key of a request is not valid.

    Attributes:
        why: the reason, for the event.
        key: the key of its owner, if that is known.
    """

    def __init__(self, why: str, key: Key | None = None) -> None:
        super().__init__(why)
        self.why = why
        self.key = key


class Owner(msgspec.Struct, Generic[I], frozen=True):
    """The user of a key, as the users context has just read it.

    Attributes:
        account: the account.
        created_at: the time at which it was created, if the model has it.
    """

    account: Account[I]
    created_at: datetime | None


class Owners(Generic[I]):
    """Reads the owners of keys.

    Args:
        parts: the parts of the authenticator of the sessions.
    """

    def __init__(self, parts: Parts[I]) -> None:
        self._users: Final = parts.users
        self._columns: Final = [*({"created_at"} & {*parts.users.columns})]

    async def read(self, key: Key) -> Owner[I] | None:
        """Return a user; ``None`` if the user is gone or not active. One query.

        Raises:
            StoreUnavailable: if the users cannot be reached.
        """
        account: Account[I] | None
        created_at: object = None
        if self._columns:
            read = await self._users.read(key, self._columns)
            account = None if read is None else read[0]
            created_at = None if read is None else read[1]["created_at"]
        else:
            account = await self._users.get(key)
        if not isinstance(account, Account) or account.active is not True:
            return None
        if not isinstance(created_at, datetime):
            return Owner(account, None)
        return Owner(account, created_at.replace(tzinfo=UTC) if created_at.tzinfo is None else created_at)


def proof_hash(account: Account[Any], public_id: str) -> str:
    """Return the hash of an account's proof, for the row of a key.

    The hash needs no secret: the users table, in the same database, holds the data of the proof anyway.
    """
    return hashlib.sha256(public_id.encode() + b"\0" + account.proof).hexdigest()


class ApiKeyAuthenticator(Authenticator[U, I]):
    """Signs requests in by API keys alone. `ApiKeys` makes it, and puts it beside the sessions of a `SessionAuth`.

    Use it by itself in front of an app that has no sessions: ``SessionAuthMiddleware(app, keys.authenticator)``.

    A key never begins a session, never changes an account, and never makes another key. It is never fresh.

    Args:
        parts: the parts of the authenticator of the sessions.
        table: the keys.
        form: finds the key of a request.
        owners: reads the owners of keys.
        scopes_of: returns the scopes of a user.
        ends_with_password: whether a key ends when the password or the user id of its owner changes.
    """

    credential: ClassVar[str] = "api_key"
    in_authorization: ClassVar[bool] = True
    vary: tuple[bytes, ...] = (b"Authorization",)

    def __init__(
        self,
        parts: Parts[I],
        table: KeyTable,
        form: KeyForm,
        owners: Owners[I],
        scopes_of: ScopesOf[I],
        *,
        ends_with_password: bool,
    ) -> None:
        self._parts: Final = parts
        self._table: Final = table
        self._form: Final = form
        self._owners: Final = owners
        self._scopes_of: Final = scopes_of
        self._ends_with_password: Final = ends_with_password
        self.bearer_format = f"{form.prefix}<key>"
        super().__init__(parts.users, current_user_key=parts.current_user_key, following=_NoFanOut)

    # --- the request --------------------------------------------------------------------------------------------------

    def presents(self, connection: Connection) -> bool:
        """See `Authenticator.presents`. It is true for any token with the prefix of keys, well-formed or not."""
        return self._form.is_in(connection.header("authorization"))

    async def fetch(self, connection: Connection) -> I | None:
        """Return the identity of the owner of the request's key; ``None`` if the key is not valid.

        It takes two queries, and a third one at most once a minute. A malformed key takes none.

        Raises:
            StoreUnavailable: if the keys or the users cannot be reached.
        """
        connection.states.pop(self, None)
        if not self.presents(connection):
            return None
        # No variable holds the header: error reporters record the variables of each frame.
        presented = self._form.read(connection.header("authorization"))
        try:
            row, owner = await self._checked(connection, presented)
        except _NotValid as refusal:
            self._parts.emit(REFUSED, refusal.key, refusal.why, request=connection)
            return None
        connection.states[self] = row.scope_set & (self._scopes_of(owner.account.identity) or frozenset())
        return owner.account.identity

    async def _checked(self, connection: Connection, presented: PresentedKey | None) -> tuple[KeyRow, Owner[I]]:
        """Return the row of a valid key, and its owner.

        Raises:
            _NotValid: if the key is not valid.
        """
        if presented is None:
            raise _NotValid("malformed")
        row: KeyRow | None = await self._call(lambda: self._table.find(presented.public_id))
        if row is None or not hmac.compare_digest(row.secret_hash, presented.secret_hash):
            raise _NotValid("unknown")
        key, now = user_key_in(row.user_key), moment(self._parts.now())
        if row.has_expired(now):
            raise _NotValid("expired", key)
        owner = await self._owners.read(key)
        if owner is None:
            await self._end(connection, row, key)
            raise _NotValid("owner gone or locked", key)
        if row.user_created_at not in (None, owner.created_at):
            await self._end(connection, row, key)
            raise _NotValid("owner replaced", key)
        if self._ends_with_password and proof_hash(owner.account, row.public_id) != row.proof:
            await self._end(connection, row, key)
            raise _NotValid("credentials changed", key)
        if not await self._parts.may_continue(key):
            raise _NotValid("owner may not sign in", key)
        if self._use_is_due(row, now):
            await self._note_use(row, now)
        return row, owner

    async def _end(self, connection: Connection, row: KeyRow, key: Key) -> None:
        """Delete a key that can never be valid again."""
        if await self._call(lambda: self._table.delete(row.user_key, row.public_id)):
            self._parts.emit(ENDED, key, row.public_id, request=connection)

    @staticmethod
    def _use_is_due(row: KeyRow, now: datetime) -> bool:
        return row.last_used_at is None or now - row.last_used_at >= USE_NOTED

    async def _note_use(self, row: KeyRow, now: datetime) -> None:
        """Write the time of the last use. If that fails, log it, and accept the request."""
        try:
            await self._call(lambda: self._table.note_use(row.public_id, now, now - USE_NOTED))
        except StoreUnavailable as error:
            log(logging.WARNING, "the last use of an API key could not be written", error=error)

    async def _call(self, call: Callable[[], Any]) -> Any:
        return await call_anywhere(self._table.database.mode, call)

    # --- what a key allows --------------------------------------------------------------------------------------------

    def scopes_of(self, identity: I) -> frozenset[str] | None:
        """See `Authenticator.scopes_of`."""
        return self._scopes_of(identity)

    def scopes(self, connection: Connection) -> frozenset[str]:
        """Return the scopes of the request's key that its owner still has."""
        found: frozenset[str] = connection.states.get(self, frozenset())
        return found

    def check_session(self, request: Connection) -> None:
        """See `Authenticator.check_session`. It refuses every request: there are no sessions here."""
        del request
        _refuse_session(self.current_user_key)

    async def create(self, connection: Connection, account: Account[I], grant: Grant = AS_BEFORE) -> Account[I] | None:
        """Refuse: a key begins no session.

        Raises:
            Refused: always.
        """
        del connection, account, grant
        _refuse_session(self.current_user_key)

    async def delete(self, connection: Connection) -> None:
        """Refuse: a key cannot be signed out. Its owner ends it.

        Raises:
            Refused: always.
        """
        del connection
        _refuse_session(self.current_user_key)

    def is_due(self, connection: Connection) -> bool:
        """See `Authenticator.is_due`. A key changes no response."""
        del connection
        return False

    def is_ambient(self, connection: Connection) -> bool:
        """See `Authenticator.is_ambient`. No browser sends a key by itself."""
        del connection
        return False

    def is_presented(self, connection: Connection) -> bool:
        """See `Authenticator.is_presented`. No browser sends a key by itself."""
        del connection
        return False

    def challenge(self, connection: Connection) -> str:
        """See `Authenticator.challenge`. It names an error only if the request presents a key (RFC 6750, 3.1)."""
        realm = f'Bearer realm="{self.credential}"'
        return f'{realm}, error="invalid_token"' if self.presents(connection) else realm

    def check_wsgi(self) -> None:
        """See `Authenticator.check_wsgi`."""
        super().check_wsgi()
        if self._table.database.mode == "async":
            raise ConfigError("a WSGI app needs an Engine for its API keys: give ApiKeys one instead of an AsyncEngine")


class _NoFanOut(FanOut[I]):
    """A listener that ignores changes of accounts. The authenticator of the sessions passes them on to `ApiKeys`."""

    async def before_commit(self, key: Key, *, joined: bool, locked: bool, proof: bytes | None) -> None:
        """Do nothing."""

    async def after_commit(self, key: Key, change: Change, *, joined: bool) -> None:
        """Do nothing."""


def _refuse_session(current_user_key: str) -> NoReturn:
    raise Refused("this needs a sign-in", code="session_required", current_user_key=current_user_key)
