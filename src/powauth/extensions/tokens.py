"""One-time tokens, such as the one in the link of a password reset.

A token has the format of a session's id: 72 characters, with 128 random bits that name its record, 128 more that only
its holder knows, and a MAC. A value that is too long, has a second spelling or a wrong MAC is rejected without I/O.

The token's record is in the session backend, under ``<namespace>.<purpose>``. The user owns it. It holds a hash of the
secret part, so a copy of the store contains no token. It also holds the purpose, the address to which the token was
sent, and the user's proof. A change of the password or of the user id therefore voids the token, whoever makes it.

Sources: OWASP Forgot Password Cheat Sheet, "URL Tokens"; OWASP ASVS 5.0.0, 6.5.1 to 6.5.5.
"""

import hashlib
import hmac
import secrets
from datetime import datetime, timedelta
from typing import Any, Final, Generic

import msgspec

from powauth._options import instance, short_name
from powauth._times import duration, moment
from powauth.accounts.base import Account
from powauth.accounts.hooks import Parts
from powauth.accounts.identity import I, Key, StoredKey, key_text, loaded_key, stored_key
from powauth.accounts.throttle import PURPOSE as COUNTERS
from powauth.backends.base import Record, make_key, make_owner, shard_of
from powauth.errors import ConfigError
from powauth.sessions.ids import SALT_BYTES, SHARD_BYTES, SID_BYTES, IdCodec

TTL: Final = timedelta(hours=1)
"""The default time for which a token is valid (OWASP Forgot Password: an appropriate period)."""


class Claim(msgspec.Struct, Generic[I], frozen=True):
    """The content of a valid token.

    Attributes:
        account: the user, as the users context has just read it. The user is active, and has the same proof as when
            the token was issued.
        address: the address to which the token was sent.
        issued_at: the time of `OneTimeTokens.issue`, in UTC.
    """

    account: Account[I]
    address: str
    issued_at: datetime

    __repr__ = object.__repr__  # error reporters record what local variables look like


class _Content(msgspec.Struct, frozen=True, array_like=True):
    """The value of a token's record."""

    purpose: str
    secret_hash: bytes
    user_key: Any  # a StoredKey: msgspec cannot decode that union, so `_content` checks the type
    address: str
    proof: bytes


class OneTimeTokens(Generic[I]):
    """Issues and takes the tokens of one purpose. A user has at most one live token of a purpose.

    An extension makes one in its `Extension.bind`, and calls `end` in its `Extension.credentials_changed`. All methods
    are safe in parallel, in any number of processes.

    Args:
        parts: the parts that `Extension.bind` was given.
        purpose: the name of the extension. If an extension has several kinds of tokens, append a word for each, such as
            ``"confirm.undo"``. The purpose separates keys and records: a token is invalid for any other purpose.
        ttl: the time for which a token is valid.

    Raises:
        ConfigError: if the purpose is no short name, or is that of the throttle's counters.
    """

    def __init__(self, parts: Parts[I], purpose: str, *, ttl: timedelta = TTL) -> None:
        instance("the parts of one-time tokens", parts, Parts, "the Parts that bind was given")
        if purpose == COUNTERS:
            raise ConfigError(
                f"one-time tokens must not have the purpose {COUNTERS!r}: the counters of attempts have it"
            )
        self.ttl: Final = ttl
        self.purpose: Final = short_name("the purpose of one-time tokens", purpose)
        self._namespace: Final = short_name(
            "the namespace and the purpose of one-time tokens", f"{parts.namespace}.{purpose}"
        )
        self._ttl: Final = duration("the ttl of one-time tokens", ttl, at_least=1000)
        self._parts: Final = parts
        self._ids: Final = IdCodec(parts.keyring.mac("one-time token", self._namespace))
        self._proofs: Final = parts.keyring.mac("one-time token proof", self._namespace)

    async def issue(self, key: Key, address: str, *, request: Any = None) -> str | None:
        """Return a new token for an active user, and end the user's older one.

        If two calls for a user overlap, one of the tokens stays.

        Args:
            key: the user's key.
            address: the exact address to which the token will be sent.
            request: the request that asked for it, such as ``Step.request``. The event then has its address.

        Returns:
            ``None`` if the user is gone or is not active, or if a newer token or a revocation has overtaken this call.
            Then send nothing.

        Raises:
            StoreUnavailable: if the store or the users cannot be reached. No token that anybody holds is live then,
                except perhaps the older one.
        """
        backend, now, owner = self._parts.backend, self._parts.now(), self._owner(key)
        await backend.delete_owner(owner, now)
        # The epoch is read before the account. `create` fails if the user is revoked after this account was read.
        epoch = await backend.epoch(owner, now)
        account = await self._parts.users.get(key)
        if not isinstance(account, Account) or account.active is not True:
            return None
        name = shard_of(owner) + secrets.token_bytes(SID_BYTES - SHARD_BYTES)
        secret = secrets.token_bytes(SALT_BYTES)
        content = _Content(
            self.purpose, secret_hash(secret), stored_key(key), address, self._proofs.sign(proof_message(account))
        )
        record = Record(
            make_key(self._namespace, name), owner, 0, now, now + self._ttl, msgspec.msgpack.encode(content)
        )
        if not await backend.create(record, epoch, now):
            return None
        # A parallel call may have created a token, too. Both calls see the same order and keep the first.
        live = await backend.list(owner, now)
        for other in live[1:]:
            await backend.delete(other.key, now)
        if not live or live[0].key != record.key:
            return None
        self._parts.emit("token_issued", key, self.purpose, request=request)
        return self._ids.encode(name, secret, 0)

    async def find(self, token: object, *, request: Any = None) -> Claim[I] | None:
        """Return the content of a valid token, and leave it valid. Use it for ``GET`` and before a form is validated.

        ``token`` may be anything that a client sends. The result is ``None`` if it is not a valid token. ``request`` is
        for the event.

        Raises:
            StoreUnavailable: if the store or the users cannot be reached.
        """
        held = await self._held(token)
        claim = None if held is None else await self._claim(*held)
        if claim is None:
            self._refused(held, request)
        return claim

    async def take(self, token: object, *, request: Any = None) -> Claim[I] | None:
        """Use up a token and return its content. Of any number of parallel calls, exactly one gets the content.

        The account is read after the token is used up. If its proof has changed since `issue`, the result is ``None``.
        Validate the rest of the request first: whatever fails after this call costs the user a new token. ``request``
        is for the event.

        Raises:
            StoreUnavailable: if the store or the users cannot be reached. The token may be used up.
        """
        held = await self._held(token)
        taken = held is not None and await self._parts.backend.delete(held[0].key, self._parts.now())
        claim = await self._claim(*held) if taken and held is not None else None
        if claim is None:
            self._refused(held, request)
        else:
            self._parts.emit("token_used", claim.account.key, self.purpose, request=request)
        return claim

    async def end(self, key: Key) -> int:
        """End the user's token, also one that is being issued. Return the number of tokens that were live.

        Raises:
            StoreUnavailable: if it may still be live.
        """
        return await self._parts.backend.delete_owner(self._owner(key), self._parts.now())

    def _refused(self, held: tuple[Record, _Content] | None, request: Any) -> None:
        key = None if held is None else loaded_key(held[1].user_key)
        self._parts.emit("token_refused", key, self.purpose, request=request)

    async def _held(self, token: object) -> tuple[Record, _Content] | None:
        """Return the live record of a token, and its content. The account is not checked yet."""
        presented = self._ids.decode(token) if isinstance(token, str) else None
        if presented is None:
            return None
        record = await self._parts.backend.get(make_key(self._namespace, presented.sid), self._parts.now())
        content = None if record is None else _content(record)
        if record is None or content is None or content.purpose != self.purpose:
            return None
        return (record, content) if hmac.compare_digest(content.secret_hash, secret_hash(presented.salt)) else None

    async def _claim(self, record: Record, content: _Content) -> Claim[I] | None:
        account = await self._parts.users.get(loaded_key(content.user_key))
        if not isinstance(account, Account) or account.active is not True:
            return None
        if not self._proofs.verify(proof_message(account), content.proof):
            return None
        return Claim(account, content.address, moment(record.created_at))

    def _owner(self, key: Key) -> bytes:
        return make_owner(self._namespace, key_text(stored_key(key)))


def secret_hash(secret: bytes) -> bytes:
    """Return the form in which a record holds a token's secret part. It is random, so it needs no slow hash."""
    return hashlib.blake2b(secret, digest_size=SALT_BYTES, person=b"powauth token").digest()


def _content(record: Record) -> _Content | None:
    """Return the content of a token's record; ``None`` if this version of powauth cannot read it."""
    try:
        content = msgspec.msgpack.decode(record.value, type=_Content)
    except msgspec.DecodeError:
        return None
    return content if isinstance(content.user_key, StoredKey) else None


def proof_message(account: Account[Any]) -> bytes:
    """Return what a record that belongs to an account as it is now seals: the key, and the proof of the account."""
    return key_text(stored_key(account.key)).encode() + b"\0" + account.proof
