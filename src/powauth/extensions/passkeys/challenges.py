"""The challenges of passkeys: one-time records of the session store, bound to a cookie of the browser.

A challenge is the token of an offer: 54 bytes, of which 32 are random. A challenge that powauth did not make, or made
for another purpose, is refused without I/O. The store holds a hash of its secret part.

Two tabs of a browser share the cookie. Each of them has challenges of its own.
"""

import hashlib
import hmac
import re
import secrets
from datetime import timedelta
from typing import Any, Final, Literal, NamedTuple, get_args

import msgspec

from powauth.accounts.extension_ports import OwnCookie
from powauth.accounts.hooks import Parts
from powauth.accounts.identity import Key
from powauth.accounts.throttle import Limit
from powauth.accounts.user_keys import user_key_in, user_key_text
from powauth.errors import NotSignedIn
from powauth.extensions.offers import Offers
from powauth.extensions.records import AccountProofs, owner_of

Purpose = Literal["sign_in", "confirm", "register"]
"""The purposes of a challenge: somebody unknown signs in, a user who is signed in confirms, or adds a passkey."""

USES: Final[tuple[Purpose, ...]] = ("sign_in", "confirm")
"""The purposes for which a passkey is used."""

COOKIE_BYTES: Final = 24
"""Random bytes in the cookie."""

_COOKIE: Final = re.compile(r"[A-Za-z0-9_-]{32}\Z")


class Asked(msgspec.Struct, frozen=True):
    """The content of a challenge.

    Attributes:
        browser: a hash of the cookie.
        user_key: the user who is signed in, as `user_key_text` writes the key; ``None`` if nobody is.
        proof: a keyed hash of the proof of this user. A change of the password or of the user id voids the challenge.
        handle: the user handle of a passkey that is being made.
    """

    browser: bytes
    user_key: str | None
    proof: bytes
    handle: bytes


class Challenge(NamedTuple):
    """A live challenge.

    Attributes:
        purpose: its purpose.
        key: the key of the user who was signed in; ``None`` if nobody was.
        handle: the user handle of a passkey that is being made.
    """

    purpose: Purpose
    key: Key | None
    handle: bytes


class Challenges:
    """Issues and takes challenges.

    Args:
        parts: the parts of the authenticator.
        name: the name of the extension.
        ttl: the time for which a challenge is valid.
        per_source: the most challenges that one source gets within a time, and the most answers that it gives.
    """

    def __init__(self, parts: Parts[Any], name: str, ttl: timedelta, per_source: Limit) -> None:
        self._name: Final = name
        self._limits: Final = parts.limits
        self._per_source: Final = per_source
        self._ttl: Final = int(ttl.total_seconds())
        self._accounts: Final = AccountProofs(parts, "passkey challenge", f"{parts.namespace}.{name}")
        self._cookie: Final[OwnCookie] = parts.cookie(name)
        self._offers: Final = {
            purpose: Offers(parts, f"{name}.{purpose}", Asked, ttl=ttl) for purpose in get_args(Purpose)
        }

    async def issue(self, request: Any, purpose: Purpose, key: Key | None = None, handle: bytes = b"") -> str:
        """Return a new challenge in base64url, and give the browser its cookie.

        Raises:
            Throttled: if the source has got too many.
            NotSignedIn: if the user is gone or locked, or `end` was called for this user meanwhile.
            StoreUnavailable: if the store or the users cannot be reached.
        """
        await self._limits.admit_source(f"{self._name}.source", request.client_ip(), self._per_source)
        value = self._cookie.read(request)
        if value is None or not _COOKIE.match(value):
            value = secrets.token_urlsafe(COOKIE_BYTES)
        browser = _hash(value)
        offers = self._offers[purpose]
        if key is None:
            issued = await offers.issue(browser.hex(), Asked(browser, None, b"", handle))
        else:
            owner = owner_of(key)
            epoch = await offers.epoch(owner)
            account = await self._accounts.active(key)
            if account is None:
                raise NotSignedIn("sign in again")
            content = Asked(browser, user_key_text(key), self._accounts.seal(account), handle)
            issued = await offers.issue(owner, content, epoch)
        if issued is None:
            raise NotSignedIn("sign in again")
        self._cookie.write(request, value, self._ttl)
        return issued[0]

    async def admit_answer(self, request: Any) -> None:
        """Count an answer. Otherwise anybody could fill a log with refusals.

        Raises:
            Throttled: if the source has given too many.
            StoreUnavailable: if it cannot be counted.
        """
        await self._limits.admit_source(f"{self._name}.answers", request.client_ip(), self._per_source)

    async def find(self, request: Any, challenge: object, *purposes: Purpose) -> Challenge | None:
        """Return a live challenge of this browser, whose user has not changed, and leave it valid.

        Raises:
            StoreUnavailable: if the store or the users cannot be reached.
        """
        value = self._cookie.read(request)
        if value is None:
            return None
        for purpose in purposes:
            found = await self._offers[purpose].find(challenge)
            if found is None or not hmac.compare_digest(found.content.browser, _hash(value)):
                continue
            key = None if found.content.user_key is None else user_key_in(found.content.user_key)
            if key is None or await self._accounts.unchanged(key, found.content.proof) is not None:
                return Challenge(purpose, key, found.content.handle)
        return None

    async def take(self, challenge: object, purpose: Purpose) -> bool:
        """Use up a challenge that was found. Of any number of parallel calls, exactly one gets ``True``.

        Raises:
            StoreUnavailable: if the store cannot be reached. The challenge may be used up.
        """
        return await self._offers[purpose].take(challenge) is not None

    async def end(self, key: Key) -> None:
        """End all challenges of a user.

        Raises:
            StoreUnavailable: if one may still be valid.
        """
        owner = owner_of(key)
        try:
            await self._offers["confirm"].end(owner)
        finally:
            await self._offers["register"].end(owner)


def _hash(value: str) -> bytes:
    return hashlib.blake2b(value.encode(), digest_size=16, person=b"powauth passkey").digest()
