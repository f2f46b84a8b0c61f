"""`ApiKeys`: the extension."""

import re
from collections.abc import Callable, Collection, Sequence
from datetime import datetime, timedelta
from functools import partial
from typing import Any, ClassVar, Final, Self

import msgspec

from powauth._options import flag, instance, whole_number, wrong
from powauth._running import uncancellable
from powauth._times import duration, moment
from powauth.accounts.anywhere import call_anywhere
from powauth.accounts.base import Account
from powauth.accounts.changes import CHANGED, FOLLOWED
from powauth.accounts.hooks import Extension, Parts
from powauth.accounts.identity import I, Key, key_text, stored_key
from powauth.accounts.user_keys import user_key_text
from powauth.accounts.user_tables import bind_to_users
from powauth.backends.base import Mode, check_namespace, make_owner
from powauth.errors import ConfigError, InvalidParams, NotSignedIn
from powauth.events import EventKind
from powauth.extensions.api_keys._table import ApiKeyMixin, KeyRow, KeyTable
from powauth.extensions.api_keys.authenticator import ApiKeyAuthenticator, Owners, proof_hash
from powauth.extensions.api_keys.checks import checked_name, checked_scopes, scopes_of_app
from powauth.extensions.api_keys.events import CREATED, ENDED, EVENTS
from powauth.extensions.api_keys.form import PREFIX, KeyForm
from powauth.extensions.api_keys.pages import KeyPages
from powauth.http.guards import FRESH, require_access, require_all_fresh
from powauth.request_auth import BoundAuth

MOST: Final = 20
"""The most keys that a user has at once by default."""

KEPT_AFTER: Final = (CHANGED, FOLLOWED)
"""The reasons of `Extension.credentials_changed` after which the keys of an active user stay valid by default."""

TOO_MANY: Final = "has too many keys: end some of them first"

_ID: Final = re.compile(r"[0-9A-Za-z]{1,64}\Z")

Scopes = Callable[[Any], Collection[str]] | str
"""A function that takes an identity and returns its scopes, or the name of the identity's field with them."""


class ApiKeyInfo(msgspec.Struct, frozen=True, kw_only=True):
    """A key as its owner may see it.

    Attributes:
        id: the public id. It names the key, and opens nothing.
        prefix: the beginning of the key, by which its owner recognizes it.
        name: the name that the owner has given it.
        scopes: its scopes, in order. Each counts only as long as the owner has it.
        created_at: the time at which it was made.
        last_used_at: the time of its last use, to the minute; ``None`` if there was none.
        expires_at: the time at which it ends; ``None`` if it has no end.
    """

    id: str
    prefix: str
    name: str
    scopes: Sequence[str]
    created_at: datetime
    last_used_at: datetime | None
    expires_at: datetime | None


class NewApiKey(msgspec.Struct, frozen=True, kw_only=True):
    """A key that was just made.

    Attributes:
        key: the key. Show it once: only its hash is stored.
        info: what its owner can see of it later.
    """

    key: str
    info: ApiKeyInfo

    def __repr__(self) -> str:  # without the key: error reporters record the repr of local variables
        return f"<NewApiKey {self.info.id}>"


class ApiKeys(Extension[I]):
    """Lets users make keys for their programs. A program sends ``Authorization: Bearer powkey_…``.

    A request with a key is signed in as the owner of the key, within the scopes that the key and its owner have in
    common. A key skips the password and second factors. So a user needs a fresh session to make one, with a fresh
    second factor if one is on.

    Args:
        engine: the app's ``Engine`` or ``AsyncEngine``, of the database of the users.
        model: a declarative class with `ApiKeyMixin`, whose table exists.
        scopes: returns the scopes of an identity; or the name of its field. ``None`` gives nobody any scope.
        ends_with_password: whether a user's new password or user id ends the keys.
        most: the most keys that a user has at once.
        fresh: the maximum age of the sign-in that makes a key, and of its second factor if one is on.
        prefix: the beginning of each key.
        path: the path of the page, below the mount of the pages. ``None`` makes no page.

    Attributes:
        authenticator: the `ApiKeyAuthenticator`, once the extension is bound.

    Raises:
        ConfigError: if an option is wrong.
    """

    name: ClassVar[str] = "api_keys"
    events: ClassVar[tuple[EventKind, ...]] = EVENTS

    authenticator: ApiKeyAuthenticator[Any, I]
    _parts: Parts[I]
    _namespace: str
    _table: KeyTable
    _owners: Owners[I]
    _mode: Mode

    def __init__(
        self,
        engine: object,
        model: type[ApiKeyMixin],
        *,
        scopes: Scopes | None = None,
        ends_with_password: bool = False,
        most: int = MOST,
        fresh: timedelta = FRESH,
        prefix: str = PREFIX,
        path: str | None = "/account/keys",
    ) -> None:
        self._given: Final = KeyTable(engine, model, "")
        if scopes is not None and not callable(scopes) and not isinstance(scopes, str):
            raise wrong("scopes", "a function of an identity, the name of a field of it, or None", scopes)
        self._scopes: Final = scopes
        self.ends_with_password: Final = flag("ends_with_password", ends_with_password)
        self.most: Final = whole_number("most", most)
        duration("fresh", fresh, at_least=1)
        self.fresh: Final = fresh
        self._form: Final = KeyForm(prefix)
        self.path: Final = path

    def bind(self, parts: Parts[I]) -> Self:
        """See `Extension.bind`.

        Raises:
            ConfigError: if the identity has no field of the name ``scopes``, or the table has keys of users in another
                table, under the same namespace.
        """
        bound = type(self)(
            self._given.engine,
            self._given.model,
            scopes=self._scopes,
            ends_with_password=self.ends_with_password,
            most=self.most,
            fresh=self.fresh,
            prefix=self._form.prefix,
            path=self.path,
        )
        fields = getattr(parts.users.identity, "__struct_fields__", ())
        if isinstance(self._scopes, str) and self._scopes not in fields:
            raise ConfigError(f"scopes must name a field of the identity: {self._scopes!r} is not one of {fields}")
        bound._namespace = check_namespace(f"{parts.namespace}.{self.name}")
        bind_to_users(self._given.model, parts.users, self._given.engine, namespace=parts.namespace)
        bound._parts = parts
        bound._table = KeyTable(self._given.engine, self._given.model, parts.namespace)
        bound._mode = bound._table.database.mode
        bound._owners = Owners(parts)
        bound.authenticator = ApiKeyAuthenticator(
            parts,
            bound._table,
            self._form,
            bound._owners,
            bound.scopes_of,
            ends_with_password=self.ends_with_password,
        )
        return bound

    def scopes_of(self, identity: I) -> frozenset[str] | None:
        """Return the scopes of a user; ``None`` if the app has given no ``scopes``.

        Raises:
            ConfigError: if the app's scopes are no collection of texts without spaces.
        """
        if self._scopes is None:
            return None
        found = getattr(identity, self._scopes) if isinstance(self._scopes, str) else self._scopes(identity)
        return scopes_of_app(found)

    # --- the keys of the current user ---------------------------------------------------------------------------------

    async def create(
        self,
        auth: BoundAuth[Any, Any],
        name: object,
        scopes: object = (),
        *,
        expires_in: timedelta | None = None,
    ) -> NewApiKey:
        """Make a key for the current user, who must have signed in recently. The owner is that of the session.

        Args:
            auth: the request-bound object.
            name: a name for the key, from the client.
            scopes: the scopes of the key, from the client. The user must have each of them.
            expires_in: the time after which the key ends. ``None`` is a key without an end.

        Raises:
            NotSignedIn: if nobody is signed in, or the session or the account has ended.
            Refused: if the user is signed in by a key.
            NotFresh: if the sign-in is too old, or the second factor of a user who has one.
            InvalidParams: if the name or the scopes are wrong, or the user has too many keys.
            StoreUnavailable: if the store or the database cannot be reached.
        """
        key = self._own_key(auth)
        await require_all_fresh(auth, self.fresh)
        lifetime = None if expires_in is None else duration("expires_in", expires_in, at_least=1000)
        chosen = checked_name(name)
        owner = make_owner(self._namespace, key_text(stored_key(key)))
        epoch = await self._parts.backend.epoch(owner, self._parts.now())
        found = await self._owners.read(key) if await auth.auth.recheck(auth.connection) else None
        if found is None or not auth.auth.is_current(auth.connection, found.account):
            raise NotSignedIn("the session has ended, or the account has changed: sign in again")
        wanted = checked_scopes(scopes, self.scopes_of(found.account.identity) or frozenset())
        made, millis = self._form.make(), self._parts.now()
        row = KeyRow(
            public_id=made.public_id,
            secret_hash=made.secret_hash,
            namespace=self._parts.namespace,
            user_key=user_key_text(key),
            user_created_at=found.created_at,
            proof=proof_hash(found.account, made.public_id),
            name=chosen,
            scopes=" ".join(wanted),
            created_at=moment(millis),
            last_used_at=None,
            expires_at=None if lifetime is None else moment(millis + lifetime),
        )
        if not await self._call(lambda: self._table.add(row, self.most, row.created_at)):
            raise InvalidParams({"base": [TOO_MANY]})
        # `end_all` may have run meanwhile. It advances the epoch first, and deletes the rows afterwards.
        if await self._parts.backend.epoch(owner, self._parts.now()) != epoch:
            await self._call(lambda: self._table.delete(row.user_key, row.public_id))
            raise NotSignedIn("the keys of the user have ended meanwhile: sign in again")
        self._parts.emit(CREATED, key, row.public_id, request=auth.connection)
        return NewApiKey(key=made.key, info=self._info(row))

    async def keys(self, auth: BoundAuth[Any, Any]) -> list[ApiKeyInfo]:
        """Return the keys of the current user, newest first.

        Raises:
            NotSignedIn: if nobody is signed in.
            Refused: if the user is signed in by a key.
            StoreUnavailable: if the database cannot be reached.
        """
        return await self.keys_of(self._own_key(auth))

    async def end(self, auth: BoundAuth[Any, Any], public_id: object) -> bool:
        """End a key of the current user, and return whether there was one.

        The result is the same for another user's key, and for no key.

        Raises:
            NotSignedIn: if nobody is signed in.
            Refused: if the user is signed in by a key.
            StoreUnavailable: if the key may still be valid.
        """
        key = self._own_key(auth)
        if not isinstance(public_id, str) or not _ID.match(public_id):
            return False
        if not await self._call(lambda: self._table.delete(user_key_text(key), public_id)):
            return False
        self._parts.emit(ENDED, key, public_id, request=auth.connection)
        return True

    def _own_key(self, auth: BoundAuth[Any, Any]) -> Key:
        instance("auth", auth, BoundAuth, "the request-bound object")
        if auth.auth.extension(type(self)) is not self:
            raise ConfigError("this ApiKeys is not that of the request: use auth.extension(ApiKeys)")
        identity = require_access(auth, by="session")
        key = auth.auth.current_key(auth.connection)
        return auth.auth.key_of(identity) if key is None else key

    # --- the keys of any user, for the app's own code -----------------------------------------------------------------

    async def keys_of(self, user: object) -> list[ApiKeyInfo]:
        """Return the keys of any user, newest first, without those that have expired.

        ``user`` is an identity, a row, an account, or a key of a user.

        Raises:
            ConfigError: if ``user`` is no user.
            StoreUnavailable: if the database cannot be reached.
        """
        text, now = user_key_text(self.authenticator.key_of(user)), moment(self._parts.now())
        rows: list[KeyRow] = await self._call(lambda: self._table.of(text))
        return [self._info(row) for row in rows if not row.has_expired(now)]

    @uncancellable
    async def end_all(self, user: object, why: str = "ended by the app") -> int:
        """End all keys of any user, also a key that `create` is making now. Return their number.

        ``user`` is an identity, a row, an account, or a key of a user. ``why`` is for the event.

        Raises:
            ConfigError: if ``user`` is no user.
            StoreUnavailable: if any may still be valid.
        """
        key = self.authenticator.key_of(user)
        try:
            owner = make_owner(self._namespace, key_text(stored_key(key)))
            await self._parts.backend.delete_owner(owner, self._parts.now())
        finally:
            ended: int = await self._call(lambda: self._table.delete(user_key_text(key)))
        if ended:
            self._parts.emit(ENDED, key, f"{why}: {ended}")
        return ended

    async def purge(self) -> int:
        """Delete the expired keys of all users, and return how many there were. Call it from a daily job, or never.

        Raises:
            StoreUnavailable: if the database cannot be reached.
        """
        now = moment(self._parts.now())
        ended: int = await self._call(lambda: self._table.purge(now))
        return ended

    async def credentials_changed(self, key: Key, why: str) -> None:
        """See `Extension.credentials_changed`.

        A new password or user id ends the keys only with ``ends_with_password``. Every other reason ends them.
        """
        owner = await self._owners.read(key) if why in KEPT_AFTER else None
        if owner is None:
            await self.end_all(key, why)
        elif self.ends_with_password:
            await self._end_outdated(key, owner.account, why)

    async def sessions_ended(self, key: Key, why: str) -> None:
        """See `Extension.sessions_ended`. A session may have made a key after `credentials_changed`."""
        await self.credentials_changed(key, why)

    def pages(self) -> Sequence[Any]:
        """See `Extension.pages`."""
        return () if self.path is None else KeyPages(self, self.path).pages()

    async def _end_outdated(self, key: Key, account: Account[I], why: str) -> None:
        """End the keys that were made before the last change of the password or user id.

        `ApiKeyAuthenticator` refuses these keys, even if this call fails. If the app's own transaction changes the
        user, powauth also calls this before the commit. At that time the proof is still the old one, so this writes
        nothing. A write could wait for a lock of that transaction.
        """
        text = user_key_text(key)
        rows: list[KeyRow] = await self._call(lambda: self._table.of(text))
        for row in rows:
            if proof_hash(account, row.public_id) != row.proof:
                await self._call(partial(self._table.delete, text, row.public_id))
                self._parts.emit(ENDED, key, f"{row.public_id}: {why}")

    # --- inside -------------------------------------------------------------------------------------------------------

    def _info(self, row: KeyRow) -> ApiKeyInfo:
        return ApiKeyInfo(
            id=row.public_id,
            prefix=self._form.shown(row.public_id),
            name=row.name,
            scopes=row.scopes.split(),
            created_at=row.created_at,
            last_used_at=row.last_used_at,
            expires_at=row.expires_at,
        )

    async def _call(self, call: Callable[[], Any]) -> Any:
        return await call_anywhere(self._mode, call)
