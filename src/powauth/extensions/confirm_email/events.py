"""The events of `ConfirmEmail`."""

from typing import Final

from powauth.events import EventKind

CONFIRMED: Final = EventKind("address_confirmed", "a user has proven to receive mail at their address")
CHANGE_ASKED: Final = EventKind("address_change_asked", "a user wants another address, which is not confirmed yet")
CHANGED: Final = EventKind("address_changed", "a user has confirmed another address, which is now the user's")
CHANGE_UNDONE: Final = EventKind(
    "address_change_undone",
    "the owner of a user's old address has undone a change: somebody else may have had the password",
    severity="warning",
)

EVENTS: Final = (CONFIRMED, CHANGE_ASKED, CHANGED, CHANGE_UNDONE)
