"""`Engine`: asks for second factors wherever a session begins."""

import copy
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar, Final, Self, TypeVar

import msgspec

from powauth._options import instance, wrong
from powauth._running import shielded
from powauth._times import duration
from powauth.accounts.base import Account, key_of_user
from powauth.accounts.grant import Grant
from powauth.accounts.hooks import Parts, Step
from powauth.accounts.identity import I, Key, key_text, stored_key
from powauth.accounts.throttle import Limit, checked_limit
from powauth.errors import ConfigError, InvalidParams, MoreNeeded, Overloaded, Refused, StoreUnavailable
from powauth.events import EventKind
from powauth.extensions.letters import Letters
from powauth.extensions.mail import Mailer
from powauth.extensions.second_factor.challenges import TTL, Begun, Challenges, Open
from powauth.extensions.second_factor.events import EVENTS, USED, WRONG
from powauth.extensions.second_factor.factor import MFA, Enrolment, Factor, Purpose, session_of
from powauth.extensions.second_factor.notices import FOLDER, Notices
from powauth.extensions.second_factor.of_users import FACTORS, FactorsOfUsers, Required, Running, invalid
from powauth.extensions.second_factor.texts import TEXTS
from powauth.http.guards import FRESH, require_all_fresh
from powauth.request_auth import BlockingRequestAuth, RequestAuth

F = TypeVar("F", bound=Factor[Any])

FAILURES: Final = Limit(10, timedelta(minutes=15))
"""The wrong answers of a user that are allowed by default, over all factors, challenges and sources together."""

MAX_FAILURES: Final = 100
"""The most that can be allowed (NIST SP 800-63B-4, section 3.2.2)."""

MAX_TTL: Final = timedelta(minutes=30)
"""The longest life of a challenge."""

STEP_UPS: Final = Limit(100, timedelta(minutes=15))
"""The maximum number of step-up challenges of a user. Each one is a record in the store."""

SIGN_IN: Final[Purpose] = "sign_in"
ENROL: Final[Purpose] = "enrol"
STEP_UP: Final[Purpose] = "step_up"

SECOND_FACTOR: Final = "second_factor"
"""The name of the page that asks for a factor."""


class Engine(FactorsOfUsers[I]):
    """The extension without its pages; see `powauth.extensions.second_factor.SecondFactor`."""

    name: ClassVar[str] = "second_factor"
    events: ClassVar[tuple[EventKind, ...]] = EVENTS

    def __init__(
        self,
        *factors: Factor[I],
        required: bool | Required = False,
        mailer: Mailer | None = None,
        ttl: timedelta = TTL,
        failures: Limit = FAILURES,
        path: str = "/login/factor",
        manage_path: str = "/account/factors",
        address_field: str = "email",
        texts: Mapping[str, str] | None = None,
        templates: str | Path | None = None,
    ) -> None:
        for factor in factors:
            instance("each factor of SecondFactor", factor, Factor, "a Factor, such as Totp(engine, Authenticator)")
        names = [factor.name for factor in factors]
        if len(set(names)) != len(names):
            raise ConfigError("SecondFactor has two factors of one name: give each kind once")
        if not any(factor.primary for factor in factors):
            raise ConfigError("SecondFactor needs a factor that can stand alone, such as Totp: recovery codes cannot")
        if not isinstance(required, bool) and not callable(required):
            raise wrong("required", "True, False, or a function of an identity", required)
        instance("mailer", mailer, Mailer | None, "an object with a method send, such as SMTPMailer, or None")
        duration("the ttl of SecondFactor", ttl, at_least=1000, at_most=MAX_TTL)
        checked_limit("failures", failures, at_most=MAX_FAILURES)
        by_name = {factor.name: factor for factor in factors}
        super().__init__(by_name, required, {**_texts_of(factors), **TEXTS, **(texts or {})})
        if required is not False and not self._offering():
            raise ConfigError("required needs a factor that users can turn on while they sign in, such as Totp")
        self.ttl: Final = ttl
        self.path: Final = path
        self.manage_path: Final = manage_path
        self._mailer: Final = mailer
        self._failures: Final = failures
        self._address_field: Final = address_field
        self._letters: Final = None if mailer is None else Letters(FOLDER, templates)
        self.pages()  # checks the paths

    def bind(self, parts: Parts[I]) -> Self:
        """See `Extension.bind`."""
        bound = copy.copy(self)
        bound.parts = parts
        bound.challenges = Challenges(parts, self.name, self.ttl)
        if self._mailer is not None and self._letters is not None:
            self._check_address(parts)
            bound._notices = Notices(self._mailer, self._letters, parts, self.texts, self._address_field)
        bound.factors = {name: factor.bind(parts, bound) for name, factor in self.factors.items()}
        return bound

    def factor(self, kind: type[F]) -> F:
        """Return the factor of a class.

        Raises:
            ConfigError: if there is none.
        """
        for factor in self.factors.values():
            if isinstance(factor, kind):
                return factor
        raise ConfigError(f"there is no {kind.__name__} among the factors")

    # --- signing in ---------------------------------------------------------------------------------------------------

    async def before(self, step: Step[I]) -> None:
        """See `Extension.before`. Ask for a factor, unless the session has proven one."""
        if step.flow != "sign_in" or step.account is None or step.grant is None:
            return
        await self._check_running(step.request, step.account.key)
        if MFA in (step.grant.amr or {}):
            return
        factors, purpose = await self.offered(step.account.key), SIGN_IN
        if not factors:
            if not self.is_required(step.account.identity):
                return
            factors, purpose = self._offering(), ENROL
        begun = await self.challenges.begin(step.request, step.account, step.grant, purpose)
        raise MoreNeeded(factors, challenge=begun.token, page=SECOND_FACTOR)

    async def step_up(self, bound: RequestAuth[Any, I]) -> Begun[I]:
        """Ask the signed-in user to prove a factor again.

        `answer` then makes the session fresh. `powauth.http.guards.require_fresh` asks for it.

        Raises:
            NotSignedIn: if nobody is signed in by a session, or the user is gone.
            Refused: ``no_second_factor``, if the user has none.
            Throttled: if this was done too often.
            StoreUnavailable: if a store cannot be reached.
        """
        account, session = await self._current(bound)
        if not await self.is_on(account.key):
            raise Refused("the account has no second factor", code="no_second_factor", page=FACTORS)
        await self.parts.limits.admit(f"{self.name}.step_up", key_text(stored_key(account.key)), STEP_UPS)
        bearer = None if bound.auth.is_ambient(bound.connection) else True
        grant = Grant(bearer=bearer, amr=self.parts.proven_methods(bound.connection, account.key) or {})
        return await self.challenges.begin(bound.connection, account, grant, STEP_UP, session)

    async def open(self, bound: RequestAuth[Any, I], params: Mapping[str, object]) -> Open[I] | None:
        """Return the challenge that a request presents; ``None`` if it presents no valid one."""
        return await self.challenges.find(bound.connection, params.get("challenge"), session_of(bound))

    async def answer(
        self, bound: RequestAuth[Any, I] | BlockingRequestAuth[Any, I], params: Mapping[str, object]
    ) -> I | None:
        """Check a client's answer, and complete the sign-in. Return ``None`` if the answer is wrong.

        An app with a page of its own calls it with the fields of its form: ``factor``, which may be missing if there is
        only one, ``challenge`` for a program with a bearer token, and the fields of the factor, such as ``code``.

        Raises:
            Refused: ``challenge_invalid``, if there is no valid challenge: the user must sign in again. Or a hook
                refuses the sign-in.
            InvalidParams: if a field is missing or malformed.
            Throttled: if there were too many wrong answers. This one was not checked.
            StoreUnavailable: if a store cannot be reached.
        """
        auth = bound.bound if isinstance(bound, BlockingRequestAuth) else bound
        await auth.recheck()  # the session of a step-up may have ended while the client was sending the body
        found = await self.open(auth, params)
        names = [] if found is None else await self.names(found)
        if found is None or not names:
            raise invalid()
        factor = self.factors[_name_in(params, names)]
        if found.challenge.purpose == ENROL:
            return await shielded(self._turned_on(factor, found, params, auth.connection))
        # The removal of any primary factor ends the user's other sessions, so it ends this sign-in, too.
        session = auth.auth if found.challenge.purpose == STEP_UP else None
        running = Running(session, await self._primary(found.account.key))
        methods = await self._verified(factor, found, params, auth.connection)
        if methods is None:
            return None
        identity = await self._signed_in(auth.connection, found.account, _granted(found, methods), running)
        if identity is None:
            raise invalid()
        return identity

    async def sign_in(
        self, request: Any, account: Account[I], methods: Collection[str], grant: Grant | None = None
    ) -> I | None:
        """See `FactorEngine.sign_in`."""
        how = msgspec.structs.replace(grant or Grant(), amr=dict.fromkeys(methods), same_proof=True)
        return await self.parts.sign_in(request, account, how)

    async def names(self, found: Open[I]) -> list[str]:
        """Return the names of the factors with which a user can answer a challenge; empty if it is void by now."""
        on = await self.offered(found.account.key)
        if found.challenge.purpose != ENROL:
            return on
        return [] if on else self._offering()

    async def _turned_on(
        self, factor: Factor[I], found: Open[I], params: Mapping[str, object], request: Any
    ) -> I | None:
        """Turn the first factor on of a user who must have one, and complete the sign-in."""
        key = found.account.key
        enrolment = await factor.turn_on(found.account, found.challenge, params)
        if enrolment is None or not await self._write_first(found, enrolment, request):
            self.parts.emit(WRONG, key, f"{factor.name}: enrol", request=request)
            return None
        granted = _granted(found, enrolment.methods)
        identity = await self._enrolled_in(request, found.account, granted, enrolment, Running())
        if identity is None:
            raise invalid()
        await self._enrolled(request, found.account, factor, enrolment, None, first=True)
        return identity

    async def _write_first(self, found: Open[I], enrolment: Enrolment, request: Any) -> bool:
        """Use up the challenge, and write the user's first factor. Return whether it was written."""
        if not await self.challenges.take(request, found):
            return False
        if await self.is_on(found.account.key):
            return False  # another request has turned a factor on, and has proven more than the password
        return await enrolment.write()

    async def _verified(
        self, factor: Factor[I], found: Open[I], params: Mapping[str, object], request: Any
    ) -> Collection[str] | None:
        """Count the attempt, check the answer, and end the challenge."""
        key = found.account.key
        admission = await self.parts.limits.admit(f"{self.name}.user", key_text(stored_key(key)), self._failures)
        try:
            methods = await factor.verify(found.account, found.challenge, params, request)
        except (InvalidParams, StoreUnavailable, Overloaded):
            await admission.undo()
            raise
        if methods is None:
            self.parts.emit(WRONG, key, factor.name, request=request)
            return None
        await admission.undo()  # only this attempt: the owner's success must not give a guesser new attempts
        if not await self.challenges.take(request, found):
            self.parts.emit(WRONG, key, f"{factor.name}: answered twice", request=request)
            return None
        self.parts.emit(USED, key, f"{factor.name}: {found.challenge.purpose}", request=request)
        return methods

    async def check_fresh(self, bound: RequestAuth[Any, I], within: timedelta = FRESH) -> Account[I]:
        """See `FactorEngine.check_fresh`."""
        account, _ = await self._current(bound)
        await require_all_fresh(bound, within)
        return account

    async def fresh_methods(self, key: Key) -> Collection[str]:
        """See `Extension.fresh_methods`. A user who has a factor must have proven it, or another one."""
        return [MFA] if await self.is_on(key) else ()

    # --- after the sign-in --------------------------------------------------------------------------------------------

    async def forget_failures(self, user: object) -> bool:
        """Reset the wrong answers of a user, so that the next right one works at once. Return whether there were any.

        This is for the app's own code, after support has spoken with the owner. ``user`` is an identity, a row, an
        account, or a key.

        Raises:
            ConfigError: if ``user`` is no user.
            StoreUnavailable: if the store cannot be reached.
        """
        return await self.parts.limits.forget(
            f"{self.name}.user", key_text(stored_key(key_of_user(self.parts.users, user)))
        )

    async def reseal(self, told: Callable[[int], None] | None = None) -> int | None:
        """See `Extension.reseal`. Reseal the secrets of all factors."""
        counts = [await factor.reseal(told) for factor in self.factors.values()]
        sealed = [count for count in counts if count is not None]
        return sum(sealed) if sealed else None

    async def aclose(self) -> None:
        """See `Extension.aclose`."""
        if self._notices is not None:
            await self._notices.outbox.aclose()
        for factor in self.factors.values():
            await factor.aclose()

    # --- inside -------------------------------------------------------------------------------------------------------

    def _offering(self) -> list[str]:
        """Return the names of the factors that a user can turn on during a sign-in."""
        return [name for name, factor in self.factors.items() if factor.primary and factor.offer_template is not None]

    def _check_address(self, parts: Parts[I]) -> None:
        identity: Any = parts.users.identity
        if self._address_field not in {each.name for each in msgspec.structs.fields(identity)}:
            raise ConfigError(
                f"SecondFactor mails notices to the field {self._address_field!r} of the identity, and "
                f"{identity.__name__} has none: add the field, give address_field, or give no mailer"
            )


def _texts_of(factors: Sequence[Factor[Any]]) -> dict[str, str]:
    return {name: text for factor in factors for name, text in factor.texts.items()}


def _name_in(params: Mapping[str, object], offered: Sequence[str]) -> str:
    """Return the factor that a client has chosen.

    Raises:
        InvalidParams: if it is not one of the user's.
    """
    name = params.get("factor", offered[0] if len(offered) == 1 else None)
    if not isinstance(name, str) or name not in offered:
        raise InvalidParams({"factor": ["can't be blank" if name is None else "is invalid"]})
    return name


def _granted(found: Open[Any], methods: Collection[str]) -> Grant:
    """Return the options of the session that a challenge and an answer lead to."""
    return msgspec.structs.replace(found.grant, amr={**found.amr, **dict.fromkeys(methods), MFA: None})
