"""`Authenticator`: the contract that integrations accept, and the operations on users that every kind of it shares.

Implement `Authenticator.fetch`, `create` and `delete` and you have another way of telling whose a request is: a token,
a header that a trusted proxy sets. `powauth.session_auth.SessionAuth` is the session plug.
"""

import logging
from abc import ABC, abstractmethod
from collections.abc import Coroutine, Mapping
from typing import Any, Final, Generic, NoReturn, Self, TypeVar, cast

from powauth._outages import report
from powauth.accounts.base import U, UsersContext
from powauth.accounts.offloaded import OffloadedUsers
from powauth.accounts.throttle import UNCOUNTED, Admission
from powauth.backends.offloaded import InThread
from powauth.errors import ConfigError, InvalidParams, MoreNeeded, NotSignedIn, Overloaded, Refused, StoreUnavailable
from powauth.events import EventName, log
from powauth.hooks import Flow, Hooks, Step
from powauth.http.connection import MISSING, NO_EFFECTS, Connection, Effects

T = TypeVar("T")

SIGN_IN_ATTEMPTS = 8
"""How often a sign-in starts over because the user changed, or was revoked, while it was under way."""


NOT_LOOKED_AT: Final = (StoreUnavailable, Overloaded)
"""What ends an attempt without telling whether the password was wrong, so that it does not count as a failure.

A hook's `Refused` is not among them: it may have looked at a second factor, whose guesses must count too. `MoreNeeded`
says that the password was right, and that no second factor was looked at.
"""


class Unreachable:
    """Stands where the current user would: nobody could tell who it is. Every use raises `StoreUnavailable`.

    So a handler that only asks "is somebody signed in?" gets an error, and never the answer "nobody". The one question
    that no object can refuse is ``is None``: ASGI's ``scope["state"]`` raises before it is asked; in a WSGI environ and
    in Flask's ``g`` ask for the truth, or use `RequestAuth.current_user`.
    """

    __slots__ = ("_cause",)

    def __init__(self, cause: StoreUnavailable) -> None:
        report(cause)
        object.__setattr__(self, "_cause", cause)

    def _raise(self, *_: object, **__: object) -> NoReturn:
        cause = object.__getattribute__(self, "_cause")
        raise StoreUnavailable(str(cause)) from cause

    # __getattribute__ covers __class__ too, and with it isinstance(), match, pickling and JSON encoders.
    __getattribute__ = __setattr__ = __delattr__ = __dir__ = _raise
    __bool__ = __eq__ = __ne__ = __lt__ = __le__ = __gt__ = __ge__ = __hash__ = _raise
    __str__ = __format__ = __bytes__ = __int__ = __float__ = __index__ = _raise
    __len__ = __iter__ = __aiter__ = __reversed__ = __contains__ = __getitem__ = __setitem__ = __delitem__ = _raise
    __call__ = __await__ = __enter__ = __exit__ = __reduce_ex__ = _raise

    def __repr__(self) -> str:
        return "<current user unknown: the session store is out of reach>"


def known(value: T) -> T:
    """The value, unless it stands for a user whom nobody could tell.

    Raises:
        StoreUnavailable: if it does.
    """
    if isinstance(value, Unreachable):
        Unreachable._raise(value)
    return value


class Authenticator(ABC, Generic[U]):
    """One way of telling whose a request is. Implement `fetch`, `create` and `delete` and every integration accepts it.

    Immutable once made, and holding nothing of any request, so one object serves all threads, tasks and apps.

    Args:
        users: who the users are.
        current_user_key: the name under which the current user is assigned to a request.
        hooks: the app's own functions before and after each flow.

    Attributes:
        identity: shared by an authenticator and its copies for event loops and threads, and by no other.

    Raises:
        ConfigError: if an option is wrong.
    """

    def __init__(
        self, users: UsersContext[U], *, current_user_key: str = "current_user", hooks: Hooks[U] | None = None
    ) -> None:
        if not isinstance(users, UsersContext):
            raise ConfigError(f"users must be a UsersContext, such as SQLAlchemyUsers, not {type(users).__name__}")
        if not isinstance(current_user_key, str) or not current_user_key.isidentifier():
            raise ConfigError(f"current_user_key must be a Python identifier, not {current_user_key!r}")
        if hooks is not None and not isinstance(hooks, Hooks):
            raise ConfigError(f"hooks must be Hooks(before_sign_in=..., ...), not {type(hooks).__name__}")
        self.users = users
        self.hooks: Hooks[U] = Hooks() if hooks is None else hooks
        self.current_user_key = current_user_key
        self.identity: Final = object()

    def __setattr__(self, name: str, value: object) -> None:
        if "_sealed" in self.__dict__:
            raise AttributeError(f"{type(self).__name__} cannot be changed after it was made; make another one")
        super().__setattr__(name, value)

    def _seal(self) -> None:
        self.__dict__["_sealed"] = True

    def _with(self, **changes: object) -> Self:
        copy = object.__new__(type(self))
        copy.__dict__.update(self.__dict__, **changes)
        return copy

    # --- the contract ---------------------------------------------------------------------------------------------

    @abstractmethod
    async def fetch(self, connection: Connection) -> U | None:
        """Whose the request is, or ``None``.

        Raises:
            StoreUnavailable: if nobody can tell.
        """

    @abstractmethod
    async def create(self, connection: Connection, user: U, *, proof: bytes | None = None) -> U | None:
        """Sign a user in on this connection; the user as it now is.

        ``proof`` is the fingerprint of what was checked. ``None`` is the answer if the user is gone or locked, or no
        longer has that fingerprint.
        """

    @abstractmethod
    async def delete(self, connection: Connection) -> None:
        """Sign out on this connection. Nothing that was valid for it is valid once this returns."""

    def is_due(self, connection: Connection) -> bool:
        """Whether `respond` may have something to say; where this is false it need not be asked."""
        del connection
        return True

    async def respond(self, connection: Connection, *, failed: bool = False) -> Effects:
        """What the response is to carry; called once, when it starts. ``failed`` says that the handler raised."""
        del connection, failed
        return NO_EFFECTS

    def is_presented(self, connection: Connection) -> bool:
        """Whether the request may carry what a browser adds by itself, whichever site's page has asked for it.

        A WebSocket's handshake of which this is so must come from an allowed origin.
        """
        return bool(connection.cookies()) or connection.header("origin") is not None

    async def recheck(self, connection: Connection) -> bool:
        """Whether who was signed in on a connection when it began still is: for connections that last.

        Raises:
            StoreUnavailable: if nobody can tell.
        """
        return await self.fetch(connection) is not None

    def is_expired(self, connection: Connection) -> bool:
        """Whether, as far as is known without asking anybody, the time is up for who was signed in."""
        del connection
        return False

    async def user_updated(self, before: U, after: U) -> bool:
        """Carry a change of a user into whatever signs them in; whether all of that was ended."""
        del before, after
        return False

    async def user_deleted(self, user: U) -> None:
        """End whatever signs a deleted user in."""
        del user

    async def check_ready(self, user: U) -> None:
        """Raise `StoreUnavailable` now, if a change of the user could not be carried through afterwards."""
        del user

    async def admit_sign_in(self, connection: Connection, params: Mapping[str, object]) -> Admission:
        """Count an attempt to sign in, before ``params`` are looked at.

        Raises:
            Throttled: if there were too many.
        """
        del connection, params
        return UNCOUNTED

    async def admit_proof(self, connection: Connection, user: U) -> Admission:
        """Count a ``current_password`` that a signed-in user gives, before it is looked at.

        Raises:
            Throttled: if there were too many.
        """
        del connection, user
        return UNCOUNTED

    async def admit_second_factor(self, connection: Connection, params: Mapping[str, object]) -> None:
        """Count that ``params`` hold the right password and a second factor was asked for.

        Raises:
            Throttled: if there were too many.
        """
        del connection, params

    def for_asgi(self, in_thread: InThread, users_in_thread: InThread | None = None) -> Self:
        """This authenticator for an event loop, where nothing may block it.

        ``users_in_thread`` is for the users context, whose sign-ins may all be waiting for a password to be hashed:
        threads of its own, or sign-outs would wait for them.
        """
        if self.users.mode != "blocking":
            return self
        log(
            logging.WARNING,
            "the users context is synchronous: on ASGI each of its calls takes a worker thread; "
            "an AsyncEngine would spare that",
        )
        return self._with(users=OffloadedUsers(self.users, users_in_thread or in_thread))

    def for_wsgi(self) -> Self:
        """This authenticator where there is no event loop.

        Raises:
            ConfigError: if one of its parts needs one.
        """
        if self.users.mode == "async":
            raise ConfigError("a WSGI app needs a synchronous users context: give SQLAlchemyUsers an Engine")
        self.hooks.check_plain()
        return self

    # --- the plug ---------------------------------------------------------------------------------------------------

    def check_key_is_free(self, bound: "Authenticator[Any] | None") -> None:
        """Raise `ConfigError` if ``bound``, which has been in front of the request already, is not this authenticator.

        Under one ``current_user_key`` it would lend its users to this one: the shop's customers to the admins' app.
        """
        if bound is not None and bound.identity is not self.identity:
            raise ConfigError(
                f"another authenticator assigns {self.current_user_key!r} already: give each its own current_user_key"
            )

    def call_at_once(self, connection: Connection) -> bool:
        """`call`, if that takes no wait; whether it was done. An integration tries this, and else awaits `call`."""
        del connection
        return False

    async def call(self, connection: Connection) -> None:
        """Fetch the current user and assign it, unless a user, or the fact that there is none, is already assigned.

        If the store is out of reach, what is assigned raises `StoreUnavailable` on any use: a page that does not ask
        who is there is served, and one that asks is not told "nobody".
        """
        if connection.assigned(self.current_user_key) is not MISSING:
            return
        try:
            await self.do_fetch(connection)
        except StoreUnavailable as error:
            connection.assign(self.current_user_key, Unreachable(error))

    async def do_fetch(self, connection: Connection) -> U | None:
        """`fetch`, and assign the current user."""
        user = await self.fetch(connection)
        connection.assign(self.current_user_key, user)
        return user

    async def do_create(self, connection: Connection, user: U, *, proof: bytes | None = None) -> U | None:
        """`create`, with the hooks around it, and assign the current user. Every way to sign in leads through here.

        Raises:
            Refused: if ``before_sign_in`` says so.
        """
        await self._before("sign_in", connection, user)
        signed_in = await self.create(connection, user, proof=proof)
        if signed_in is None:
            return None
        seen = self._seen(signed_in)
        connection.assign(self.current_user_key, seen)
        await self._after("sign_in", connection, seen)
        return seen

    async def do_delete(self, connection: Connection) -> None:
        """`delete`, and clear the current user."""
        await self.delete(connection)
        connection.assign(self.current_user_key, None)

    # --- operations on users ----------------------------------------------------------------------------------------

    def current_user(self, connection: Connection) -> U | None:
        """Who is signed in on this connection.

        Raises:
            StoreUnavailable: if nobody could tell.
        """
        user = known(connection.assigned(self.current_user_key))
        return None if user is MISSING else cast("U | None", user)

    async def authenticate_user(self, connection: Connection, params: Mapping[str, object]) -> U | None:
        """Sign in the user whom ``params`` prove; ``None``, with everything as it was, if they prove nobody.

        A change of the user that overtakes the check makes it start over.

        Raises:
            Throttled: if it was tried too often; ``params`` were not looked at.
            MoreNeeded: if a hook asks for a second factor. The right password does not count as a failure.
            Refused: if a hook says so.
        """
        check_params(params)
        await self._before("authentication", connection, params=params)
        admission = await self.admit_sign_in(connection, params)
        try:
            for _ in range(SIGN_IN_ATTEMPTS):
                user = await self.users.authenticate(params)
                if not isinstance(user, self.users.user_type):
                    self._note("sign_in_refused", connection)
                    return None
                signed_in = await self.do_create(connection, user, proof=self.users.fingerprint(user))
                if signed_in is not None:
                    await admission.succeed()
                    return signed_in
            raise StoreUnavailable("the user changed again and again during the sign-in; try again")
        except NOT_LOOKED_AT:
            await admission.undo()
            raise
        except MoreNeeded:
            await admission.undo()
            await self.admit_second_factor(connection, params)
            raise

    async def sign_in(self, connection: Connection, user: U) -> U | None:
        """Sign in a user whom the app has proven by other means; ``None`` if they are gone or locked.

        Raises:
            Refused: if a hook says so.
        """
        signed_in = await self.do_create(connection, user)
        if signed_in is None:
            self._note("sign_in_refused", connection, user)
        return signed_in

    async def create_user(self, connection: Connection, params: Mapping[str, object]) -> U:
        """Register a user and sign them in.

        Raises:
            InvalidParams: what is wrong with ``params``.
            NotSignedIn: if the account was created, but may not sign in.
            Refused: if a hook says so; ``before_sign_in`` does when the account exists.
        """
        check_params(params)
        await self._before("registration", connection, params=params)
        user = await self.users.create(params)
        self._note("registered", connection, user)
        await self._after("registration", connection, user)
        signed_in = await self.sign_in(connection, user)
        if signed_in is None:
            raise NotSignedIn("the account was created, but may not sign in")
        return signed_in

    async def update_user(self, connection: Connection, params: Mapping[str, object]) -> U:
        """Change the current user (``params`` hold ``current_password``); the user as it now is.

        A change of password or user id ends all the user's sessions and signs this connection in anew.

        Raises:
            InvalidParams: what is wrong with ``params``.
            NotSignedIn: if nobody is signed in, or the user is gone.
            Throttled: if wrong current passwords were given too often.
            Refused: if a hook says so.
        """
        check_params(params)
        before = await self._reloaded(connection)
        await self._before("update", connection, before, params)
        await self.check_ready(before)
        after = await self._proven(connection, before, params, self.users.update(before, params))
        self._note_updated(connection, before, after)
        ended = await self.user_updated(before, after)
        await self._after("update", connection, after)
        if not ended:
            seen = self._seen(after)
            connection.assign(self.current_user_key, seen)
            return seen
        try:
            signed_in = await self.sign_in(connection, after)
        except Refused:
            await self.do_delete(connection)
            raise
        if signed_in is None:
            await self.do_delete(connection)
            raise NotSignedIn("the account was changed, and may not sign in any more")
        return signed_in

    async def delete_user(
        self, connection: Connection, params: Mapping[str, object] | None = None, *, vouched: bool = False
    ) -> None:
        """Delete the current user (``params`` hold ``current_password``) and sign them out everywhere.

        With ``vouched=True`` it goes without ``params``: the app has just seen the user prove who they are
        (`SessionInfo.authenticated_at`). ``None`` alone proves nothing, for an empty body decodes to that.

        Raises:
            InvalidParams: the current password is missing or wrong.
            NotSignedIn: if nobody is signed in, or the user is gone.
            Throttled: if wrong current passwords were given too often.
            Refused: if a hook says so.
        """
        if params is None and not vouched:
            params = {}
        check_params({} if params is None else params)
        user = await self._reloaded(connection)
        await self._before("deletion", connection, user, params)
        await self.check_ready(user)
        await self._proven(connection, user, params, self.users.delete(user, params))
        self._note("deleted", connection, user)
        await self.user_deleted(user)
        await self.do_delete(connection)
        await self._after("deletion", connection, user)

    def change_user(self, connection: Connection, params: Mapping[str, object]) -> Mapping[str, list[str]]:
        """What is wrong with ``params`` for the current user, or for a new one: field to messages."""
        return self.users.change(params, self.current_user(connection))

    async def clear_authenticated_user(self, connection: Connection) -> None:
        """Sign out.

        Raises:
            StoreUnavailable: if the session may live on.
            Refused: if a hook says so.
        """
        assigned = connection.assigned(self.current_user_key)
        unknown = assigned is MISSING or isinstance(assigned, Unreachable)
        user = None if unknown else cast("U | None", assigned)
        await self._before("sign_out", connection, user)
        await self.do_delete(connection)
        await self._after("sign_out", connection, user)

    async def update_account(self, user: U, params: Mapping[str, object]) -> U:
        """Change any user, for the app's own code: no current password, any field.

        What signs the user in follows as in `update_user`; a user who is locked by it is signed out everywhere.

        Raises:
            InvalidParams: what is wrong with ``params``.
        """
        found = await self.users.reload(user)
        before = user if found is None else found
        await self.check_ready(before)
        after = await self.users.update(before, params, trusted=True)
        self._note_updated(None, before, after)
        await self.user_updated(before, after)
        return after

    async def delete_account(self, user: U) -> bool:
        """Delete any user, for the app's own code, and sign them out everywhere; whether it still existed."""
        await self.check_ready(user)
        existed = await self.users.delete(user)
        if existed:
            self._note("deleted", None, user)
        await self.user_deleted(user)
        return existed

    # --- inside -----------------------------------------------------------------------------------------------------

    def _seen(self, user: U) -> U:
        """The user as every later request sees them: what a handler passes on by mistake holds no password hash."""
        return self.users.restore(self.users.snapshot(user))

    def _note(
        self, name: EventName, connection: Connection | None, user: U | None = None, *, detail: str | None = None
    ) -> None:
        """Tell of what happened in a flow."""

    def _note_updated(self, connection: Connection | None, before: U, after: U) -> None:
        changed = self.users.fingerprint(before) != self.users.fingerprint(after)
        locked = not self.users.is_active(after)
        detail = "locked" if locked else "credentials" if changed else "profile"
        self._note("updated", connection, after, detail=detail)

    async def _before(
        self,
        flow: Flow,
        connection: Connection,
        user: U | None = None,
        params: Mapping[str, object] | None = None,
    ) -> None:
        if getattr(self.hooks, f"before_{flow}", None) is None:
            return
        try:
            await self.hooks.before(Step(flow=flow, connection=connection, user=user, params=params))
        except MoreNeeded:
            self._note("second_factor_required", connection, user, detail=flow)
            raise
        except Refused:
            self._note("refused", connection, user, detail=flow)
            raise

    async def _after(self, flow: Flow, connection: Connection, user: U | None) -> None:
        if getattr(self.hooks, f"after_{flow}", None) is not None:
            await self.hooks.after(Step(flow=flow, connection=connection, user=user))

    async def _proven(
        self, connection: Connection, user: U, params: Mapping[str, object] | None, work: Coroutine[Any, Any, T]
    ) -> T:
        """Do ``work``, in which the users context checks the ``current_password`` of ``params``, and count that."""
        if params is None or params.get("current_password") in (None, ""):
            return await work
        try:
            admission = await self.admit_proof(connection, user)
        except BaseException:
            work.close()
            raise
        try:
            done = await work
        except InvalidParams as error:
            if "current_password" not in error.errors:
                await admission.undo()
            raise
        except NOT_LOOKED_AT:
            await admission.undo()
            raise
        await admission.succeed()
        return done

    async def _reloaded(self, connection: Connection) -> U:
        user = self.current_user(connection)
        if user is None:
            raise NotSignedIn("sign in first")
        found = await self.users.reload(user)
        if found is None:
            await self.do_delete(connection)
            raise NotSignedIn("the account no longer exists")
        return found


def check_params(params: object) -> None:
    """Refuse what is no mapping, such as the list or the ``null`` that a JSON body may be.

    Raises:
        InvalidParams: if it is anything else.
    """
    if not isinstance(params, Mapping):
        raise InvalidParams({"base": ["must be an object of fields"]})
