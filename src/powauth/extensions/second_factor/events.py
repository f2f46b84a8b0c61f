"""The events of `SecondFactor` and its factors. Their ``detail`` begins with the name of the factor."""

from typing import Final

from powauth.events import EventKind

ENROLLED: Final = EventKind("factor_enrolled", "a user has turned a factor on; ``detail`` is its name")
REMOVED: Final = EventKind("factor_removed", "a user has removed a factor; ``detail`` is its name", "warning")
USED: Final = EventKind(
    "factor_used", "a user has proven a factor; ``detail`` is its name, and ``sign_in`` or ``step_up``"
)
WRONG: Final = EventKind("factor_refused", "an answer to a factor was wrong; ``detail`` is its name", "warning")
RECOVERED: Final = EventKind(
    "recovery_code_used", "a user has used up a recovery code; ``detail`` is the number of codes left", "warning"
)
RESET: Final = EventKind(
    "factors_reset",
    "all factors of a user were removed, by the app, or because the owner of the address claimed the account or a new "
    "user got the key of a former one; "
    "``detail`` is their number, ``actor`` who did it",
    "warning",
)

EVENTS: Final = (ENROLLED, REMOVED, USED, WRONG, RECOVERED, RESET)
