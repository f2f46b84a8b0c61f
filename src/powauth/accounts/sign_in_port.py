"""`SignInPort`: what `powauth.accounts.service.AccountService` needs of an authenticator."""

from typing import Any, Protocol

from powauth.accounts.base import Account
from powauth.accounts.grant import Grant
from powauth.accounts.identity import I, Key
from powauth.events import EventName


class SignInPort(Protocol[I]):
    """The part of an authenticator that knows requests. ``request`` is of the authenticator's own kind."""

    async def do_create(self, request: Any, account: Account[I], grant: Grant = ...) -> I | None:
        """Sign an account in; ``None`` if it is gone, locked, or no longer has the proof that was checked."""
        ...

    async def do_delete(self, request: Any) -> None:
        """Sign out."""
        ...

    def current_identity(self, request: Any) -> I | None:
        """Return the identity of the current user; ``None`` if nobody is signed in."""
        ...

    def current_key(self, request: Any) -> Key | None:
        """Return the key of the current user; ``None`` if nobody is signed in."""
        ...

    def is_current(self, request: Any, account: Account[I]) -> bool:
        """Return whether an account that was just read still has the proof with which the current user signed in."""
        ...

    def check_session(self, request: Any) -> None:
        """Refuse a request that presents credentials of another kind than a session.

        Raises:
            Refused: if it does.
        """
        ...

    async def recheck(self, request: Any) -> bool:
        """Return whether the current user is still signed in, by another read of the session."""
        ...

    def signed_in_recently(self, request: Any) -> bool:
        """Return whether the current user has just signed in, so that the sign-in proves who sets a first password."""
        ...

    def assign(self, request: Any, identity: I | None) -> None:
        """Make an identity the current user for the request's handlers."""
        ...

    def emit(self, name: EventName, request: Any, *, key: Key | None = None, detail: str | None = None) -> None:
        """Emit an event."""
        ...
