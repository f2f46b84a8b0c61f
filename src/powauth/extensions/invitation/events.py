"""The events of `Invitation`."""

from typing import Final

from powauth.events import EventKind

INVITED: Final = EventKind("invitation_made", "a user has made an invitation; ``detail`` is ``mail`` or ``link``")
ENDED: Final = EventKind("invitation_ended", "a user has ended an invitation before it was accepted")
ACCEPTED: Final = EventKind(
    "invitation_accepted", "somebody has got an account by an invitation; ``actor`` is the inviter"
)

EVENTS: Final = (INVITED, ENDED, ACCEPTED)
