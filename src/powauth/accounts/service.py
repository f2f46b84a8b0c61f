"""The flows of accounts: sign in, register, change, delete, sign out. Each method is one flow, in its order of steps.

`AccountService` knows accounts and hooks. It does not know requests: it passes them on to a `SignInPort`, which is the
authenticator, and to the authenticator's `UserRecords`.
"""

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any, Final, Generic, TypeVar

import msgspec

from powauth._running import uncancellable
from powauth.accounts.base import Account, Params, UsersContext
from powauth.accounts.changes import CHANGED, CREATED, DELETED
from powauth.accounts.flow_hooks import FlowHooks
from powauth.accounts.grant import AS_BEFORE, PASSWORD, Grant, MethodTimes
from powauth.accounts.hooks import Diversion, Flow, Step
from powauth.accounts.identity import I, Key
from powauth.accounts.records import UserRecords
from powauth.accounts.sign_in_port import SignInPort
from powauth.errors import InvalidParams, MoreNeeded, NotSignedIn, Overloaded, Refused, StoreUnavailable
from powauth.sessions.record import Session

__all__ = ["AS_BEFORE", "SIGN_IN_ATTEMPTS", "AccountService", "Grant", "check_params"]

T = TypeVar("T")

SIGN_IN_ATTEMPTS = 8
"""Tries of a sign-in. A try fails if the user changes or is revoked meanwhile."""

NOT_COUNTED = (StoreUnavailable, Overloaded)
"""Errors that end an attempt without showing whether the password was wrong.

`Refused` is not one of them: a hook may have checked a second factor, and wrong guesses of it must count, too.
"""

BY_PASSWORD: MethodTimes = {PASSWORD: None}
"""The method that a right password proves."""

SIGN_IN_AGAIN: Final = "the account no longer exists, or was changed: sign in again"
"""The message for a request whose user is gone or has another proof."""


class AccountService(Generic[I]):
    """The flows over one users context.

    Args:
        users: the users context.
        hooks: the functions before and after each flow.
        port: signs in and out on a request.
        records: counts attempts and follows changes of accounts.
    """

    def __init__(
        self, users: UsersContext[Any, I], hooks: FlowHooks[I], port: SignInPort[I], records: UserRecords[I]
    ) -> None:
        self.users = users
        self.hooks = hooks
        self.records = records
        self._port = port

    # --- signing in and out -------------------------------------------------------------------------------------------

    async def sign_in(self, request: Any, params: Params, grant: Grant = AS_BEFORE) -> I | None:
        """Sign in the user whom ``params`` prove. If they prove nobody, change nothing and return ``None``.

        If the user changes during the check, it starts over.

        Raises:
            Throttled: if there were too many attempts. ``params`` were not checked.
            MoreNeeded: if a hook or an extension asks for a second factor. The right password is no failure.
            Refused: if a hook or an extension refuses it.
        """
        check_params(params)
        self._port.check_session(request)
        await self._before("authentication", request, params=params)
        attempt = await self.records.admit_sign_in(request, params, waits=self.hooks.runs_before("sign_in"))
        try:
            for _ in range(SIGN_IN_ATTEMPTS):
                account = await self._authenticated(params)
                if account is None:
                    self._port.emit("sign_in_refused", request)
                    return None
                if account.rehash is not None:
                    account = await self._rehashed(account)
                if account is None:
                    continue
                how = msgspec.structs.replace(grant, attempt=attempt, same_proof=True, amr=BY_PASSWORD)
                identity = await self._port.do_create(request, account, how)
                if identity is not None:
                    await attempt.admission.succeed()
                    return identity
                attempt = msgspec.structs.replace(attempt, epoch=None)
            raise StoreUnavailable("the user changed again and again during the sign-in; try again")
        except MoreNeeded:
            await attempt.admission.undo()
            await self.records.admit_second_factor(request, params)
            raise
        except NOT_COUNTED:
            await attempt.admission.undo()
            raise

    async def sign_in_user(self, request: Any, key: Key, grant: Grant = AS_BEFORE) -> I | None:
        """Sign in a user whom the app has proven by other means; ``None`` if they are gone or locked.

        Raises:
            Refused: if a hook or an extension refuses it.
        """
        self._port.check_session(request)
        account = await self.users.get(key)
        identity = await self._port.do_create(request, account, grant) if isinstance(account, Account) else None
        if identity is None:
            self._port.emit("sign_in_refused", request, key=key)
        return identity

    @uncancellable
    async def sign_out(self, request: Any) -> None:
        """Sign out.

        Raises:
            StoreUnavailable: if the session may live on.
            Refused: if a hook or an extension refuses it.
        """
        self._port.check_session(request)
        try:
            identity, key = self._port.current_identity(request), self._port.current_key(request)
        except StoreUnavailable:
            identity = key = None
        await self._before("sign_out", request, key, identity)
        await self._port.do_delete(request)
        await self._after("sign_out", request, key, identity)

    # --- accounts of users themselves ---------------------------------------------------------------------------------

    async def register(
        self, request: Any, params: Params, grant: Grant = AS_BEFORE, *, proven_address: str | None = None
    ) -> I:
        """Register a user and sign them in.

        An extension gives ``proven_address`` if the client has used a link that was sent to this address; see `Step`.

        Raises:
            InvalidParams: what is wrong with ``params``.
            NotSignedIn: if the account was created, but may not sign in.
            Accepted: if an extension has taken the registration over, such as to confirm the address first.
            Refused: if a hook or an extension refuses it. When ``before_sign_in`` refuses, the account already exists.
        """
        check_params(params)
        self._port.check_session(request)
        step: Step[I] = Step(flow="registration", request=request, params=params, proven_address=proven_address)
        await self._before_step(step)
        diverted = await self.hooks.diverted(step)
        params = diverted[-1].params if diverted else params
        await self._check_password(params, request)
        account = await self._created(request, params)
        done = replace(step, key=account.key, identity=account.identity, params=None)
        await self.hooks.after(done)
        how = msgspec.structs.replace(grant, amr=BY_PASSWORD)
        identity = await self._port.do_create(request, account, how)
        await _finish(diverted, account)
        if identity is None:
            raise NotSignedIn("the account was created, but may not sign in")
        return identity

    @uncancellable
    async def update_user(self, request: Any, params: Params) -> I:
        """Change the current user (``params`` hold ``current_password``), and return the identity as it is now.

        A change of password or user id ends all the user's sessions, and signs this request in again. A user without a
        password sets one after a fresh sign-in, without ``current_password``.

        Raises:
            InvalidParams: what is wrong with ``params``.
            NotSignedIn: if nobody is signed in, or the user is gone.
            Throttled: if wrong current passwords were given too often.
            Accepted: if an extension has taken over a part of the change, such as a new address. The rest is done.
            Refused: if a hook or an extension refuses it.
        """
        check_params(params)
        before = await self._current(request)
        step = Step(flow="update", request=request, key=before.key, identity=before.identity, params=params)
        await self._before_step(step)
        diverted = await self.hooks.diverted(step)
        params = diverted[-1].params if diverted else params
        await self._check_password(params, request)
        await self.records.check_ready(before.key)
        after = await self._first_password(request, before, params)
        if after is None:
            after = await self._counted(request, before.key, params, lambda: self.users.update(before.key, params))
        ended = await self._changed(request, before, after)
        await self._after("update", request, after.key, after.identity)
        identity = await self._signed_in_again(request, after) if ended else after.identity
        if not ended:
            self._port.assign(request, after.identity)
        await _finish(diverted, after)
        return identity

    @uncancellable
    async def delete_user(self, request: Any, params: Params | None, *, vouched: bool = False) -> None:
        """Delete the current user (``params`` hold ``current_password``), and sign them out everywhere.

        With ``vouched=True`` no ``params`` are needed: the app has just verified the user by other means. ``None``
        alone proves nothing, because an empty body decodes to it.

        Raises:
            InvalidParams: if the current password is missing or wrong.
            NotSignedIn: if nobody is signed in, or the user is gone.
            Throttled: if wrong current passwords were given too often.
            Refused: if a hook or an extension refuses it.
        """
        if params is None and not vouched:
            params = {}
        check_params({} if params is None else params)
        account = await self._current(request)
        await self._before("deletion", request, account.key, account.identity, params)
        await self.records.check_ready(account.key)
        await self._counted(request, account.key, params, lambda: self.users.delete(account.key, params))
        self._port.emit("deleted", request, key=account.key)
        await self.credentials_changed(account.key, DELETED)
        await self._port.do_delete(request)
        await self._after("deletion", request, account.key, account.identity)

    # --- accounts in the app's own code -------------------------------------------------------------------------------

    async def create_account(self, params: Params) -> I:
        """Create a user, by the rules of a registration. Nobody is signed in, and no hook runs.

        This is for the app's own code.

        Raises:
            InvalidParams: what is wrong with ``params``.
            StoreUnavailable: if something of a former user with the same key may be left. The user was not created.
        """
        check_params(params)
        await self._check_password(params, None)
        return (await self._created(None, params)).identity

    async def update_account(self, key: Key, params: Params) -> I:
        """Change any field of any user, without a current password. This is for the app's own code.

        A change of password or user id ends all the user's sessions. A user whom the change locks is signed out
        everywhere.

        Raises:
            InvalidParams: what is wrong with ``params``.
        """
        return (await self.change_account(key, params)).identity

    @uncancellable
    async def change_account(
        self, key: Key, params: Params, *, proof: bytes | None = None, why: str | None = None
    ) -> Account[I]:
        """Do what `update_account` does, and return the account; see `powauth.accounts.hooks.ChangeAccount`.

        Raises:
            InvalidParams: what is wrong with ``params``.
            Overtaken: if the account does not have ``proof``, or is not active.
        """
        check_params(params)
        await self._check_password(params, None)
        before = await self.users.get(key)
        await self.records.check_ready(key)
        after = await self.users.update(key, params, trusted=True, proof=proof)
        await self._changed(None, before, after, why)
        return after

    @uncancellable
    async def delete_account(self, key: Key) -> bool:
        """Delete any user and sign them out everywhere. Return whether the user still existed.

        This is for the app's own code.
        """
        await self.records.check_ready(key)
        existed = await self.users.delete(key)
        if existed:
            self._port.emit("deleted", None, key=key)
        await self.credentials_changed(key, DELETED)
        return existed

    @uncancellable
    async def credentials_changed(self, key: Key, why: str, keep: Session | None = None, request: Any = None) -> int:
        """End everything that a user holds, except the session ``keep``. Return the number of ended sessions.

        powauth calls the extensions first and ends the sessions last, so no token of an extension can begin a session
        afterwards. Then it calls `Extension.sessions_ended`, for anything that a session has made meanwhile. If an
        extension fails, the sessions end all the same.

        Args:
            key: the key of the user.
            why: the reason, for the extensions and the event.
            keep: the session that stays.
            request: the request that caused it. Its event says so.

        Raises:
            StoreUnavailable: if anything may still be valid.
        """
        try:
            await self.hooks.credentials_changed(key, why)
        finally:
            ended = await self.records.end_sessions(key, why, keep, request)
            await self.hooks.sessions_ended(key, why)
        return ended

    # --- inside -------------------------------------------------------------------------------------------------------

    async def _check_password(self, params: Params, request: Any) -> None:
        """Let the extensions refuse a password that is about to be set.

        Raises:
            InvalidParams: if one refuses it.
        """
        password = params.get("password")
        if isinstance(password, str) and password:
            errors = await self.hooks.password_errors(password, request)
            if errors:
                raise InvalidParams({"password": errors})

    @uncancellable
    async def _created(self, request: Any, params: Params) -> Account[I]:
        """Create a user, and end what a former user with the same key has left, such as sessions and API keys.

        A credential that signs each request in by itself, such as an API key, is still accepted between the two steps:
        only the database knows the key before. A session that begins between them ends. If the second step fails, this
        deletes the new user, so that nobody uses an account that a former user can open.
        """
        account = await self.users.create(params)
        try:
            await self.credentials_changed(account.key, CREATED)
        except Exception:
            await self.users.delete(account.key)
            raise
        self._port.emit("registered", request, key=account.key)
        return account

    async def _authenticated(self, params: Params) -> Account[I] | None:
        """Return the account that ``params`` prove; ``None`` if the users context returns no active account."""
        account = await self.users.authenticate(params)
        return account if isinstance(account, Account) and account.active is True else None

    async def _rehashed(self, account: Account[I]) -> Account[I] | None:
        """Write the stronger hash and return the account; ``None`` if the hash was changed meanwhile."""
        rehash = account.rehash
        assert rehash is not None  # noqa: S101 - the caller has checked it
        await self.records.accept_proof(account, rehash.proof)
        if not await rehash.write():
            return None
        return msgspec.structs.replace(account, proof=rehash.proof, rehash=None)

    async def before_sign_in(self, request: Any, account: Account[I], grant: Grant) -> None:
        """Run the hooks before a session begins. ``grant.amr`` has the time of each method.

        Raises:
            MoreNeeded: if a hook or an extension asks for a second factor.
            Refused: if a hook or an extension refuses it.
        """
        step = Step(
            flow="sign_in",
            request=request,
            key=account.key,
            identity=account.identity,
            account=account,
            grant=grant,
        )
        await self._before_step(step)

    async def after_sign_in(self, request: Any, account: Account[I]) -> None:
        """Run the hooks after a session has begun."""
        await self._after("sign_in", request, account.key, account.identity)

    async def _changed(
        self, request: Any, before: Account[I] | None, after: Account[I], why: str | None = None
    ) -> bool:
        """Apply a change of an account to its sessions. A reason ends them. Return whether it ended them."""
        same = before is not None and before.proof == after.proof
        detail = "locked" if not after.active else "profile" if same else "credentials"
        self._port.emit("updated", request, key=after.key, detail=detail)
        if not same or not after.active or why is not None:
            await self.credentials_changed(after.key, why or CHANGED)
            return True
        await self.records.refresh(after.key)
        return False

    async def _signed_in_again(self, request: Any, account: Account[I]) -> I:
        """Sign a request in again after a change of its own user's credentials, which ended all sessions.

        Raises:
            NotSignedIn: if the account may not sign in any more.
            Refused: if a hook or an extension refuses it.
        """
        try:
            identity = await self._port.do_create(request, account, AS_BEFORE)
        except Refused:
            await self._port.do_delete(request)
            raise
        if identity is None:
            await self._port.do_delete(request)
            raise NotSignedIn("the account was changed, and may not sign in any more")
        return identity

    async def _current(self, request: Any) -> Account[I]:
        """Return the account of the current user.

        An integer key may belong to another user by now, so the proof must be the same as at the sign-in.

        Raises:
            NotSignedIn: if nobody is signed in, or the user is gone or has another proof.
            Refused: if the user is not signed in by a session.
        """
        self._port.check_session(request)
        key = self._port.current_key(request)
        if key is None:
            raise NotSignedIn("sign in first")
        account = await self.users.get(key)
        if not isinstance(account, Account) or not self._port.is_current(request, account):
            await self._port.do_delete(request)
            raise NotSignedIn(SIGN_IN_AGAIN)
        return account

    async def _first_password(self, request: Any, before: Account[I], params: Params) -> Account[I] | None:
        """Set the password of a user who has none yet; ``None`` if ``current_password`` must prove the change.

        The fresh sign-in is the proof, so somebody at an open browser with an older sign-in cannot set a password. This
        reads the session again, because it may have ended while the client was sending the request.
        """
        if params.get("password") in (None, "") or params.get("current_password") not in (None, ""):
            return None
        if not self._port.signed_in_recently(request):
            return None
        if not await self._port.recheck(request):
            raise NotSignedIn(SIGN_IN_AGAIN)
        return await self.users.set_first_password(before.key, params)

    async def _counted(self, request: Any, key: Key, params: Params | None, work: Callable[[], Awaitable[T]]) -> T:
        """Do ``work``, in which the users context checks ``current_password``, and count the attempt before it."""
        if params is None or params.get("current_password") in (None, ""):
            return await work()
        admission = await self.records.admit_current_password(request, key)
        try:
            done = await work()
        except InvalidParams as error:
            if "current_password" not in error.errors:
                await admission.undo()
            raise
        except NOT_COUNTED:
            await admission.undo()
            raise
        await admission.succeed()
        return done

    async def _before(
        self,
        flow: Flow,
        request: Any,
        key: Key | None = None,
        identity: I | None = None,
        params: Params | None = None,
    ) -> None:
        await self._before_step(Step(flow=flow, request=request, key=key, identity=identity, params=params))

    async def _before_step(self, step: Step[I]) -> None:
        if not self.hooks.runs_before(step.flow):
            return
        try:
            await self.hooks.before(step)
        except MoreNeeded:
            self._port.emit("second_factor_required", step.request, key=step.key, detail=step.flow)
            raise
        except Refused:
            self._port.emit("refused", step.request, key=step.key, detail=step.flow)
            raise

    async def _after(self, flow: Flow, request: Any, key: Key | None, identity: I | None) -> None:
        await self.hooks.after(Step(flow=flow, request=request, key=key, identity=identity))


async def _finish(diverted: list[Diversion[I]], account: Account[I]) -> None:
    """Call the extensions that have taken over a part of a flow. The rest of the flow is done."""
    for diversion in diverted:
        await diversion.finish(account)


def check_params(params: object) -> None:
    """Refuse params that are no mapping. A JSON body may be a list or ``null``.

    Raises:
        InvalidParams: if ``params`` is no mapping.
    """
    if not isinstance(params, Mapping):
        raise InvalidParams({"base": ["must be an object of fields"]})
