"""`FactorsOfUsers`: the second factors that users have, and the changes of them."""

from collections.abc import Callable, Mapping, Sequence
from collections.abc import Set as AbstractSet
from typing import Any, Final, NamedTuple

from powauth._running import shielded, uncancellable
from powauth.accounts.base import Account, key_of_user
from powauth.accounts.changes import CLAIMED, CREATED
from powauth.accounts.grant import Grant
from powauth.accounts.hooks import Extension, Parts
from powauth.accounts.identity import I, Key
from powauth.errors import NotSignedIn, Refused
from powauth.extensions.letters import Words
from powauth.extensions.second_factor.challenges import Challenges
from powauth.extensions.second_factor.events import ENROLLED, REMOVED, RESET
from powauth.extensions.second_factor.factor import MFA, EnrolledFactor, Enrolment, Factor, session_of
from powauth.extensions.second_factor.notices import Notices
from powauth.plug import Authenticator
from powauth.request_auth import RequestAuth

FACTORS: Final = "factors"
"""The name of the page with the user's factors."""

CHALLENGE_INVALID: Final = "challenge_invalid"

Required = Callable[[Any], bool]


class Running(NamedTuple):
    """The conditions of a sign-in that is running. Each must hold after powauth has read the epoch of the sessions.

    Attributes:
        auth: the authenticator, if the session of the request must be alive. ``None`` if it needs no session.
        factors: the names and ids of primary factors that the user must have.
    """

    auth: Authenticator[Any, Any] | None = None
    factors: AbstractSet[tuple[str, str]] = frozenset()


class FactorsOfUsers(Extension[I]):
    """The factors of users. `Engine`, a subclass, asks for them when a session begins.

    Args:
        factors: the kinds of factors, by name.
        required: whether every user must have one, or a function of the identity.
        texts: the texts of the pages and of the mail.

    Attributes:
        parts: the parts of the authenticator, after `bind`.
        challenges: the challenges, after `bind`.
    """

    parts: Parts[I]
    challenges: Challenges[I]
    _notices: Notices | None = None

    def __init__(self, factors: Mapping[str, Factor[I]], required: bool | Required, texts: Mapping[str, str]) -> None:
        self.factors = factors
        self.required: Final = required
        self.texts: Final = texts

    def companions(self) -> Sequence[type[Extension[Any]]]:
        """See `Extension.companions`."""
        return [factor.extension for factor in self.factors.values() if factor.extension is not None]

    # --- what a user has ----------------------------------------------------------------------------------------------

    async def offered(self, key: Key) -> list[str]:
        """Return the names of the factors with which a user can answer: primary ones first. Empty if none is on.

        Raises:
            StoreUnavailable: if that is not known.
        """
        names = [name for name, factor in self.factors.items() if factor.primary and await factor.is_on(key)]
        if not names:
            return []
        return names + [name for name, factor in self.factors.items() if not factor.primary and await factor.is_on(key)]

    async def is_on(self, key: Key) -> bool:
        """Return whether a user has a second factor.

        Raises:
            StoreUnavailable: if that is not known.
        """
        return bool(await self.offered(key))

    async def enrolled(self, user: object) -> list[EnrolledFactor]:
        """Return the factors of a user. ``user`` is an identity, a row, an account, or a key.

        Raises:
            ConfigError: if ``user`` is no user.
            StoreUnavailable: if they cannot be read.
        """
        key = key_of_user(self.parts.users, user)
        return [each for factor in self.factors.values() for each in await factor.enrolled(key)]

    def is_required(self, identity: I) -> bool:
        """Return whether a user must have a second factor."""
        return self.required if isinstance(self.required, bool) else self.required(identity) is True

    # --- changes of a user's factors ----------------------------------------------------------------------------------

    async def enrol(
        self, bound: RequestAuth[Any, I], factor: Factor[I], enrolment: Enrolment, words: Words | None = None
    ) -> bool:
        """See `FactorEngine.enrol`."""
        return await shielded(self._enrol(bound, factor, enrolment, words))

    async def _enrol(
        self, bound: RequestAuth[Any, I], factor: Factor[I], enrolment: Enrolment, words: Words | None
    ) -> bool:
        account, _ = await self._current(bound)
        request = bound.connection
        proven = self.parts.proven_methods(request, account.key) or {}
        first = factor.primary and not await self.is_on(account.key)
        if not await enrolment.write():
            return False
        grant = Grant(amr={**proven, **dict.fromkeys(enrolment.methods), MFA: None}, same_proof=True)
        if await self._enrolled_in(request, account, grant, enrolment, Running(bound.auth)) is None:
            await bound.auth.do_delete(request)
            raise NotSignedIn("the session has ended, or the account was changed: sign in again")
        await self._enrolled(request, account, factor, enrolment, words, first=first)
        return True

    async def _enrolled_in(
        self, request: Any, account: Account[I], grant: Grant, enrolment: Enrolment, running: Running
    ) -> I | None:
        """Sign in after an enrolment was written. If that fails, take the enrolment back."""
        identity = None
        try:
            identity = await self._signed_in(request, account, grant, running)
        finally:
            if identity is None and enrolment.undo is not None:
                await enrolment.undo()
        return identity

    async def _signed_in(self, request: Any, account: Account[I], grant: Grant, running: Running) -> I | None:
        """Sign in. `_check_running` checks the conditions meanwhile."""
        request.states[self] = running
        try:
            return await self.parts.sign_in(request, account, grant)
        finally:
            del request.states[self]

    async def _check_running(self, request: Any, key: Key) -> None:
        """Check the conditions of the sign-in that a request is making, if it has any.

        powauth has already read the epoch of the user's sessions. A removal deletes the factor and then advances the
        epoch. So either the factor is missing here, or the session does not begin.

        Raises:
            NotSignedIn: if the session of the request has ended.
            Refused: ``challenge_invalid``, if a factor was removed.
        """
        running: Running | None = request.states.get(self)
        if running is None:
            return
        if running.auth is not None and not await running.auth.recheck(request):
            raise NotSignedIn("the session has ended: sign in again")
        if running.factors and not running.factors <= await self._primary(key):
            raise invalid()

    async def _enrolled(
        self,
        request: Any,
        account: Account[I],
        factor: Factor[I],
        enrolment: Enrolment,
        words: Words | None,
        *,
        first: bool,
    ) -> None:
        """Emit the event of a new factor and mail a notice. The first factor ends all sessions but the current one."""
        await self.challenges.end(account.key)
        if first:  # a running sign-in that has not asked for it starts over
            await self.parts.end_sessions(account.key, "second factor on", keep=request)
        self.parts.emit(ENROLLED, account.key, factor.name, request=request)
        await self.notify(account, "factor_added", words, label=enrolment.label)

    @uncancellable
    async def remove(
        self,
        bound: RequestAuth[Any, I],
        name: str,
        id: str,  # noqa: A002 - the name of the field
        words: Words | None = None,
    ) -> bool:
        """Remove a factor of the signed-in user, who must be fresh. Return whether there was one.

        The user's other sessions end, unless it was the recovery codes.

        Raises:
            NotSignedIn: if nobody is signed in, or the user is gone.
            Refused: ``last_way_in`` or ``factor_required``, if the user needs it.
            StoreUnavailable: if a store cannot be reached. The factor may be gone.
        """
        account, _ = await self._current(bound)
        factor = self.factors.get(name)
        mine = [] if factor is None else await factor.enrolled(account.key)
        found = next((each for each in mine if each.id == id), None)
        if factor is None or found is None:
            return False
        if await factor.is_last_way_in(account, id):
            raise Refused(self.texts["factors_last_way_in"], code="last_way_in")
        if factor.primary and self.is_required(account.identity) and len(await self._primary(account.key)) == 1:
            raise Refused(self.texts["factors_required"], code="factor_required")
        if not await factor.remove(account.key, id):
            return False
        if not await self._primary(account.key):  # otherwise old codes would work with the next factor
            for each in self.factors.values():
                await each.reset(account.key)
        self.parts.emit(REMOVED, account.key, name, request=bound.connection)
        await self.challenges.end(account.key)
        if factor.primary:  # somebody with the lost device may have a session, or may be signing in now
            await self.parts.end_sessions(account.key, "second factor removed", keep=bound.connection)
        await self.notify(account, "factor_removed", words, label=found.label)
        return True

    @uncancellable
    async def reset(self, user: object, *, by: object = None, request: Any = None) -> int:
        """Remove all factors of a user, for support after the user has lost them. Return how many there were.

        This ends all sessions of the user, and mails a notice. The app decides who may call it.

        Args:
            user: an identity, a row, an account, or a key.
            by: the user who does it, for the event.
            request: the request in which this happens, for the event.

        Raises:
            ConfigError: if ``user`` is no user.
            StoreUnavailable: if some factor or session may be left. Then try again.
        """
        key = key_of_user(self.parts.users, user)
        account = await self.parts.users.get(key)
        count = sum([await factor.reset(key) for factor in self.factors.values()])
        await self.challenges.end(key)
        await self.parts.end_sessions(key, "second factors reset")
        # Repeat it: a session that has just ended may have turned on a factor after the first call.
        count += sum([await factor.reset(key) for factor in self.factors.values()])
        self.parts.emit(
            RESET, key, str(count), request=request, actor=None if by is None else key_of_user(self.parts.users, by)
        )
        if isinstance(account, Account):
            await self.notify(account, "factors_reset", None)
        return count

    async def credentials_changed(self, key: Key, why: str) -> None:
        """See `Extension.credentials_changed`. A deletion of the user removes the factors.

        They also end if the owner of the address claims an account that somebody else may have made, and if the key has
        become that of a new user.
        """
        await self.challenges.end(key)
        if why in (CLAIMED, CREATED) or await self.parts.users.get(key) is None:
            # After CREATED, an extension ends its own, without a notice: the new user is not the one who had them.
            ours = [each for each in self.factors.values() if why != CREATED or each.extension is None]
            count = sum([await factor.reset(key) for factor in ours])
            if count:
                self.parts.emit(RESET, key, f"{count}: {why}")
            return
        for factor in self.factors.values():
            await factor.credentials_changed(key, why)

    async def notify(self, account: Account[I], what: str, words: Words | None, **values: str | int) -> None:
        """See `FactorEngine.notify`."""
        if self._notices is not None:
            await self._notices.send(account, what, words, **values)

    # --- inside -------------------------------------------------------------------------------------------------------

    async def _primary(self, key: Key) -> AbstractSet[tuple[str, str]]:
        """Return the names and ids of a user's primary factors."""
        kinds = [factor for factor in self.factors.values() if factor.primary]
        return {(factor.name, each.id) for factor in kinds for each in await factor.enrolled(key)}

    async def _current(self, bound: RequestAuth[Any, I]) -> tuple[Account[I], bytes]:
        """Return the account of the signed-in user, and a name of the session.

        It reads the session again: the session may have ended while a client was sending the body of the request.

        Raises:
            NotSignedIn: if nobody is signed in by a session, or the user is gone or has another proof.
        """
        bound.require_user()
        if not await bound.recheck():
            raise NotSignedIn("the session has ended: sign in again")
        key, session = bound.auth.current_key(bound.connection), session_of(bound)
        account = None if key is None else await self.parts.users.get(key)
        if not session or not isinstance(account, Account) or not bound.auth.is_current(bound.connection, account):
            raise NotSignedIn("sign in first")
        return account, session


def invalid() -> Refused:
    """Return the error for a challenge that does not lead to a session any more."""
    return Refused(
        "the challenge is no longer valid; sign in again",
        code=CHALLENGE_INVALID,
        page="login",
        done=CHALLENGE_INVALID,
    )
