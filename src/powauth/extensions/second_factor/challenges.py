"""`Challenges`: records of sign-ins that wait for a second factor.

A challenge is a record of the session backend, under ``<namespace>.second_factor``. The user owns it. It holds the
methods that the user has proven, the options of the session, and a hash of the user's proof. A change of the password
voids it.

The client holds a token of the format of a session's id. A browser keeps it in a cookie that no script can read. A
program that asked for a bearer token gets it in the response, and sends it back in the body. A token of one kind is
invalid as the other.
"""

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final, Generic

import msgspec

from powauth.accounts.base import Account
from powauth.accounts.grant import Grant
from powauth.accounts.hooks import Parts
from powauth.accounts.identity import I, Key
from powauth.accounts.records import Attempt
from powauth.accounts.user_keys import user_key_in, user_key_text
from powauth.backends.base import Millis
from powauth.extensions.records import AccountProofs, Kept, TokenRecords, owner_of
from powauth.extensions.second_factor.factor import Challenge, Purpose
from powauth.sessions.ids import IdCodec, encode_sid

TTL: Final = timedelta(minutes=5)
"""The default time for which a challenge is valid."""

COOKIE: Final = "factor"
"""The last part of the name of the cookie."""

NONCE_BYTES: Final = 32


class _Content(msgspec.Struct, frozen=True, array_like=True):
    """The content of a challenge's record."""

    purpose: Purpose
    user_key: str
    proof: bytes
    nonce: bytes
    amr: dict[str, Millis]
    remember: bool | None
    bearer: bool | None
    fresh: bool
    counted_as: str | None
    session: bytes


class Open(msgspec.Struct, Generic[I], frozen=True):
    """A challenge that a client has presented.

    Attributes:
        account: the user, as just read: active, and with the same proof as when the challenge began.
        challenge: the question for the factor.
        amr: what was proven before, with the times.
        grant: the options of the session that was asked for.
        name: the name of its record.
    """

    account: Account[I]
    challenge: Challenge
    amr: Mapping[str, Millis]
    grant: Grant
    name: bytes

    __repr__ = object.__repr__  # error reporters record what local variables look like


class Begun(msgspec.Struct, Generic[I], frozen=True):
    """A challenge that has just begun.

    Attributes:
        open: the challenge.
        token: the token for a program; ``None`` if the response carries it in a cookie.
    """

    open: Open[I]
    token: str | None = None

    __repr__ = object.__repr__


class Challenges(Generic[I]):
    """Begins, finds and ends challenges. All methods are safe in parallel, in any number of processes.

    Args:
        parts: the parts of the authenticator.
        name: the name of the extension.
        ttl: the time for which a challenge is valid.
    """

    def __init__(self, parts: Parts[I], name: str, ttl: timedelta) -> None:
        self._records: Final = TokenRecords(parts, name, _Content, ttl, "challenges")
        self._cookie: Final = parts.cookie(COOKIE)
        namespace = self._records.namespace
        self._in_cookie: Final = IdCodec(parts.keyring.mac("challenge", namespace, "cookie"))
        self._in_body: Final = IdCodec(parts.keyring.mac("challenge", namespace, "body"))
        self._accounts: Final = AccountProofs(parts, "challenge proof", namespace)

    async def begin(
        self,
        request: Any,
        account: Account[I],
        grant: Grant,
        purpose: Purpose = "sign_in",
        session: bytes = b"",
    ) -> Begun[I]:
        """Begin a challenge. The response carries it in a cookie, unless the grant is for a bearer token.

        ``session`` binds it to a session of the user, by a text of its sid.

        Raises:
            StoreUnavailable: if it could not be stored.
        """
        attempt = grant.attempt or Attempt()
        content = _Content(
            purpose=purpose,
            user_key=user_key_text(account.key),
            proof=self._accounts.seal(account),
            nonce=secrets.token_bytes(NONCE_BYTES),
            amr={method: at for method, at in (grant.amr or {}).items() if at is not None},
            remember=grant.remember,
            bearer=grant.bearer,
            fresh=grant.fresh,
            counted_as=attempt.counted_as,
            session=_named(session),
        )
        owner = owner_of(account.key)
        # The proof in the record voids it after a change, so the epoch need not be older than the account.
        made = await self._records.create(owner, content, await self._records.epoch(owner))
        begun = Open(account, _question(made.kept), content.amr, _grant(content), made.kept.name)
        if grant.bearer:
            return Begun(begun, made.token(self._in_body))
        self._cookie.write(request, made.token(self._in_cookie), self._records.ttl // 1000)
        return Begun(begun)

    async def find(self, request: Any, given: object = None, session: bytes = b"") -> Open[I] | None:
        """Return the challenge that a request presents; ``None`` if it presents no valid one.

        Args:
            request: the request, for its cookie.
            given: the token in the body of a program. It may be anything. With a token, the cookie does not count.
            session: the session of the request. A challenge that is bound to a session is invalid for others.

        Raises:
            StoreUnavailable: if the store or the users cannot be reached.
        """
        codec, text = (self._in_cookie, self._cookie.read(request)) if given is None else (self._in_body, given)
        found = await self._records.find(codec, text)
        if found is None:
            return None
        content = found.content
        if content.session and not hmac.compare_digest(content.session, _named(session)):
            return None
        account = await self._accounts.unchanged(user_key_in(content.user_key), content.proof)
        if account is None:
            return None
        return Open(account, _question(found), content.amr, _grant(content), found.name)

    async def take(self, request: Any, found: Open[I]) -> bool:
        """End a challenge after a success, and clear its cookie. Of parallel calls, exactly one returns ``True``.

        Raises:
            StoreUnavailable: if the store cannot be reached. The challenge may have ended.
        """
        if not found.grant.bearer:
            self._cookie.clear(request)
        return await self._records.delete(found.name)

    async def end(self, key: Key) -> int:
        """End all challenges of a user, also those that begin now. Return how many there were.

        Raises:
            StoreUnavailable: if any may still be valid.
        """
        return await self._records.end(owner_of(key))


def _question(kept: Kept[_Content]) -> Challenge:
    content = kept.content
    return Challenge(
        name=encode_sid(kept.name), nonce=content.nonce, purpose=content.purpose, started_at=kept.created_at
    )


def _grant(content: _Content) -> Grant:
    return Grant(
        remember=content.remember,
        bearer=content.bearer,
        fresh=content.fresh,
        attempt=Attempt(counted_as=content.counted_as),
        same_proof=True,
    )


def _named(session: bytes) -> bytes:
    return hashlib.blake2b(session, digest_size=16, person=b"powauth step").digest() if session else b""
