"""The least that a session middleware can do, written by hand: what everything else is measured against.

It finds the cookie, checks its code, looks the session up in a dict, checks the expiry, and assigns the user. It knows
no renewal, no revocation, no second process and no second kind of cookie.
"""

import hashlib
import hmac
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

Scope = MutableMapping[str, Any]
App = Callable[[Scope, Any, Any], Awaitable[None]]

ID_BYTES = 18
MAC_BYTES = 16


class Floor:
    """A middleware over a dict of (user, expiry), asked with ``name=<id><code>``, both in hexadecimal.

    Args:
        app: the app behind it.
        name: the cookie's name.
        key: the secret of the code.
        clock: the time in seconds.
    """

    def __init__(self, app: App, name: str, key: bytes, clock: Callable[[], float]) -> None:
        self.app = app
        self.sessions: dict[bytes, tuple[object, float]] = {}
        self._wanted = name.encode() + b"="
        self._state = hashlib.blake2b(key=key, digest_size=MAC_BYTES)
        self._clock = clock

    def sign_in(self, identifier: bytes, user: object, seconds: float) -> bytes:
        """A session; the value of its cookie."""
        assert len(identifier) == ID_BYTES
        self.sessions[identifier] = (user, self._clock() + seconds)
        return (identifier + self._code(identifier)).hex().encode()

    def _code(self, identifier: bytes) -> bytes:
        state = self._state.copy()
        state.update(identifier)
        return state.digest()

    def _user(self, headers: list[tuple[bytes, bytes]]) -> object:
        for name, value in headers:
            if name == b"cookie":
                for cookie in value.split(b"; "):
                    if cookie.startswith(self._wanted):
                        raw = bytes.fromhex(cookie[len(self._wanted) :].decode("latin-1"))
                        identifier = raw[:ID_BYTES]
                        if not hmac.compare_digest(self._code(identifier), raw[ID_BYTES:]):
                            return None
                        found = self.sessions.get(identifier)
                        return found[0] if found is not None and found[1] > self._clock() else None
        return None

    async def __call__(self, scope: Scope, receive: Any, send: Any) -> None:
        scope.setdefault("state", {})["current_user"] = self._user(scope["headers"])
        await self.app(scope, receive, send)
