"""The events of `ApiKeys`."""

from typing import Final

from powauth.events import EventKind

CREATED: Final = EventKind("api_key_created", "a user has made an API key; ``detail`` is the public id of the key")
ENDED: Final = EventKind(
    "api_key_ended", "API keys of a user have ended; ``detail`` is the public id of the key, or the reason and a number"
)
REFUSED: Final = EventKind("api_key_refused", "a request presented an API key that is not valid; ``detail`` says why")

EVENTS: Final = (CREATED, ENDED, REFUSED)
