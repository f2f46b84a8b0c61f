"""One-time tokens, such as the one in the link of a password reset.

A token is that of a record of the session backend, under ``<namespace>.<purpose>``; see `powauth.extensions.records`.
The user owns the record. It holds the address to which the token was sent, and a seal of the account. A change of the
password or of the user id therefore voids the token, whoever makes it.

Sources: OWASP Forgot Password Cheat Sheet, "URL Tokens"; OWASP ASVS 5.0.0, 6.5.1 to 6.5.5.
"""

from datetime import datetime, timedelta
from typing import Any, Final, Generic

import msgspec

from powauth._times import moment
from powauth.accounts.base import Account
from powauth.accounts.hooks import Parts
from powauth.accounts.identity import I, Key
from powauth.accounts.user_keys import user_key_in, user_key_text
from powauth.extensions.records import AccountProofs, Kept, TokenRecords, owner_of
from powauth.sessions.ids import IdCodec

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
    """The content of a token's record."""

    user_key: str
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
        self._records: Final = TokenRecords(parts, purpose, _Content, ttl, "one-time tokens")
        self.ttl: Final = ttl
        self.purpose: Final = purpose
        self._parts: Final = parts
        self._ids: Final = IdCodec(parts.keyring.mac("one-time token", self._records.namespace))
        self._accounts: Final = AccountProofs(parts, "one-time token proof", self._records.namespace)

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
        records, owner = self._records, owner_of(key)
        await records.end(owner)
        # The epoch is read before the account. `create` fails if the user is revoked after this account was read.
        epoch = await records.epoch(owner)
        account = await self._accounts.active(key)
        if account is None:
            return None
        made = await records.create(owner, _Content(user_key_text(key), address, self._accounts.seal(account)), epoch)
        if not made.stored:
            return None
        # A parallel call may have created a token, too. Both calls see the same order and keep the first.
        live = await records.names(owner)
        for other in live[1:]:
            await records.delete(other)
        if live[:1] != [made.kept.name]:
            return None
        self._parts.emit("token_issued", key, self.purpose, request=request)
        return made.token(self._ids)

    async def find(self, token: object, *, request: Any = None) -> Claim[I] | None:
        """Return the content of a valid token, and leave it valid. Use it for ``GET`` and before a form is validated.

        ``token`` may be anything that a client sends. The result is ``None`` if it is not a valid token. ``request`` is
        for the event.

        Raises:
            StoreUnavailable: if the store or the users cannot be reached.
        """
        held = await self._records.find(self._ids, token)
        claim = None if held is None else await self._claim(held)
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
        held = await self._records.find(self._ids, token)
        taken = held is not None and await self._records.delete(held.name)
        claim = await self._claim(held) if taken and held is not None else None
        if claim is None:
            self._refused(held, request)
        else:
            self._parts.emit("token_used", claim.account.key, self.purpose, request=request)
        return claim

    async def end(self, key: Key) -> int:
        """End the user's token, also a token that `issue` is making now. Return the number of live ones.

        Raises:
            StoreUnavailable: if it may still be live.
        """
        return await self._records.end(owner_of(key))

    def _refused(self, held: Kept[_Content] | None, request: Any) -> None:
        key = None if held is None else user_key_in(held.content.user_key)
        self._parts.emit("token_refused", key, self.purpose, request=request)

    async def _claim(self, held: Kept[_Content]) -> Claim[I] | None:
        content = held.content
        account = await self._accounts.unchanged(user_key_in(content.user_key), content.proof)
        return None if account is None else Claim(account, content.address, moment(held.created_at))
