"""`Invitations`: the flows of `Invitation`, without pages: make, list, end, send again, accept."""

import inspect
from collections.abc import Awaitable, Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from typing import Any, Final, Generic, NamedTuple

import msgspec

from powauth.accounts.base import Account
from powauth.accounts.changes import CLAIMED
from powauth.accounts.forms import Errors
from powauth.accounts.grant import Grant
from powauth.accounts.hooks import Parts
from powauth.accounts.identity import I, Key, key_text, stored_key
from powauth.accounts.throttle import Limit
from powauth.accounts.user_keys import user_key_in, user_key_text
from powauth.errors import InvalidParams, Refused
from powauth.extensions.invitation.events import ACCEPTED, ENDED, INVITED
from powauth.extensions.invitation.letters import Post
from powauth.extensions.offers import Offer, Offers
from powauth.extensions.records import owner_of

INVALID_INVITATION: Final = "is invalid or has expired"
"""The message about a token that is not valid, whatever the reason."""

TOO_MANY: Final = "has too many open invitations: end some of them first"

MayInvite = Callable[[Any], bool | Awaitable[bool]]
"""A function or coroutine function that takes the identity of a user, and returns whether that user may invite."""


class Invited(msgspec.Struct, frozen=True):
    """The content of an invitation.

    Attributes:
        inviter_key: the user who invites, as `user_key_text` writes the key.
        address: the exact address to which the invitation was mailed; ``None`` for a link that the inviter hands out.
        born: the time at which the inviter was created, in milliseconds; ``None`` if the model does not have it. A
            number that was a deleted user's key may be another user's key by now.
    """

    inviter_key: str
    address: str | None
    born: int | None


class Made(NamedTuple):
    """An invitation that was just made.

    Attributes:
        name: its public name, for the list.
        link: the link, for the inviter to hand out; ``None`` if it was mailed.
    """

    name: str
    link: str | None

    def __repr__(self) -> str:  # error reporters record what local variables look like
        return object.__repr__(self)


class Invitations(Generic[I]):
    """Makes, lists, ends and accepts invitations.

    Args:
        parts: the parts of the authenticator.
        name: the name of the extension.
        offers: the invitations.
        post: sends the mail.
        may_invite: decides who may invite.
        most: the most invitations that a user has open at once.
        limit: the most invitations that a user makes within a time.
        per_address: the most mails that one address gets, from all inviters.
    """

    def __init__(
        self,
        parts: Parts[I],
        name: str,
        offers: Offers[Invited],
        post: Post,
        may_invite: MayInvite,
        *,
        most: int,
        limit: Limit,
        per_address: Limit,
    ) -> None:
        self.offers: Final = offers
        self._parts: Final = parts
        self._name: Final = name
        self._post: Final = post
        self._may_invite: Final = may_invite
        self._most: Final = most
        self._limit: Final = limit
        self._per_address: Final = per_address
        self._columns: Final = [*({"created_at"} & {*parts.users.columns})]

    async def allows(self, identity: I) -> bool:
        """Return whether a user may invite."""
        allowed = self._may_invite(identity)
        if inspect.isawaitable(allowed):
            allowed = await allowed
        return allowed is True

    async def check(self, identity: I) -> None:
        """Check that a user may invite.

        Raises:
            Refused: if the user may not.
        """
        if not await self.allows(identity):
            raise Refused("you may not invite others")

    async def epoch(self, key: Key) -> int:
        """Return a number for `make` and `again`. Read it before you check that the inviter is still signed in.

        Raises:
            StoreUnavailable: if the store cannot be reached.
        """
        return await self.offers.epoch(owner_of(key))

    async def make(self, key: Key, identity: I, address: str | None, epoch: int | None = None) -> Made:
        """Make an invitation, and mail it if there is an address.

        The work is the same if a user already has the address. That user gets no mail, unless the address is not
        confirmed. Somebody else may have made such an account, and the invitation lets the owner of the address take it
        over.

        Args:
            key: the key of the inviter.
            identity: the identity of the inviter.
            address: the address in normalised form; ``None`` for a link.
            epoch: an earlier result of `epoch`. The invitation is made only if nothing has ended all since.

        Raises:
            Refused: if the user may not invite.
            InvalidParams: if the user has too many open invitations.
            Throttled: if the user has made too many, or the address has got too many.
        """
        await self.check(identity)
        await self._admit(key, address)
        return await self._make(key, address, epoch)

    async def _admit(self, key: Key, address: str | None) -> None:
        """Count an invitation.

        Raises:
            Throttled: if there were too many.
        """
        await self._parts.limits.admit(f"{self._name}.inviter", key_text(stored_key(key)), self._limit)
        if address is not None:
            await self._parts.limits.admit(f"{self._name}.address", address, self._per_address)

    async def _make(self, key: Key, address: str | None, epoch: int | None) -> Made:
        """Make an invitation. Two parallel calls may exceed the limit of open invitations by one."""
        if epoch is None:
            epoch = await self.epoch(key)
        inviter = await self._inviter(key)
        if inviter is None or not await self.allows(inviter[0].identity):
            raise Refused("you may not invite others")
        if len(await self.list(key)) >= self._most:
            raise InvalidParams({"base": [TOO_MANY]})
        content = Invited(user_key_text(key), address, inviter[1])
        taken = address is not None and await self._is_taken(address)
        issued = await self.offers.issue(owner_of(key), content, epoch)
        if issued is None:
            raise Refused("you may not invite others")
        token, name = issued
        self._parts.emit(INVITED, key, "link" if address is None else "mail")
        if address is None:
            return Made(name, self._post.link(token))
        self._post.send(None if taken else address, token=token, key=key)
        return Made(name, None)

    async def list(self, key: Key) -> list[Offer[Invited]]:
        """Return the open invitations of a user, newest first."""
        return await self.offers.live(owner_of(key))

    async def end(self, key: Key, name: object) -> Offer[Invited] | None:
        """End an invitation of a user by its public name, and return it; ``None`` if there is none."""
        ended = await self.offers.end_one(owner_of(key), name)
        if ended is not None:
            self._parts.emit(ENDED, key)
        return ended

    async def again(self, key: Key, identity: I, name: object, epoch: int | None = None) -> Made | None:
        """End an invitation and make the same anew, with a new link; ``None`` if there is none.

        Raises:
            Refused: if the user may not invite.
            Throttled: if the user has made too many, or the address has got too many. The invitation stays open.
        """
        await self.check(identity)
        wanted = [offer for offer in await self.list(key) if offer.name == name]
        if not wanted:
            return None
        await self._admit(key, wanted[0].content.address)
        ended = await self.end(key, name)
        return None if ended is None else await self._make(key, ended.content.address, epoch)

    async def found(self, token: object) -> Offer[Invited] | None:
        """Return the invitation of a valid token; ``None`` if there is none.

        It is not valid while the inviter is locked or may not invite. The users context is asked, because the identity
        of a session may be out of date.
        """
        offer = await self.offers.find(token)
        if offer is None:
            return None
        inviter = await self._inviter(user_key_in(offer.content.inviter_key))
        if inviter is None or inviter[1] != offer.content.born:
            return None
        return offer if await self.allows(inviter[0].identity) else None

    async def take(self, token: object) -> Offer[Invited] | None:
        """Use up a token and return its invitation. Of any number of parallel calls, exactly one gets it."""
        return await self.offers.take(token) if await self.found(token) is not None else None

    async def claimable(self, address: str) -> Account[I] | None:
        """Return the account of an address that nobody has proven; ``None`` if there is none.

        Somebody else may have made it, to wait for the owner of the address. See `Extension.may_be_claimed`.
        """
        account = await self._parts.users.find(address)
        if account is None or not await self._parts.may_be_claimed(account.key, address):
            return None
        return account

    async def claim(
        self, account: Account[I], address: str, changes: Mapping[str, object], request: Any, grant: Grant
    ) -> I | None:
        """Give an account to who was invited by mail to its address, and sign them in. Return the identity.

        Nothing that was made with the account stays: sessions, keys, passkeys, factors, a pending change.

        Args:
            account: the account, as `claimable` has returned it.
            address: the address to which the invitation was mailed.
            changes: the new password, and other fields of a registration.
            request: the request that signs in.
            grant: the options of the session.

        Raises:
            InvalidParams: what is wrong with ``changes``.
            Overtaken: if the account has changed meanwhile.
            Refused: if a hook or an extension refuses the sign-in.
        """
        changed = await self._parts.change(account.key, changes, proof=account.proof, why=CLAIMED)
        self.accepted(request, changed.key)
        await self._parts.address_proven(changed.key, address)
        return await self._parts.sign_in(request, changed, grant)

    @contextmanager
    def accepting(self, request: Any, invited: Invited) -> Iterator[None]:
        """Note that a request accepts an invitation. `accepted` then emits the event as soon as the account exists."""
        request.states[self] = user_key_in(invited.inviter_key)
        try:
            yield
        finally:
            request.states.pop(self, None)

    def accepted(self, request: Any, key: Key) -> None:
        """Emit the event, if the request accepts an invitation. The sign-in that follows may be refused."""
        inviter = None if request is None else request.states.pop(self, None)
        if inviter is not None:
            self._parts.emit(ACCEPTED, key, request=request, actor=inviter)

    async def refused_password(self, password: object, request: Any) -> Errors:
        """Return what other extensions find wrong with a password that the users context would take."""
        refused = await self._parts.check_password(str(password), request)
        return {"password": list(refused)} if refused else {}

    async def end_all(self, key: Key) -> int:
        """End all invitations of a user, also one that `make` is making now. Return the number of open ones.

        Raises:
            StoreUnavailable: if any may still be open.
        """
        return await self.offers.end(owner_of(key))

    async def ended_with(self, key: Key) -> None:
        """End all invitations of a user who is gone or locked. Those of an active user stay."""
        account = await self._parts.users.get(key)
        if not isinstance(account, Account) or account.active is not True:
            await self.end_all(key)

    async def _is_taken(self, address: str) -> bool:
        """Return whether an address has an account that its owner cannot take over by an invitation."""
        account = await self._parts.users.find(address)
        if account is None:
            await self._parts.users.find(address)  # as much work as the next line does for a known address
            return False
        return not await self._parts.may_be_claimed(account.key, address)

    async def _inviter(self, key: Key) -> tuple[Account[I], int | None] | None:
        """Return an active user, and the time at which the user was created."""
        if not self._columns:
            account = await self._parts.users.get(key)
            return (account, None) if isinstance(account, Account) and account.active is True else None
        read = await self._parts.users.read(key, self._columns)
        if read is None or read[0].active is not True:
            return None
        created_at = read[1]["created_at"]
        return read[0], int(created_at.timestamp() * 1000) if isinstance(created_at, datetime) else None


def invalid_invitation() -> InvalidParams:
    """Return the error of a token that is not valid, whatever the reason."""
    return InvalidParams({"token": [INVALID_INVITATION]})
