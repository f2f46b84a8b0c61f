"""Hooks and extensions, which run before and after each flow.

>>> def only_confirmed_users(step: Step[Any]) -> None:
...     if not step.identity.confirmed:
...         raise Refused("confirm your e-mail address first")
>>> hooks = Hooks(before_sign_in=only_confirmed_users)

A hook before a flow may refuse it by raising `Refused`. The response is then a 403 with its message. Any other error
ends the flow, too. ``before_sign_in`` asks for a second factor by raising `MoreNeeded`. The response is then a 401 with
the factors. A hook after a flow cannot undo the flow: powauth only logs its error.

Hooks are plain functions or coroutine functions. A plain function runs where the request runs, so it must not block an
event loop. A coroutine function needs an event loop.
"""

from collections.abc import Awaitable, Callable, Collection, Coroutine, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, ClassVar, Generic, Literal, Protocol, Self

from powauth._options import wrong
from powauth.accounts.attempts import AttemptLimits
from powauth.accounts.base import Account, Params, UsersContext
from powauth.accounts.extension_ports import EndSessions, MakeCookie, ProvenMethods, SignIn
from powauth.accounts.grant import Grant
from powauth.accounts.identity import I, Key
from powauth.backends.base import Backend, Millis
from powauth.errors import MoreNeeded, Refused
from powauth.events import Event, EventKind, EventName
from powauth.sessions.keyring import Keyring

__all__ = [
    "ChangeAccount",
    "Diversion",
    "Extension",
    "Flow",
    "Hook",
    "Hooks",
    "MoreNeeded",
    "Parts",
    "Refused",
    "Step",
]

Flow = Literal["authentication", "sign_in", "sign_out", "registration", "update", "deletion"]


@dataclass(frozen=True, kw_only=True)
class Step(Generic[I]):
    """The state of a flow.

    Attributes:
        flow: the name of the flow.
        request: the request and its coming response: a `powauth.http.connection.Connection`.
        key: the key of the flow's user; ``None`` before a registration and an authentication.
        identity: the identity of that user.
        params: the client's parameters, before ``authentication``, ``registration``, ``update`` and ``deletion``. They
            contain passwords, so ``repr`` leaves them out. Do not log them. ``None`` after a flow.
        proven_address: in a registration, the address at which the client has proven to receive mail, such as by a
            link. It is normalised. ``None`` if there is none.
        account: before ``sign_in``, the account that is about to get the session.
        grant: before ``sign_in``, the options of the session. Its ``amr`` names what the user has proven.
    """

    flow: Flow
    request: Any
    key: Key | None = None
    identity: I | None = None
    params: Params | None = field(default=None, repr=False)
    proven_address: str | None = None
    account: Account[I] | None = None
    grant: Grant | None = None


Hook = Callable[[Step[I]], object]
"""A function or coroutine function that takes a `Step`. Its result is ignored."""


@dataclass(frozen=True, kw_only=True)
class Hooks(Generic[I]):
    """An app's functions, which run before and after each flow.

    Attributes:
        before_authentication: runs before powauth checks a password. Check a CAPTCHA here, but nothing that a client
            can guess, because powauth does not count a refusal here. There is no ``after_authentication``. Either
            ``before_sign_in`` or the event ``sign_in_refused`` follows.
        before_sign_in: the user is proven and about to get a session, by a password, a registration, a change of
            password or `RequestAuth.sign_in_user`. Ask for a second factor here. Raise `MoreNeeded` if it is missing:
            this is not counted as a failure. Raise `Refused` if it is wrong: this is counted. The hook may run again
            if the user changes meanwhile.
        after_sign_in: the user has a new session.
        before_sign_out: a request asks to sign out.
        after_sign_out: the user was signed out.
        before_registration: somebody is about to register.
        after_registration: the user exists, and is not signed in yet.
        before_update: the user is about to change their account.
        after_update: the account was changed.
        before_deletion: the user is about to delete their account.
        after_deletion: the account was deleted.

    Raises:
        ConfigError: if a hook is no function.
    """

    before_authentication: Hook[I] | None = None
    before_sign_in: Hook[I] | None = None
    after_sign_in: Hook[I] | None = None
    before_sign_out: Hook[I] | None = None
    after_sign_out: Hook[I] | None = None
    before_registration: Hook[I] | None = None
    after_registration: Hook[I] | None = None
    before_update: Hook[I] | None = None
    after_update: Hook[I] | None = None
    before_deletion: Hook[I] | None = None
    after_deletion: Hook[I] | None = None

    def __post_init__(self) -> None:
        for name, hook in self.given():
            if not callable(hook):
                raise wrong(f"the hook {name}", "a function of a Step", hook)

    def given(self) -> list[tuple[str, Hook[I]]]:
        """Return the names and functions of the hooks that the app has given."""
        found = [(each.name, getattr(self, each.name)) for each in fields(self)]
        return [(name, hook) for name, hook in found if hook is not None]


class ChangeAccount(Protocol[I]):
    """Changes an account for an extension; see ``Parts.change``."""

    async def __call__(
        self, key: Key, params: Params, *, proof: bytes | None = None, why: str | None = None
    ) -> Account[I]:
        """Change any field of any user, apply the consequences, and return the new state of the account.

        A new password or user id ends everything that the user holds, such as sessions and tokens, also the tokens of
        the caller. If the client disconnects, the call still completes.

        Args:
            key: the user's key.
            params: the new values; see ``trusted`` of `powauth.UsersContext.update`.
            proof: the proof that the account must still have, such as that of `powauth.extensions.Claim`.
            why: a reason that ends more than a new password does, or without one: ``RECOVERED`` or ``CLAIMED`` of
                `powauth.accounts.changes`. Extensions get it; see `Extension.credentials_changed`.

        Raises:
            InvalidParams: what is wrong with ``params``. Nothing was changed.
            Overtaken: if the account has another proof, or is not active. Nothing was changed.
            StoreUnavailable: if the account was not changed, or if something that the user holds may still be valid.
        """
        ...


class CheckPassword(Protocol):
    """Returns what the extensions find wrong with a password, as messages for a form; see `Extension.check_password`.

    ``Parts.change`` asks them, too. Ask first where a refused password would cost the user something, such as a token.
    """

    async def __call__(self, password: str, request: Any = None) -> list[str]:
        """Return the messages. ``request`` is for events."""
        ...


class EmitEvent(Protocol):
    """A function by which an extension emits an event, in any thread. It neither waits nor raises an error."""

    def __call__(
        self,
        event: EventName | EventKind,
        key: Key | None = None,
        detail: str | None = None,
        *,
        request: Any = None,
        actor: Key | None = None,
    ) -> None:
        """Emit an event.

        Args:
            event: an event that the extension declares in `Extension.events`, or the name of one of powauth's.
            key: the key of the user whom it concerns.
            detail: a reason, a count or the like. Never input from a client.
            request: the request in which it happened, such as ``Step.request``. The event then has its address.
            actor: the key of another user who caused it, such as an administrator.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class Diversion(Generic[I]):
    """The part of a flow that an extension does in its own way; see `Extension.divert`.

    Attributes:
        params: the parameters with which the flow goes on.
        finish: does the extension's part. powauth calls it when the flow is done, with the account as it is then. If it
            raises `Accepted`, that is the response.
    """

    params: Params = field(repr=False)
    finish: Callable[[Account[I]], Awaitable[None]]


@dataclass(frozen=True, kw_only=True)
class Parts(Generic[I]):
    """The parts of an authenticator that its extensions may use; see `Extension.bind`.

    Attributes:
        backend: the storage of the sessions' records. Coroutines and plain functions can call it.
        namespace: the namespace of the sessions. An extension's records belong under ``<namespace>.<name>``.
        keyring: derives a key for each purpose.
        users: the users context.
        now: the time in milliseconds since the Unix epoch.
        emit: emits an event, in any thread; see `EmitEvent`.
        current_user_key: the name under which the current user is assigned to a request.
        public_url: the address below which the pages are mounted, without a slash at its end. Links in mail begin with
            it, never with the ``Host`` of a request. ``None`` if the app has given none.
        limits: counts attempts and limits them.
        change: changes an account.
        check_password: asks all extensions what is wrong with a password; see `CheckPassword`.
        address_proven: tells all extensions that a user receives mail at an address; see `Extension.address_proven`.
        sign_in: signs in a user whom the extension has proven; see `SignIn`.
        end_sessions: ends the sessions of a user; see `EndSessions`.
        proven_methods: tells what was proven for the session of a request; see `ProvenMethods`.
        cookie: makes a cookie of the extension's own; see `MakeCookie`.
        may_continue: asks all extensions whether a user may be served without a sign-in; see `Extension.may_continue`.
        may_be_claimed: asks all extensions whether whoever proves an address may take an account over; see
            `Extension.may_be_claimed`.
    """

    backend: Backend
    namespace: str
    keyring: Keyring
    users: UsersContext[Any, I]
    now: Callable[[], Millis]
    emit: EmitEvent
    current_user_key: str
    public_url: str | None
    limits: AttemptLimits
    change: ChangeAccount[I]
    check_password: CheckPassword
    address_proven: Callable[[Key, str], Coroutine[Any, Any, None]]
    sign_in: SignIn[I]
    end_sessions: EndSessions
    proven_methods: ProvenMethods
    cookie: MakeCookie
    may_continue: Callable[[Key], Coroutine[Any, Any, bool]]
    may_be_claimed: Callable[[Key, str], Coroutine[Any, Any, bool]]


class Extension(Generic[I]):
    """A feature that an app adds to powauth. The core knows extensions only through this interface.

    Await only the backend, the users context, a mailer and an HTTP client. Under WSGI, powauth can then run each
    coroutine in one step.

    Attributes:
        name: the purpose of its keys, and the last part of its namespace. It must not be ``"throttle"``, nor the
            ``session_key`` of another authenticator over the same store.
        needs: mixins that the app's model must have. `SessionAuth` raises `ConfigError` if one is missing.
        events: the events that it emits, besides powauth's own. No other extension has an event of such a name, unless
            both declare the same one.
        authenticator: a `powauth.Authenticator` for requests that present credentials of another kind than a session.
            Set it in `bind`. ``None`` if the extension has none.
    """

    name: ClassVar[str] = ""
    needs: ClassVar[tuple[type, ...]] = ()
    events: ClassVar[tuple[EventKind, ...]] = ()
    authenticator: Any = None

    def bind(self, parts: Parts[I]) -> Self:
        """Return this extension bound to an authenticator. The bound extension must not change.

        Raises:
            ConfigError: if the users or the store lack what it needs.
        """
        del parts
        return self

    def companions(self) -> "Sequence[type[Extension[Any]]]":
        """Return the classes of extensions without which this one does not work.

        An authenticator raises `ConfigError` if it has no extension of one of these classes.
        """
        return ()

    async def before(self, step: Step[I]) -> None:
        """Run before a flow. Raise `Refused` to refuse it."""

    async def divert(self, step: Step[I]) -> Diversion[I] | None:
        """Take over a registration or an update, or a part of it. Return ``None`` to leave it as it is.

        powauth calls it when nothing has refused the flow, and before the users context gets ``step.params``. In an
        update, the current password is checked afterwards, so do nothing here that needs it: ``Diversion.finish`` runs
        only if it was right.

        Raises:
            Accepted: if the extension has taken over the whole flow. Nobody is signed in then.
            InvalidParams: what is wrong with the params.
        """
        del step
        return None

    def registers_with(self) -> Sequence[str] | None:
        """Return the fields with which a registration begins; ``None`` if it has all fields and the password.

        An extension that takes over registrations may need less at first, such as the e-mail address alone. The page to
        register then shows these fields.
        """
        return None

    async def after(self, step: Step[I]) -> None:
        """Run after a flow."""

    async def check_password(self, password: str, request: Any) -> Sequence[str]:
        """Return what is wrong with a password that is about to be set, as messages for a form.

        powauth calls it at registrations, changes and resets, before the users context checks the password itself.
        ``request`` is ``None`` if the app's own code or an extension sets it. Neither keep nor log the password.
        """
        del password, request
        return ()

    async def credentials_changed(self, key: Key, why: str) -> None:
        """End everything that this extension holds for a user.

        powauth calls it when the credentials change, the account is created, locked or deleted, or all sessions of the
        user are revoked. It ends the sessions afterwards.

        ``why`` is the reason: a constant of `powauth.accounts.changes`, or a text of the app's own. After
        ``RECOVERED``, also end what outlives a change of the password, such as API keys. After ``CLAIMED``, also end
        what opens the account by itself, such as passkeys. After ``CREATED``, end everything that is stored for the
        key: it belonged to a former user.

        Raises:
            StoreUnavailable: if anything may still be valid.
        """

    async def sessions_ended(self, key: Key, why: str) -> None:
        """End what a session of the user has made since `credentials_changed`.

        powauth calls it when the sessions have ended, with the same arguments. Between the two calls a session could
        still make something, such as an API key. An extension needs it only for what sessions make.

        Raises:
            StoreUnavailable: if anything may still be valid.
        """

    async def may_continue(self, key: Key) -> bool:
        """Return whether a user may be served without a sign-in, as far as this extension can tell.

        An authenticator asks it if credentials such as a key sign each request in by themselves: no `before` of a
        sign-in runs then. Return ``False`` for a condition that holds for all of a user's requests, such as an address
        that must be confirmed. Return ``True`` for what only a sign-in needs, such as a second factor.
        """
        del key
        return True

    async def fresh_methods(self, key: Key) -> Collection[str]:
        """Return the methods of which a user must have proven one recently, for an act that needs a fresh sign-in.

        `powauth.http.guards.require_all_fresh` asks it, such as before a passkey is added or an API key is made. Return
        nothing if the fresh sign-in is enough.

        Raises:
            StoreUnavailable: if that is not known.
        """
        del key
        return ()

    async def address_proven(self, key: Key, address: str) -> None:
        """Note that a user receives mail at an address.

        When a client presents a token that an extension has mailed to this address, the extension calls
        ``Parts.address_proven``. powauth then calls this method of all extensions. An extension that confirms addresses
        can confirm this one. First compare it with the user's address, which may have changed meanwhile.

        powauth logs an error of this method, and goes on.
        """

    async def may_be_claimed(self, key: Key, address: str) -> bool:
        """Return whether a user has this address, is active, and has never proven to receive mail there.

        Somebody else may have made such an account. So a person who proves the address may take the account over, with
        a new password and the reason ``CLAIMED``. An extension that confirms addresses overrides this.
        """
        del key, address
        return False

    def on_event(self, event: Event) -> None:
        """Take note of any event, of powauth and of all extensions, in the order in which they happen.

        powauth calls it wherever an event happens: in a request, on the event loop, or in a thread of an extension. So
        it must be quick and must not wait. Put what takes time into a queue. An error is logged and changes nothing.
        """

    async def reserves(self, address: object) -> bool:
        """Return whether nobody may register with an address now, because it still belongs to an existing user.

        ``address`` is what a visitor has typed. A flow asks it before it uses up a token, such as an invitation.

        Raises:
            StoreUnavailable: if that is not known.
        """
        del address
        return False

    def pages(self) -> Sequence[Any]:
        """Return the `powauth.pages.Page` objects to mount with the ready-made pages."""
        return ()

    def page_parts(self) -> Sequence[Any]:
        """Return the `powauth.pages.PagePart` objects, which the extension adds to pages that are not its own."""
        return ()

    async def reseal(self, told: Callable[[int], None] | None = None) -> int | None:
        """Seal stored secrets again with the newest ``secret_key``, and return their number.

        The command ``powauth reseal`` calls it after a rotation of ``secret_key``. An extension that keeps sealed
        secrets (`powauth.extensions.sealing`) overrides it. ``None`` says that this one keeps none.

        Args:
            told: gets the number so far from time to time, for a progress display.

        Raises:
            StoreMissing: if the ``secret_key`` of a stored secret is missing. All others are sealed again first.
            StoreUnavailable: if a store cannot be reached. Then call it again.
        """
        del told
        return None

    async def aclose(self) -> None:
        """Finish what runs in the background, such as mail. `SessionAuth.aclose` calls it, before it closes the store.

        The extension can be used again afterwards.
        """
