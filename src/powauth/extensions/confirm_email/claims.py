"""The contents of the links of `ConfirmEmail`, and the decisions about them. Nothing here does I/O."""

from collections.abc import Iterable, Mapping
from datetime import datetime
from typing import Any, Generic

import msgspec

from powauth.accounts.base import Account
from powauth.accounts.identity import I
from powauth.accounts.user_keys import user_key_text

COLUMNS = ("email_confirmed_at", "unconfirmed_email")
"""The columns of `ConfirmEmailMixin`."""


class Asked(msgspec.Struct, frozen=True):
    """The content of a link that confirms an address.

    Attributes:
        address: the exact address to which the link was sent.
        user_key: the user who had the address, as `user_key_text` writes the key; ``None`` if nobody had
            it. The link then registers.
        proof: a keyed hash of the user's proof; empty if there is no user.
        mailed: whether the link is in a mail. Otherwise it exists only to make the work the same for every address.
    """

    address: str
    user_key: str | None = None
    proof: bytes = b""
    mailed: bool = True


class Undo(msgspec.Struct, frozen=True):
    """The content of a link that undoes a change of address.

    Attributes:
        user_key: the user, as `user_key_text` writes the key.
        old: the address before the change, to which the link was sent.
        new: the address that somebody asked for.
        born: the time at which the user was created, in milliseconds; ``None`` if the model does not have it. A number
            that was a deleted user's key may be another user's key by now.
    """

    user_key: str
    old: str
    new: str
    born: int | None


class Undone(msgspec.Struct, frozen=True):
    """The content of a record of an undone change. It voids the undo links of all later changes.

    Attributes:
        link: the name of the link that was used.
        since: the time at which it was issued.
        until: the time at which it was used.
    """

    link: str
    since: datetime
    until: datetime

    __repr__ = object.__repr__  # error reporters record what local variables look like


class State(msgspec.Struct, Generic[I], frozen=True):
    """The address of a user as it was just read.

    Attributes:
        account: the user.
        address: the address in force; empty for a user who has none.
        confirmed_at: the time at which the user proved to receive mail there; ``None`` if that has not happened.
        pending: a new address that waits for its confirmation.
        born: the time at which the user was created, in milliseconds; ``None`` if the model does not have it.
    """

    account: Account[I]
    address: str
    confirmed_at: datetime | None
    pending: str | None
    born: int | None

    __repr__ = object.__repr__  # error reporters record what local variables look like

    @property
    def active(self) -> bool:
        """True if the user may sign in, as far as the users context knows."""
        return self.account.active is True


def state_of(account: Account[I], values: Mapping[str, Any]) -> State[I]:
    """Return the state in the columns of a user."""
    created_at = values.get("created_at")
    born = int(created_at.timestamp() * 1000) if isinstance(created_at, datetime) else None
    return State(account, str(values["email"] or ""), values["email_confirmed_at"], values["unconfirmed_email"], born)


def confirms(asked: Asked, state: State[Any]) -> bool:
    """Return whether a link confirms the address of this user. The caller has compared the proof."""
    return state.active and state.confirmed_at is None and state.address == asked.address


def completes(address: str, state: State[Any]) -> bool:
    """Return whether a link that was sent to an address completes the user's change to it."""
    return state.active and state.pending == address


def is_void(link: str, issued_at: datetime, undone: Iterable[Undone]) -> bool:
    """Return whether a link was issued after a change that the owner of an earlier address has undone.

    The thief who made that change controls the later addresses, and got their undo links.
    """
    return any(each.since <= issued_at <= each.until and each.link != link for each in undone)


def is_of(undo: Undo, state: State[Any]) -> bool:
    """Return whether a link is of this user. A number may be the key of another user since a deletion."""
    return user_key_text(state.account.key) == undo.user_key and state.born == undo.born


def undoes(undo: Undo, state: State[Any]) -> bool:
    """Return whether the link still has a change to undo.

    If the user has the old address and no pending change, there is nothing to undo. The link would only be a second way
    to set a password. If the model has no ``created_at``, the link undoes only the change to the address ``undo.new``.
    """
    if not state.active or not is_of(undo, state):
        return False
    if state.address == undo.old:
        return state.pending is not None
    return undo.born is not None or state.address == undo.new


def reserves(undo: Undo, state: State[Any]) -> bool:
    """Return whether the link keeps its address for this user. A lock ends the link only until it is over."""
    return is_of(undo, state) and (undo.born is not None or state.address == undo.new)
