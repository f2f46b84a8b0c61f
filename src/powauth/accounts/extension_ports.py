"""Operations of an authenticator that its extensions may call; see `powauth.accounts.hooks.Parts`.

``request`` is the request that a flow or a page has: a `powauth.http.connection.Connection`.
"""

from collections.abc import Mapping
from typing import Any, Protocol

from powauth.accounts.base import Account
from powauth.accounts.grant import Grant
from powauth.accounts.identity import I, Key
from powauth.backends.base import Millis


class SignIn(Protocol[I]):
    """Signs a user in, for an extension that has proven who they are; see ``Parts.sign_in``."""

    async def __call__(self, request: Any, account: Account[I], grant: Grant) -> I | None:
        """Begin a session of an account on a request, and return the identity.

        All hooks and extensions run first, as at every sign-in, and may refuse it. ``grant.amr`` has the methods that
        the user has proven. If the grant has a password attempt, powauth resets the failed sign-ins of the account.

        Returns:
            ``None`` if the account is gone or locked, or has another proof and the grant says ``same_proof``.

        Raises:
            Refused: if a hook or an extension refuses it. `MoreNeeded` is one of them.
            StoreUnavailable: if the session was not made.
        """
        ...


class EndSessions(Protocol):
    """Ends the sessions of a user; see ``Parts.end_sessions``."""

    async def __call__(self, key: Key, why: str, *, keep: Any = None) -> int:
        """End all sessions of a user, and sign-ins that are running. Return the number of ended sessions.

        First write the change that is the reason, then call this. A running sign-in then fails or sees the change.

        Args:
            key: the user's key.
            why: the reason, for the event.
            keep: a request. Its own session of this user stays valid.

        Raises:
            StoreUnavailable: if any may still be live.
        """
        ...


class OwnCookie(Protocol):
    """A cookie of an extension's own; see ``Parts.cookie``."""

    def read(self, request: Any) -> str | None:
        """Return the value that the request presents, unverified.

        ``None`` if it presents none, or several that differ.
        """
        ...

    def write(self, request: Any, value: str, max_age: int | None = None) -> None:
        """Give the client a value with the response to this request, for ``max_age`` seconds or until it closes."""
        ...

    def clear(self, request: Any) -> None:
        """Remove the cookie from the client with the response to this request."""
        ...


class MakeCookie(Protocol):
    """Makes a cookie for an extension; see ``Parts.cookie``."""

    def __call__(self, name: str) -> OwnCookie:
        """Return a cookie, with the rules of the session's cookie: ``__Host-``, Secure, HttpOnly, SameSite, domain.

        Args:
            name: the last part of its name. The first part is that of the session's cookie.

        Raises:
            ConfigError: if the name cannot be that of a cookie.
        """
        ...


class ProvenMethods(Protocol):
    """Tells an extension about the session of a request; see ``Parts.proven_methods``."""

    def __call__(self, request: Any, key: Key) -> Mapping[str, Millis] | None:
        """Return what a user has proven for the session of a request, with the times in milliseconds.

        ``None`` if the request has no session of this user.
        """
        ...
