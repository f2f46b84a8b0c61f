"""`Enrolments`: authenticator apps that wait for their first code.

An enrolment is a record of the session backend, under ``<namespace>.second_factor.totp``. The user owns it, and has at
most one. It is valid for ten minutes, in the session that began it, and until the user's password changes. The seed in
it is sealed. The first right code copies it into the table.
"""

import secrets
from datetime import timedelta
from typing import Any, Final, Generic

import msgspec

from powauth._times import duration
from powauth.accounts.base import Account
from powauth.accounts.hooks import Parts
from powauth.accounts.identity import I, Key, key_text, stored_key
from powauth.backends.base import Record, make_key, make_owner, shard_of
from powauth.errors import StoreMissing
from powauth.extensions.sealing import Sealer
from powauth.sessions.ids import SHARD_BYTES, SID_BYTES, encode_sid

SEED_BYTES: Final = 20
"""160 random bits (RFC 4226, section 4: at least 128, 160 recommended)."""


class _Content(msgspec.Struct, frozen=True, array_like=True):
    """The value of an enrolment's record."""

    proof: bytes
    session: bytes
    seed: bytes

    __repr__ = object.__repr__  # error reporters record what local variables look like


class Pending(msgspec.Struct, frozen=True):
    """An enrolment that waits for a code.

    Attributes:
        id: the name of the enrolment.
        seed: the seed.
        key: the key of its record.
    """

    id: str
    seed: bytes
    key: bytes

    __repr__ = object.__repr__  # error reporters record what local variables look like


class Enrolments(Generic[I]):
    """Begins, finds and ends enrolments.

    Args:
        parts: the parts of the authenticator.
        name: the last part of the namespace.
        ttl: the time for which an enrolment is valid.
    """

    def __init__(self, parts: Parts[I], name: str, ttl: timedelta) -> None:
        self._parts: Final = parts
        self._namespace: Final = f"{parts.namespace}.{name}"
        self._ttl: Final = duration("the ttl of enrolments", ttl, at_least=1000)
        self._codes: Final = parts.keyring.mac("enrolment", self._namespace)
        self._sealer: Final = Sealer(parts.keyring, f"enrolment {self._namespace}")

    async def begin(self, account: Account[I], session: bytes) -> Pending | None:
        """Begin an enrolment, and end the user's older one. Return ``None`` if the user is revoked meanwhile.

        Raises:
            StoreUnavailable: if it could not be stored.
        """
        backend, now, owner = self._parts.backend, self._parts.now(), self._owner(account.key)
        await backend.delete_owner(owner, now)
        epoch = await backend.epoch(owner, now)
        name = shard_of(owner) + secrets.token_bytes(SID_BYTES - SHARD_BYTES)
        seed, text = secrets.token_bytes(SEED_BYTES), encode_sid(name)
        content = _Content(
            self._codes.sign(_proof(account)),
            self._codes.sign(b"session\0" + session),
            self._sealer.seal(seed, text),
        )
        value = msgspec.msgpack.encode(content)
        record = Record(make_key(self._namespace, name), owner, 0, now, now + self._ttl, value)
        return Pending(text, seed, record.key) if await backend.create(record, epoch, now) else None

    async def find(self, account: Account[I], session: bytes) -> Pending | None:
        """Return the enrolment that a session of a user has begun; ``None`` if none is valid.

        Raises:
            StoreUnavailable: if the store cannot be reached.
        """
        for record in await self._parts.backend.list(self._owner(account.key), self._parts.now()):
            try:
                content = msgspec.msgpack.decode(record.value, type=_Content)
            except msgspec.DecodeError:
                continue
            own = self._codes.verify(b"session\0" + session, content.session)
            if not own or not self._codes.verify(_proof(account), content.proof):
                continue
            text = encode_sid(record.key[-SID_BYTES:])
            try:
                return Pending(text, self._sealer.open(content.seed, text), record.key)
            except StoreMissing:  # sealed with a secret that is gone: begin again
                continue
        return None

    async def take(self, pending: Pending) -> bool:
        """End an enrolment after a right code. Of parallel calls, exactly one returns ``True``."""
        return await self._parts.backend.delete(pending.key, self._parts.now())

    async def end(self, key: Key) -> int:
        """End the enrolment of a user, also one that begins now. Return how many there were.

        Raises:
            StoreUnavailable: if it may still be valid.
        """
        return await self._parts.backend.delete_owner(self._owner(key), self._parts.now())

    def _owner(self, key: Key) -> bytes:
        return make_owner(self._namespace, key_text(stored_key(key)))


def _proof(account: Account[Any]) -> bytes:
    return b"proof\0" + key_text(stored_key(account.key)).encode() + b"\0" + account.proof
