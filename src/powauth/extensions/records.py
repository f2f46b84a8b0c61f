"""Records of the session backend that a client names by a token: one-time tokens, offers and challenges.

A token has the format of a session's id: 72 characters, with 128 random bits that name its record, 128 more that only
its holder knows, and a MAC. A value that is too long, has a second spelling or a wrong MAC is rejected without I/O. The
record holds a hash of the secret part, so a copy of the store contains no token.

`AccountProofs` binds a record to an account as it is now. A change of the password or of the user id voids the record,
whoever makes it.
"""

import hashlib
import hmac
import secrets
from datetime import timedelta
from typing import Any, Final, Generic, TypeVar

import msgspec

from powauth._options import instance, short_name
from powauth._times import duration
from powauth.accounts.base import Account
from powauth.accounts.hooks import Parts
from powauth.accounts.identity import I, Key, key_text, stored_key
from powauth.accounts.throttle import PURPOSE as COUNTERS
from powauth.backends.base import Millis, Record, make_key, make_owner, shard_of, split_key
from powauth.errors import ConfigError
from powauth.sessions.ids import SALT_BYTES, SHARD_BYTES, SID_BYTES, IdCodec

T = TypeVar("T")


class _Value(msgspec.Struct, frozen=True, array_like=True):
    """The value of a record."""

    purpose: str
    secret_hash: bytes
    content: msgspec.Raw


class Kept(msgspec.Struct, Generic[T], frozen=True):
    """A record with its content.

    Attributes:
        name: the name of the record: bytes that open nothing.
        content: the content.
        created_at: the time of `TokenRecords.create`.
        expires_at: the time from which on the record is gone.
    """

    name: bytes
    content: T
    created_at: Millis
    expires_at: Millis

    __repr__ = object.__repr__  # error reporters record what local variables look like


class Made(msgspec.Struct, Generic[T], frozen=True):
    """A new record.

    Attributes:
        kept: the record.
        secret: the secret part of its token.
        stored: whether it is in the store. It is not if `TokenRecords.end` was called meanwhile.
    """

    kept: Kept[T]
    secret: bytes
    stored: bool

    __repr__ = object.__repr__

    def token(self, codec: IdCodec) -> str:
        """Return the token."""
        return codec.encode(self.kept.name, self.secret, 0)


class TokenRecords(Generic[T]):
    """Makes, finds and ends the records of one purpose. All methods are safe in parallel, in any number of processes.

    Args:
        parts: the parts that `Extension.bind` was given.
        purpose: the name of the extension, with a word for each kind if it has several, such as ``"confirm.undo"``.
        content: the class of the contents: a `msgspec.Struct`.
        ttl: the time for which a record is valid.
        what: what they are, for errors.

    Attributes:
        purpose: the purpose.
        namespace: the namespace of the records.
        ttl: the time for which a record is valid, in milliseconds.

    Raises:
        ConfigError: if the purpose is no short name, or is that of the throttle's counters; or the time is wrong.
    """

    def __init__(self, parts: Parts[Any], purpose: str, content: type[T], ttl: timedelta, what: str) -> None:
        instance(f"the parts of {what}", parts, Parts, "the Parts that bind was given")
        if purpose == COUNTERS:
            raise ConfigError(f"{what} must not have the purpose {COUNTERS!r}: the counters of attempts have it")
        self.purpose: Final = short_name(f"the purpose of {what}", purpose)
        self.namespace: Final = short_name(f"the namespace and the purpose of {what}", f"{parts.namespace}.{purpose}")
        self.ttl: Final = duration(f"the ttl of {what}", ttl, at_least=1000)
        self._parts: Final = parts
        self._content: Final = content

    async def epoch(self, owner: str) -> int:
        """Return a number for `create`. Call this before you read the data for the content.

        Raises:
            StoreUnavailable: if the store cannot be reached.
        """
        return await self._parts.backend.epoch(self._owner(owner), self._parts.now())

    async def create(self, owner: str, content: T, epoch: int) -> Made[T]:
        """Make a record. If `end` was called after ``epoch`` was read, the record is not stored.

        Args:
            owner: a text that names the owner, such as the key of a user.
            content: the content.
            epoch: a result of `epoch`.

        Raises:
            StoreUnavailable: if the store cannot be reached. Nobody holds the token then.
        """
        now, owned = self._parts.now(), self._owner(owner)
        name = shard_of(owned) + secrets.token_bytes(SID_BYTES - SHARD_BYTES)
        secret = secrets.token_bytes(SALT_BYTES)
        value = _Value(self.purpose, _secret_hash(secret), msgspec.Raw(msgspec.msgpack.encode(content)))
        end = now + self.ttl
        record = Record(self._key(name), owned, 0, now, end, msgspec.msgpack.encode(value))
        stored = await self._parts.backend.create(record, epoch, now)
        return Made(Kept(name, content, now, end), secret, stored)

    async def find(self, codec: IdCodec, token: object) -> Kept[T] | None:
        """Return the record of a valid token. ``token`` may be anything that a client sends.

        Raises:
            StoreUnavailable: if the store cannot be reached.
        """
        presented = codec.decode(token) if isinstance(token, str) else None
        if presented is None:
            return None
        record = await self._parts.backend.get(self._key(presented.sid), self._parts.now())
        value = None if record is None else _value_of(record)
        if record is None or value is None or value.purpose != self.purpose:
            return None
        if not hmac.compare_digest(value.secret_hash, _secret_hash(presented.salt)):
            return None
        return self._kept(record, value)

    async def live(self, owner: str) -> list[Kept[T]]:
        """Return the records of an owner, newest first.

        Raises:
            StoreUnavailable: if the store cannot be reached.
        """
        records = await self._parts.backend.list(self._owner(owner), self._parts.now())
        found = [self._kept(record, value) for record in records if (value := _value_of(record)) is not None]
        return [each for each in found if each is not None]

    async def names(self, owner: str) -> list[bytes]:
        """Return the names of the records of an owner, newest first, also of those that this version cannot read.

        Raises:
            StoreUnavailable: if the store cannot be reached.
        """
        records = await self._parts.backend.list(self._owner(owner), self._parts.now())
        return [split_key(record.key)[1] for record in records]

    async def delete(self, name: bytes) -> bool:
        """Delete a record by its name. Of any number of parallel calls, exactly one gets ``True``.

        Raises:
            StoreUnavailable: if the store cannot be reached. The record may be gone.
        """
        return await self._parts.backend.delete(self._key(name), self._parts.now())

    async def end(self, owner: str) -> int:
        """Delete all records of an owner, also a record that `create` is making now. Return their number.

        Raises:
            StoreUnavailable: if any may still be valid.
        """
        return await self._parts.backend.delete_owner(self._owner(owner), self._parts.now())

    def _key(self, name: bytes) -> bytes:
        return make_key(self.namespace, name)

    def _owner(self, owner: str) -> bytes:
        return make_owner(self.namespace, owner)

    def _kept(self, record: Record, value: _Value) -> Kept[T] | None:
        try:
            content = msgspec.msgpack.decode(value.content, type=self._content)
        except msgspec.MsgspecError:  # another version of the app or of powauth wrote it
            return None
        return Kept(split_key(record.key)[1], content, record.created_at, record.expires_at)


class AccountProofs(Generic[I]):
    """Seals the state of accounts for records of one use.

    Args:
        parts: the parts that `Extension.bind` was given.
        use: the names of the use. A seal is invalid for any other one.
    """

    def __init__(self, parts: Parts[I], *use: str) -> None:
        self._users: Final = parts.users
        self._mac: Final = parts.keyring.mac(*use)

    def seal(self, account: Account[I]) -> bytes:
        """Return the seal of an account as it is now."""
        return self._mac.sign(_message(account))

    def is_of(self, account: Account[I], seal: bytes) -> bool:
        """Return whether an account is as it was when it was sealed: the same key, and the same proof."""
        return self._mac.verify(_message(account), seal)

    async def active(self, key: Key) -> Account[I] | None:
        """Return an account as it is now; ``None`` if the user is gone or locked.

        Raises:
            StoreUnavailable: if the users cannot be reached.
        """
        account = await self._users.get(key)
        return account if isinstance(account, Account) and account.active is True else None

    async def unchanged(self, key: Key, seal: bytes) -> Account[I] | None:
        """Return an account as it is now; ``None`` if the user is gone or locked, or has changed since the seal.

        Raises:
            StoreUnavailable: if the users cannot be reached.
        """
        account = await self.active(key)
        return account if account is not None and self.is_of(account, seal) else None


def owner_of(key: Key) -> str:
    """Return the text by which a user owns records."""
    return key_text(stored_key(key))


def _secret_hash(secret: bytes) -> bytes:
    """Return the form in which a record holds a token's secret part. It is random, so it needs no slow hash."""
    return hashlib.blake2b(secret, digest_size=SALT_BYTES, person=b"powauth token").digest()


def _value_of(record: Record) -> _Value | None:
    """Return the value of a record; ``None`` if this version of powauth cannot read it."""
    try:
        return msgspec.msgpack.decode(record.value, type=_Value)
    except msgspec.MsgspecError:
        return None


def _message(account: Account[Any]) -> bytes:
    return key_text(stored_key(account.key)).encode() + b"\0" + account.proof
