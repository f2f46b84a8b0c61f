"""`Addresses`: the flows of `ConfirmEmail`, without pages: ask for a link, confirm, change and undo."""

from collections.abc import Mapping
from datetime import timedelta
from typing import Any, Final, Generic, Literal

from powauth._times import moment
from powauth.accounts.base import Account
from powauth.accounts.changes import CLAIMED, RECOVERED
from powauth.accounts.forms import BLANK, is_blank
from powauth.accounts.hooks import Parts
from powauth.accounts.identity import I, Key, key_text, stored_key
from powauth.accounts.throttle import Limit
from powauth.accounts.user_keys import user_key_in, user_key_text
from powauth.errors import InvalidParams, Overtaken, Throttled
from powauth.extensions.confirm_email.claims import (
    COLUMNS,
    Asked,
    State,
    Undo,
    Undone,
    completes,
    confirms,
    is_void,
    reserves,
    state_of,
    undoes,
)
from powauth.extensions.confirm_email.events import CHANGE_ASKED, CHANGE_UNDONE, CHANGED, CONFIRMED
from powauth.extensions.confirm_email.letters import Letter, Post
from powauth.extensions.offers import Offer, Offers
from powauth.extensions.records import AccountProofs, owner_of
from powauth.extensions.tokens import Claim, OneTimeTokens

PasswordAt = Literal["at_confirmation", "at_registration"]
"""The time at which a new user chooses the password; see `ConfirmEmail`."""

PER_USER: Final = Limit(5, timedelta(hours=1))
"""The most changes of address that one user may ask for. Each sends mail to an address that the user chooses."""

ATTEMPTS: Final = 3
"""Maximum number of tries to confirm an address, or to undo a change. A try fails if the account changes meanwhile."""

INVALID_LINK: Final = "is invalid or has expired"
"""The message about a token that is not valid, whatever the reason."""


class Addresses(Generic[I]):
    """Confirms and changes addresses.

    Args:
        parts: the parts of the authenticator.
        name: the name of the extension.
        post: sends the mail.
        ttl: the time for which a link is valid.
        undo_ttl: the time for which a change can be undone.
        per_address: the most mails that one address gets.
        per_source: the most requests for mail from one source.
    """

    def __init__(
        self,
        parts: Parts[I],
        name: str,
        post: Post,
        *,
        ttl: timedelta,
        undo_ttl: timedelta,
        per_address: Limit,
        per_source: Limit,
    ) -> None:
        self.offers: Final = Offers(parts, name, Asked, ttl=ttl)
        self.changes: Final = OneTimeTokens(parts, f"{name}.change", ttl=ttl)
        self.undos: Final = Offers(parts, f"{name}.undo", Undo, ttl=undo_ttl)
        self.undone: Final = Offers(parts, f"{name}.undone", Undone, ttl=undo_ttl)
        self._parts: Final = parts
        self._name: Final = name
        self._post: Final = post
        self._per_address: Final = per_address
        self._per_source: Final = per_source
        self._accounts: Final = AccountProofs(parts, f"{name} proof", parts.namespace)
        self._marks: Final = parts.keyring.mac(f"{name} address", parts.namespace)
        self._columns: Final = ["email", *COLUMNS, *({"created_at"} & {*parts.users.columns})]

    async def state(self, key: Key) -> State[I] | None:
        """Return the state of a user's address; ``None`` if there is no such user."""
        read = await self._parts.users.read(key, self._columns)
        return None if read is None else state_of(*read)

    def normalized(self, address: object) -> str | None:
        """Return an address as a registration would store it; ``None`` if nobody can have it."""
        return self._parts.users.login_key({"email": address})

    # --- asking for a link --------------------------------------------------------------------------------------------

    async def ask(self, address: str, source: str | None, *, registering: bool) -> None:
        """Send a mail to an address: a link to confirm it, a link to register, or a notice.

        powauth looks the address up in the background, when the response has been sent. So the time of the response
        says nothing about the address. If the address has got too much mail, powauth sends nothing.

        Args:
            address: the address in normalised form.
            source: the address of the client.
            registering: whether somebody registers. Otherwise a user asks for another mail.

        Raises:
            Throttled: if there were too many requests from one source.
        """
        await self._parts.limits.admit_source(f"{self._name}.source", source, self._per_source)
        self._post.prepare(lambda: self._asked_letter(address, registering=registering))

    async def _asked_letter(self, address: str, *, registering: bool) -> Letter | None:
        if not await self._admitted(address):
            return None
        found = await self._parts.users.find(address)
        owner = self._mark(address) if found is None else owner_of(found.key)
        # After a registration, a request for another mail sends the same kind of mail again, because `end` voids the
        # first link.
        waiting = any(each.content.mailed for each in await self.offers.live(owner))
        await self.offers.end(owner)
        epoch = await self.offers.epoch(owner)
        state = None if found is None else await self.state(found.key)
        return await self._offer(address, state, owner, epoch, registering=registering or (found is None and waiting))

    async def send(self, key: Key, source: str | None) -> None:
        """Send a link to a user who has just registered, unless the address or the source has got too much mail."""
        state = await self.state(key)
        try:
            await self._parts.limits.admit_source(f"{self._name}.source", source, self._per_source)
        except Throttled:
            return
        if state is None or not await self._admitted(state.address):
            return
        owner = owner_of(key)
        await self.offers.end(owner)
        epoch = await self.offers.epoch(owner)
        state = await self.state(key)
        if state is not None:
            self._post.send(await self._offer(state.address, state, owner, epoch, registering=False))

    async def _offer(
        self, address: str, state: State[I] | None, owner: str, epoch: int, *, registering: bool
    ) -> Letter:
        asked = Asked(address, mailed=registering)
        if state is not None:
            proof = self._accounts.seal(state.account)
            asked = Asked(state.address, user_key_text(state.account.key), proof)
        issued = await self.offers.issue(owner, asked, epoch)
        token = None if issued is None else issued[0]
        key = None if state is None else state.account.key
        if token is None or (state is not None and not (state.active and self._is_at(state, address))):
            return Letter(None, address)
        if state is None:
            return Letter("register" if registering else None, address, token=token)
        if state.confirmed_at is None:
            return Letter("confirm", state.address, token=token, key=key)
        return Letter("taken" if registering else None, state.address, key=key)

    async def remind(self, address: str, source: str | None) -> None:
        """Send a link to the unconfirmed user of an address, because somebody registers with the address again.

        Somebody else may have made that account. The person who reads the mail can take it over.
        """
        found = await self._parts.users.find(address)
        if found is not None and await self._parts.may_be_claimed(found.key, address):
            await self.send(found.key, source)

    # --- confirming ---------------------------------------------------------------------------------------------------

    async def asked(self, token: object) -> tuple[Asked, State[I] | None] | None:
        """Return the content of a valid link, with the user whom it concerns; ``None`` if it is not valid."""
        offer = await self.offers.find(token)
        if offer is None:
            return None
        asked = offer.content
        if asked.user_key is None:
            return asked, None
        state = await self.state(user_key_in(asked.user_key))
        if state is None or not confirms(asked, state) or not self._accounts.is_of(state.account, asked.proof):
            return None
        return asked, state

    async def confirm(self, token: object, state: State[I], password: object = None) -> None:
        """Use a link up, and confirm the user's address. A password replaces the user's, and ends all they hold.

        Args:
            token: the token of the link.
            state: the user, as `asked` returned it.
            password: the new password; ``None`` if the user is signed in with a password of their own.

        Raises:
            InvalidParams: if the password is not good enough, or the link is not valid.
        """
        changes = self._confirmed() if password is None else {**self._confirmed(), "password": password}
        if await self.offers.take(token) is None:
            raise invalid_link()
        await self._written(state, changes)
        self._parts.emit(CONFIRMED, state.account.key)

    async def mark(self, key: Key, address: str, *, claimed: bool = False) -> None:
        """Note that a user has proven to receive mail at an address, if it is still the user's.

        Args:
            key: the user's key.
            address: the address.
            claimed: whether somebody else may have made the account. If nobody has proven the address before, powauth
                then first ends everything that was made with the account.

        Raises:
            Overtaken: if the account changes again and again meanwhile.
        """
        for tries_left in reversed(range(ATTEMPTS)):
            state = await self.state(key)
            if state is None or state.address != address:
                return
            try:
                if claimed and state.confirmed_at is None:
                    await self._parts.change(key, {"unconfirmed_email": None}, proof=state.account.proof, why=CLAIMED)
                if state.confirmed_at is None or state.pending is not None:
                    await self._parts.change(key, self._confirmed(), proof=state.account.proof)
            except Overtaken:
                if not tries_left:
                    raise
                continue
            if state.confirmed_at is None:
                self._parts.emit(CONFIRMED, key)
            return

    # --- changing -----------------------------------------------------------------------------------------------------

    async def cancel(self, account: Account[I]) -> None:
        """End a change that waits for its confirmation."""
        await self.changes.end(account.key)
        await self._parts.change(account.key, {"unconfirmed_email": None}, proof=account.proof)

    async def begin_change(self, key: Key, address: str) -> None:
        """Send a link to a new address, and a notice to the present one. Nothing else changes yet.

        The work is the same if another user has the new address. That user gets a notice instead of the link.

        Raises:
            Throttled: if the user has asked too often, or the new address has got too much mail.
            InvalidParams: if the account is changed at the same time.
        """
        await self._parts.limits.admit(f"{self._name}.change", key_text(stored_key(key)), PER_USER)
        await self._parts.limits.admit(f"{self._name}.address", address, self._per_address)
        state = await self.state(key)
        if state is None:
            return
        taken = await self._parts.users.find(address)
        # Issue the undo link first. Then no later step can fail and leave the old address without it. If an undo
        # overtakes this call, this link is older than the undo, and is void.
        undo = Undo(user_key_text(key), state.address, address, state.born)
        issued = await self.undos.issue(self._mark(state.address), undo) if state.confirmed_at is not None else None
        await self._parts.change(key, {"unconfirmed_email": address}, proof=state.account.proof)
        token = await self.changes.issue(key, address)
        self._parts.emit(CHANGE_ASKED, key)
        if token is None:  # a later change has overtaken this one
            self._post.send(Letter(None, address))
        elif taken is None:
            self._post.send(Letter("change", address, token=token, key=key))
        else:
            self._post.send(Letter("taken", address, key=taken.key))
        if issued is not None:  # not to an address that was never confirmed: a stranger may have it
            self._post.send(Letter("change_notice", state.address, token=issued[0], key=key, address=address))

    async def change(self, token: object) -> tuple[Claim[I], State[I]] | None:
        """Return the content of a valid link that completes a change, with the user; ``None`` if it is not valid."""
        claim = await self.changes.find(token)
        state = None if claim is None else await self.state(claim.account.key)
        return None if claim is None or state is None or not completes(claim.address, state) else (claim, state)

    async def complete_change(self, token: object, claim: Claim[I], state: State[I]) -> Account[I]:
        """Use a link up, and make the new address the user's. This ends all that the user holds.

        The database decides whether the address is still free.

        Raises:
            InvalidParams: if the link is not valid, or another user has the address by now.
        """
        if await self.changes.take(token) is None:
            raise invalid_link()
        account = await self._written(state, {**self._confirmed(), "email": claim.address})
        self._parts.emit(CHANGED, account.key)
        if state.confirmed_at is not None:
            self._post.send(Letter("changed", state.address, key=account.key, address=claim.address))
        return account

    async def undo(self, token: object) -> tuple[Offer[Undo], State[I]] | None:
        """Return a valid link that undoes a change, with the user; ``None`` if it is not valid."""
        offer = await self.undos.find(token)
        state = None if offer is None else await self._to_undo(offer)
        return None if offer is None or state is None else (offer, state)

    async def complete_undo(self, token: object, offer: Offer[Undo], password: object) -> None:
        """Use a link up, and set the old address and a new password. This ends everything that the user holds.

        It also voids the undo links of all later changes. The thief may have got them, because they went to the thief's
        addresses. If the account changes meanwhile, this tries again, because the user has no second link.

        Raises:
            InvalidParams: if the link is not valid, or the password is not good enough.
        """
        undo = offer.content
        await self._note_undone(offer)
        if await self.undos.take(token) is None:
            raise invalid_link()
        for tries_left in reversed(range(ATTEMPTS)):
            state = await self._to_undo(offer)
            if state is None:
                raise invalid_link()
            changes = {**self._confirmed(), "password": password}
            if state.address != undo.old:
                changes["email"] = undo.old
            try:
                await self._written(state, changes)
                break
            except InvalidParams as error:
                if not isinstance(error.__cause__, Overtaken) or not tries_left:
                    raise
        await self._note_undone(offer)  # a change that was overtaken has issued its link by now
        self._parts.emit(CHANGE_UNDONE, user_key_in(undo.user_key))

    async def end_undos(self, key: Key) -> None:
        """Void all undo links of a user that exist now.

        Raises:
            StoreUnavailable: if one may still be valid.
        """
        now = self._parts.now()
        await self.undone.issue(owner_of(key), Undone("", moment(0), moment(now)))

    async def _note_undone(self, offer: Offer[Undo]) -> None:
        undone = Undone(offer.name, offer.issued_at, moment(self._parts.now()))
        await self.undone.issue(owner_of(user_key_in(offer.content.user_key)), undone)

    async def _to_undo(self, offer: Offer[Undo]) -> State[I] | None:
        """Return the user whose change a link undoes; ``None`` if the link is void.

        It reads the user first. If another undo runs after that, the user's proof is outdated, and the change fails.
        """
        undo = offer.content
        state = await self.state(user_key_in(undo.user_key))
        if state is None or not undoes(undo, state):
            return None
        return None if await self._is_undone(offer) else state

    async def _is_undone(self, offer: Offer[Undo]) -> bool:
        """Return whether the use of another link has voided this one."""
        undone = await self.undone.live(owner_of(user_key_in(offer.content.user_key)))
        return is_void(offer.name, offer.issued_at, [each.content for each in undone])

    async def reserved(self, address: str) -> bool:
        """Return whether a user has a live undo link to an address. In that time, nobody else may register with it.

        Otherwise a thief who took an account over could register with the old address and block the undo. The link of a
        locked user works again after the lock. That of a deleted user never does.
        """
        offers = [offer for mark in self._marks_of(address) for offer in await self.undos.live(mark)]
        for user_key in {offer.content.user_key for offer in offers}:
            key = user_key_in(user_key)
            state = await self.state(key)
            if state is None:
                continue
            undone = [each.content for each in await self.undone.live(owner_of(key))]
            mine = [each for each in offers if each.content.user_key == user_key and reserves(each.content, state)]
            if not all(is_void(each.name, each.issued_at, undone) for each in mine):
                return True
        return False

    # --- inside -------------------------------------------------------------------------------------------------------

    async def password_errors(self, password: object, state: State[I], request: Any) -> dict[str, list[str]]:
        """Return what is wrong with a new password of a user. Ask before a link is used up."""
        if is_blank(password):
            return {"password": [BLANK]}
        given = {"password": password, "current_password": "x"}
        found = self._parts.users.validate(given, state.account.identity)
        if "password" in found:
            return {"password": list(found["password"])}
        return await self.refused_password(password, request)

    async def refused_password(self, password: object, request: Any) -> dict[str, list[str]]:
        """Return what other extensions find wrong with a password that the users context would take."""
        refused = await self._parts.check_password(str(password), request)
        return {"password": list(refused)} if refused else {}

    async def _admitted(self, address: str) -> bool:
        """Count a mail to an address. Return whether it may be sent."""
        try:
            await self._parts.limits.admit(f"{self._name}.address", address, self._per_address)
        except Throttled:
            return False
        return True

    def _is_at(self, state: State[I], address: str) -> bool:
        """Return whether an address is the user's. A user may also be found by another user id."""
        return address in (state.address, self.normalized(state.address))

    def _confirmed(self) -> dict[str, object]:
        return {"email_confirmed_at": moment(self._parts.now()), "unconfirmed_email": None}

    async def _written(self, state: State[I], changes: Mapping[str, object]) -> Account[I]:
        """Change a user who still is as they were read.

        Raises:
            InvalidParams: what is wrong with a password; otherwise that the link is not valid.
        """
        try:
            why = None
            if "password" in changes:  # the person who reads the mail takes the account over
                why = CLAIMED if state.confirmed_at is None else RECOVERED
            return await self._parts.change(state.account.key, changes, proof=state.account.proof, why=why)
        except InvalidParams as error:
            if "password" in error.errors:
                raise InvalidParams({"password": error.errors["password"]}) from error
            raise invalid_link() from error

    def _mark(self, address: str) -> str:
        """Return a text that names an address and does not reveal it."""
        return self._marks_of(address)[0]

    def _marks_of(self, address: str) -> list[str]:
        """Return the mark of an address under each secret, the newest first. A link may be older than a rotation."""
        return [code.hex() for code in self._marks.codes(address.encode("utf-8", "surrogatepass"))]


def invalid_link() -> InvalidParams:
    """Return the error of a link that is not valid, whatever the reason."""
    return InvalidParams({"token": [INVALID_LINK]})
