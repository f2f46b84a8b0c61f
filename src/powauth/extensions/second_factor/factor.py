"""`Factor`: the interface of one kind of second factor, such as codes of an app or passkeys.

`powauth.extensions.second_factor.SecondFactor` composes factors. It asks for them, counts wrong ones, and begins
sessions. A factor only knows what a user has enrolled, and whether an answer is right.
"""

from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar, Generic, Literal, Protocol, Self

import msgspec

from powauth.accounts.base import Account
from powauth.accounts.grant import Grant
from powauth.accounts.hooks import Extension, Parts
from powauth.accounts.identity import I, Key
from powauth.extensions.letters import Words
from powauth.http.guards import FRESH
from powauth.pages.page import Page
from powauth.pages.visit import PageVisit
from powauth.request_auth import RequestAuth

MFA = "mfa"
"""The method of a session for which two factors were proven (RFC 8176, section 2)."""

Purpose = Literal["sign_in", "step_up", "enrol"]
"""The reason for a challenge.

- ``sign_in``: the user has proven the password, and must prove a factor.
- ``step_up``: a signed-in user must prove a factor again.
- ``enrol``: the user has proven the password, and must set up a first factor.
"""


class EnrolledFactor(msgspec.Struct, frozen=True, kw_only=True):
    """A factor of a user, as its user and administrators may see it. It holds no secret.

    Attributes:
        factor: the name of the `Factor`.
        id: a name of this one, unique among the user's factors of the kind, and never used again.
        label: the name that the user gave it, or a default.
        created_at: when it was enrolled, in UTC.
        last_used_at: when it was last accepted, in UTC; ``None`` if it has not been used.
        left: how often it can still be used; ``None`` if there is no limit.
    """

    factor: str
    id: str
    label: str
    created_at: datetime
    last_used_at: datetime | None = None
    left: int | None = None


class Challenge(msgspec.Struct, frozen=True, kw_only=True):
    """One question for a factor. It is good for one success, within a short time.

    Attributes:
        name: a public name, never used twice.
        nonce: 32 random bytes, for factors that sign something.
        purpose: why the factor is asked.
        started_at: when it began, in milliseconds.
    """

    name: str
    nonce: bytes
    purpose: Purpose
    started_at: int

    __repr__ = object.__repr__  # error reporters record what local variables look like


def session_of(bound: RequestAuth[Any, Any]) -> bytes:
    """Return a name of the session by which a user is signed in, to bind something to it; empty if there is none."""
    session = bound.session if bound.current_user is not None else None
    return b"" if session is None else session.sid.encode()


def fresh_in(visit: PageVisit) -> timedelta:
    """Return the maximum age of a sign-in for a change of factors on the pages."""
    return visit.settings.fresh or FRESH


class Enrolment(msgspec.Struct, frozen=True):
    """A factor that a user has proven, and that is about to be turned on.

    Attributes:
        label: its name, for the notice.
        methods: what the user has proven by it.
        write: stores it, and returns false if another request was faster.
        undo: takes `write` back, and restores what it replaced. It is called if the account has changed meanwhile, or
            the session of the request has ended.
    """

    label: str
    methods: Collection[str]
    write: Callable[[], Awaitable[bool]]
    undo: Callable[[], Awaitable[object]] | None = None

    __repr__ = object.__repr__


class FactorEngine(Protocol[I]):
    """The part of `SecondFactor` that a factor may use."""

    @property
    def parts(self) -> Parts[I]:
        """The parts of the authenticator."""
        ...

    async def is_on(self, key: Key) -> bool:
        """Return whether a user has a second factor.

        Raises:
            StoreUnavailable: if that is not known.
        """
        ...

    async def check_fresh(self, bound: RequestAuth[Any, I], within: timedelta = FRESH) -> Account[I]:
        """Check that the sign-in of the user is fresh, and includes a factor if one is on. Return the account.

        Call it before you show a secret or change a factor.

        Raises:
            NotSignedIn: if nobody is signed in by a session, or the user is gone.
            NotFresh: if the sign-in is too old.
            StoreUnavailable: if a store cannot be reached.
        """
        ...

    async def enrol(
        self,
        bound: RequestAuth[Any, I],
        factor: "Factor[I]",
        enrolment: Enrolment,
        words: Words | None = None,
    ) -> bool:
        """Turn a factor on for the signed-in user, who has just proven it. Return whether it was written.

        The user's first factor ends all other sessions. The current session gets a new id and the proven methods. The
        user gets a notice by mail. Call `check_fresh` first.

        Args:
            bound: the request of the user.
            factor: the factor.
            enrolment: what the user has proven.
            words: the texts for the notice.

        Raises:
            NotSignedIn: if the user is gone.
            StoreUnavailable: if a store cannot be reached. The factor may be on.
        """
        ...

    async def sign_in(
        self, request: Any, account: Account[I], methods: Collection[str], grant: Grant | None = None
    ) -> I | None:
        """Sign in a user by a factor alone, such as a passkey that has verified its user.

        If ``methods`` have `MFA`, they count as two factors. Otherwise `MoreNeeded` asks for another one.

        Returns:
            ``None`` if the account is gone or locked, or has another proof.

        Raises:
            MoreNeeded: if another factor is needed.
            Refused: if a hook or an extension refuses it.
            StoreUnavailable: if the session was not made.
        """
        ...

    async def notify(self, account: Account[I], what: str, words: Words | None, **values: str | int) -> None:
        """Mail a notice later, if there is a mailer, and the user has not got too many of this kind.

        ``what`` is the first part of the names of its texts: ``<what>_subject`` and ``<what>_intro``.
        """
        ...


class Factor(ABC, Generic[I]):
    """One kind of factor. `SecondFactor` calls it. Await only stores, the users context and the like.

    All methods that read a store raise `StoreUnavailable` if it cannot be reached. They never return "not enrolled"
    instead, because a user with a factor could then sign in without it.

    Attributes:
        name: the name in ``factors`` of responses, and in the client's field ``factor``.
        primary: whether it can stand alone as a second factor. Recovery codes cannot: they only replace a lost one. A
            user whose factors are not primary is not asked for any.
        proves: the methods that a success can add to a session's ``amr`` (RFC 8176), such as ``{"otp"}``.
            `SecondFactor` adds ``"mfa"`` itself.
        template: the name of a template, without ``.html``. It is the content of the factor's form on the page that
            asks for factors. It has the variables of the page, and ``options``, the result of `challenge`.
        folder: the folder of the template.
        texts: the texts of its template and of its pages, by name. It needs ``factor_<name>``, the name of the factor
            for users, and ``factor_<name>_action``, the text of the button of its form.
        csp: additions to the Content-Security-Policy of the page that asks for factors.
        offer_template: the template of the form with which a user turns it on during a sign-in, because the app
            requires a second factor; ``None`` if that is not possible. ``options`` is then the result of `offer`.
        extension: the class of the extension to which it belongs. The authenticator must have that extension, too.
            ``None`` if it belongs to none.
    """

    name: ClassVar[str]
    primary: ClassVar[bool] = True
    proves: ClassVar[frozenset[str]]
    template: ClassVar[str] = "factor_code"
    folder: ClassVar[Path | None] = None
    texts: ClassVar[Mapping[str, str]] = {}
    csp: ClassVar[Mapping[str, Sequence[str]]] = {}
    offer_template: ClassVar[str | None] = None
    extension: type[Extension[Any]] | None = None

    @abstractmethod
    def bind(self, parts: Parts[I], engine: "FactorEngine[I]") -> Self:
        """Return this factor bound to an authenticator. The bound factor must not change.

        ``engine`` is bound, but its other factors may not be yet. Use it when a request comes.

        Raises:
            ConfigError: if the users or the store lack what it needs.
        """

    @abstractmethod
    async def is_on(self, key: Key) -> bool:
        """Return whether a user has enrolled it, completely."""

    async def challenge(self, account: Account[I], challenge: Challenge) -> Mapping[str, object]:
        """Return what a client needs to answer, as JSON: such as the options of WebAuthn. Codes need nothing."""
        del account, challenge
        return {}

    @abstractmethod
    async def verify(
        self, account: Account[I], challenge: Challenge, params: Mapping[str, object], request: Any
    ) -> Collection[str] | None:
        """Return the methods that a client's answer proves; ``None`` if it is wrong.

        ``params`` come from a client and may hold anything. Raise no other error for any input. If an answer is valid
        for one use, at most one of several parallel calls may succeed. `SecondFactor` counts the attempt before this
        call, and ends the challenge after a success.

        Raises:
            InvalidParams: if a field is missing or malformed, so that nothing was guessed. This is not counted.
            StoreUnavailable: if the answer could not be checked. This is not counted either.
        """

    async def offer(self, account: Account[I], challenge: Challenge) -> Mapping[str, object]:
        """Return what a client needs to turn the factor on during a sign-in, as JSON. It is called again on each view.

        What it begins must be bound to the challenge.
        """
        del account, challenge
        return {}

    async def turn_on(
        self, account: Account[I], challenge: Challenge, params: Mapping[str, object]
    ) -> Enrolment | None:
        """Return the enrolment that a client's answer proves, after `offer`; ``None`` if it is wrong.

        Raises:
            InvalidParams: if a field is missing or malformed.
        """
        del account, challenge, params
        return None

    @abstractmethod
    async def enrolled(self, key: Key) -> Sequence[EnrolledFactor]:
        """Return what a user has enrolled, in the order in which it was made."""

    @abstractmethod
    async def remove(self, key: Key, id: str) -> bool:  # noqa: A002 - the name of the field
        """Remove one of a user's, and return whether there was one. ``id`` comes from outside."""

    @abstractmethod
    async def reset(self, key: Key) -> int:
        """Remove all of a user's, and what waits to be enrolled. Return how many there were."""

    async def is_last_way_in(self, account: Account[I], id: str) -> bool:  # noqa: A002 - the name of the field
        """Return whether the user could not sign in at all without this one, such as a passkey without a password."""
        del account, id
        return False

    async def credentials_changed(self, key: Key, why: str) -> None:
        """End what waits for this user, such as an enrolment that is not complete. What is enrolled stays.

        powauth calls it when the credentials change, the account is locked, or all sessions of the user are revoked.
        If the user is deleted, `SecondFactor` calls `reset` instead.
        """
        del key, why

    def pages(self) -> Sequence[Page]:
        """Return pages of its own, such as the one to enrol.

        The list of factors links to a page that is named ``factor_<name>``, with the text ``factor_<name>_add``.
        """
        return ()

    async def reseal(self, told: Callable[[int], None] | None = None) -> int | None:
        """Seal again what an older secret has sealed; see `powauth.Extension.reseal`."""
        del told
        return None

    async def aclose(self) -> None:
        """Finish what runs in the background."""
