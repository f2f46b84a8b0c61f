"""The events of `Passkeys`."""

from typing import Final

from powauth.events import EventKind

ADDED: Final = EventKind("passkey_added", "a user has registered a passkey")
REMOVED: Final = EventKind(
    "passkey_removed", "a passkey was removed; `actor` is the one who did it, if that was not its user"
)
USED: Final = EventKind("passkey_used", "a passkey was used; `detail` is `sign_in`, `confirm` or `second_factor`")
REFUSED: Final = EventKind(
    "passkey_refused",
    "the answer of a browser was refused; `detail` is the reason, such as `origin` or `challenge`",
    "warning",
)
COUNTER: Final = EventKind(
    "passkey_counter",
    "the counter of a passkey has not grown: somebody may have copied the authenticator; the sign-in went on",
    "warning",
)

EVENTS: Final = (ADDED, REMOVED, USED, REFUSED, COUNTER)
