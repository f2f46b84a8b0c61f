"""`Offers`: one-time tokens that carry a content, for links that are bound to no account.

A `powauth.extensions.OneTimeTokens` proves that somebody is a user of the app. An offer proves only that somebody got
the link: an invitation, a registration that is not complete, or the way back from a change. An owner has any number of
offers, and can list and end them.

A token of an offer is that of a record of the session backend, under ``<namespace>.<purpose>``; see
`powauth.extensions.records`.
"""

from datetime import datetime, timedelta
from typing import Any, Final, Generic, TypeVar

import msgspec

from powauth._times import moment
from powauth.accounts.hooks import Parts
from powauth.extensions.records import Kept, TokenRecords
from powauth.sessions.ids import IdCodec, decode_sid, encode_sid

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
        self._records: Final = TokenRecords(parts, purpose, content, ttl, "offers")
        self.purpose: Final = purpose
        self.ttl: Final = ttl
        self._ids: Final = IdCodec(parts.keyring.mac("offer", self._records.namespace))

    async def epoch(self, owner: str) -> int:
        """Return a number for `issue`. Call this before you read the data for the content.

        Raises:
            StoreUnavailable: if the store cannot be reached.
        """
        return await self._records.epoch(owner)

    async def issue(self, owner: str, content: T, epoch: int | None = None) -> tuple[str, str] | None:
        """Return a new token and the public name of its offer; ``None`` if `end` has overtaken this call.

        Args:
            owner: a text that names the owner, such as the key of a user. At most 64 characters.
            content: what the offer carries.
            epoch: an earlier result of `epoch`. The offer is issued only if `end` was not called since.

        Raises:
            StoreUnavailable: if the store cannot be reached. Nobody holds the token then.
        """
        if epoch is None:
            epoch = await self._records.epoch(owner)
        made = await self._records.create(owner, content, epoch)
        return (made.token(self._ids), encode_sid(made.kept.name)) if made.stored else None

    async def find(self, token: object) -> Offer[T] | None:
        """Return the offer of a valid token, and leave it valid. ``token`` may be anything that a client sends.

        Raises:
            StoreUnavailable: if the store cannot be reached.
        """
        found = await self._records.find(self._ids, token)
        return None if found is None else _offer(found)

    async def take(self, token: object) -> Offer[T] | None:
        """Use up a token and return its offer. Of any number of parallel calls, exactly one gets it.

        Validate the rest of the request first: whatever fails after this call costs the client the offer.

        Raises:
            StoreUnavailable: if the store cannot be reached. The offer may be used up.
        """
        found = await self._records.find(self._ids, token)
        return _offer(found) if found is not None and await self._records.delete(found.name) else None

    async def live(self, owner: str) -> list[Offer[T]]:
        """Return the live offers of an owner, newest first.

        Raises:
            StoreUnavailable: if the store cannot be reached.
        """
        return [_offer(each) for each in await self._records.live(owner)]

    async def end_one(self, owner: str, name: object) -> Offer[T] | None:
        """End one offer of an owner by its public name, and return it; ``None`` if the owner has no such offer.

        Raises:
            StoreUnavailable: if it may still be live.
        """
        for offer in await self.live(owner):
            if offer.name == name:
                return offer if await self._records.delete(decode_sid(offer.name) or b"") else None
        return None

    async def end(self, owner: str) -> int:
        """End all offers of an owner, also an offer that `issue` is making now. Return the number of live ones.

        Raises:
            StoreUnavailable: if any may still be live.
        """
        return await self._records.end(owner)


def _offer(found: Kept[T]) -> Offer[T]:
    return Offer(encode_sid(found.name), found.content, moment(found.created_at), moment(found.expires_at))
