"""`Offers`: one-time tokens that carry a content, for links that are bound to no account.

A `powauth.extensions.OneTimeTokens` proves that somebody is a user of the app. An offer proves only that somebody got
the link: an invitation, a registration that is not complete, or the way back from a change. An owner has any number of
offers, and can list and end them.

A token of an offer has the format of a session's id. The record is in the session backend, under
``<namespace>.<purpose>``. It holds a hash of the token's secret part, so a copy of the store contains no token.
"""

import hmac
import secrets
from datetime import datetime, timedelta
from typing import Any, Final, Generic, TypeVar

import msgspec

from powauth._options import instance, short_name
from powauth._times import duration, moment
from powauth.accounts.hooks import Parts
from powauth.accounts.throttle import PURPOSE as COUNTERS
from powauth.backends.base import Record, make_key, make_owner, shard_of, split_key
from powauth.errors import ConfigError
from powauth.extensions.tokens import secret_hash
from powauth.sessions.ids import SALT_BYTES, SHARD_BYTES, SID_BYTES, IdCodec, decode_sid, encode_sid

T = TypeVar("T")


class Offer(msgspec.Struct, Generic[T], frozen=True):
    """A live offer.

    Attributes:
        name: a public name of the offer. It opens nothing.
        content: what the offer carries.
        issued_at: the time of `Offers.issue`, in UTC.
        expires_at: the time from which on the offer is void, in UTC.
    """

    name: str
    content: T
    issued_at: datetime
    expires_at: datetime

    __repr__ = object.__repr__  # error reporters record what local variables look like


class _Value(msgspec.Struct, frozen=True, array_like=True):
    """The value of an offer's record."""

    purpose: str
    secret_hash: bytes
    content: msgspec.Raw


class Offers(Generic[T]):
    """Issues and takes the offers of one purpose.

    An extension makes one in its `Extension.bind`. All methods are safe in parallel, in any number of processes.

    Args:
        parts: the parts that `Extension.bind` was given.
        purpose: the name of the extension, or the name with a word for each kind, such as ``"confirm.undo"``.
        content: the class of the contents: a `msgspec.Struct`.
        ttl: the time for which an offer is valid.

    Raises:
        ConfigError: if the purpose is no short name, or is that of the throttle's counters.
    """

    def __init__(self, parts: Parts[Any], purpose: str, content: type[T], *, ttl: timedelta) -> None:
        instance("the parts of offers", parts, Parts, "the Parts that bind was given")
        if purpose == COUNTERS:
            raise ConfigError(f"offers must not have the purpose {COUNTERS!r}: the counters of attempts have it")
        self.purpose: Final = short_name("the purpose of offers", purpose)
        self.ttl: Final = ttl
        self._namespace: Final = short_name("the namespace and the purpose of offers", f"{parts.namespace}.{purpose}")
        self._ttl: Final = duration("the ttl of offers", ttl, at_least=1000)
        self._parts: Final = parts
        self._content: Final = content
        self._ids: Final = IdCodec(parts.keyring.mac("offer", self._namespace))

    async def epoch(self, owner: str) -> int:
        """Return a number for `issue`, to be asked before what the content depends on is read.

        Raises:
            StoreUnavailable: if the store cannot be reached.
        """
        return await self._parts.backend.epoch(self._owner(owner), self._parts.now())

    async def issue(self, owner: str, content: T, epoch: int | None = None) -> tuple[str, str] | None:
        """Return a new token and the public name of its offer; ``None`` if `end` has overtaken this call.

        Args:
            owner: a text that names the owner, such as the key of a user. At most 64 characters.
            content: what the offer carries.
            epoch: an earlier result of `epoch`. The offer is issued only if `end` was not called since.

        Raises:
            StoreUnavailable: if the store cannot be reached. Nobody holds the token then.
        """
        backend, now, owned = self._parts.backend, self._parts.now(), self._owner(owner)
        if epoch is None:
            epoch = await backend.epoch(owned, now)
        name = shard_of(owned) + secrets.token_bytes(SID_BYTES - SHARD_BYTES)
        secret = secrets.token_bytes(SALT_BYTES)
        value = _Value(self.purpose, secret_hash(secret), msgspec.Raw(msgspec.msgpack.encode(content)))
        key = make_key(self._namespace, name)
        record = Record(key, owned, 0, now, now + self._ttl, msgspec.msgpack.encode(value))
        made = await backend.create(record, epoch, now)
        return (self._ids.encode(name, secret, 0), encode_sid(name)) if made else None

    async def find(self, token: object) -> Offer[T] | None:
        """Return the offer of a valid token, and leave it valid. ``token`` may be anything that a client sends.

        Raises:
            StoreUnavailable: if the store cannot be reached.
        """
        presented = self._ids.decode(token) if isinstance(token, str) else None
        if presented is None:
            return None
        record = await self._parts.backend.get(make_key(self._namespace, presented.sid), self._parts.now())
        value = None if record is None else _value_of(record)
        if record is None or value is None or value.purpose != self.purpose:
            return None
        if not hmac.compare_digest(value.secret_hash, secret_hash(presented.salt)):
            return None
        return self._offer(record, value)

    async def take(self, token: object) -> Offer[T] | None:
        """Use up a token and return its offer. Of any number of parallel calls, exactly one gets it.

        Validate the rest of the request first: whatever fails after this call costs the client the offer.

        Raises:
            StoreUnavailable: if the store cannot be reached. The offer may be used up.
        """
        found = await self.find(token)
        name = None if found is None else decode_sid(found.name)
        if name is None or not await self._parts.backend.delete(make_key(self._namespace, name), self._parts.now()):
            return None
        return found

    async def live(self, owner: str) -> list[Offer[T]]:
        """Return the live offers of an owner, newest first.

        Raises:
            StoreUnavailable: if the store cannot be reached.
        """
        records = await self._parts.backend.list(self._owner(owner), self._parts.now())
        found = [self._offer(record, value) for record in records if (value := _value_of(record)) is not None]
        return [each for each in found if each is not None]

    async def end_one(self, owner: str, name: object) -> Offer[T] | None:
        """End one offer of an owner by its public name, and return it; ``None`` if the owner has no such offer.

        Raises:
            StoreUnavailable: if it may still be live.
        """
        for offer in await self.live(owner):
            if offer.name == name:
                key = make_key(self._namespace, decode_sid(offer.name) or b"")
                return offer if await self._parts.backend.delete(key, self._parts.now()) else None
        return None

    async def end(self, owner: str) -> int:
        """End all offers of an owner, also one that is being issued. Return the number that were live.

        Raises:
            StoreUnavailable: if any may still be live.
        """
        return await self._parts.backend.delete_owner(self._owner(owner), self._parts.now())

    def _owner(self, owner: str) -> bytes:
        return make_owner(self._namespace, owner)

    def _offer(self, record: Record, value: _Value) -> Offer[T] | None:
        try:
            content = msgspec.msgpack.decode(value.content, type=self._content)
        except msgspec.MsgspecError:  # another version of the app wrote it
            return None
        name = encode_sid(split_key(record.key)[1])
        return Offer(name, content, moment(record.created_at), moment(record.expires_at))


def _value_of(record: Record) -> _Value | None:
    """Return the value of an offer's record; ``None`` if this version of powauth cannot read it."""
    try:
        return msgspec.msgpack.decode(record.value, type=_Value)
    except msgspec.MsgspecError:
        return None
