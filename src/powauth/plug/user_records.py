"""`StoredUserRecords`: counts attempts in the store, and makes sessions follow changes of accounts."""

from collections.abc import Callable, Mapping
from typing import Any

from powauth._running import uncancellable
from powauth.accounts.base import Account, UsersContext
from powauth.accounts.changes import CREATED
from powauth.accounts.identity import I, Key, key_text, stored_key
from powauth.accounts.records import Attempt, UserRecords
from powauth.accounts.throttle import UNCOUNTED, Admission, Counters
from powauth.backends.base import Millis
from powauth.errors import StoreUnavailable, Throttled
from powauth.http.connection import Connection
from powauth.plug.event_log import EventLog
from powauth.plug.subjects import Subjects
from powauth.sessions.manager import SessionManager
from powauth.sessions.record import Session


class StoredUserRecords(UserRecords[I]):
    """The sessions of users in one store, and the counters of their attempts in the same backend.

    Args:
        sessions: the sessions.
        counters: counts attempts. ``None`` counts nothing.
        subjects: writes accounts into sessions.
        users: reads accounts.
        events: emits them to the log and the app's listener.
        now: the time in milliseconds.
    """

    def __init__(
        self,
        sessions: SessionManager,
        counters: Counters | None,
        subjects: Subjects[I],
        users: UsersContext[Any, I],
        events: EventLog,
        now: Callable[[], Millis],
    ) -> None:
        self._sessions = sessions
        self._store = sessions.store
        self._counters = counters
        self._subjects = subjects
        self._users = users
        self._events = events
        self._now = now

    # --- attempts -----------------------------------------------------------------------------------------------------

    async def admit_sign_in(self, request: Connection, params: Mapping[str, object], *, waits: bool) -> Attempt:
        """See `UserRecords.admit_sign_in`. Takes one change of the store, if neither counter exists yet.

        It also reads the latest epoch of all users for `Signer.create`, whichever user the attempt is for. It does not
        if the store has no such epoch, or if the sign-in ``waits``.
        """
        admission, account = UNCOUNTED, None
        if self._counters is not None:
            account, source = await self._users.throttle_key(params), request.client_ip()
            try:
                admission = await self._counters.admit(self._store.backend, self._now, account=account, source=source)
            except Throttled as error:
                self._events.emit("throttled", request, detail=error.scope)
                raise
        begun = self._now()
        if waits:
            return Attempt(admission, begun, None, account)
        try:
            everyone = await self._sessions.epoch_of_everyone()
            return Attempt(admission, begun, await self._store.latest_epoch(begun), account, everyone)
        except StoreUnavailable:
            await admission.undo()
            raise

    async def admit_current_password(self, request: Connection, key: Key) -> Admission:
        """See `UserRecords.admit_current_password`."""
        if self._counters is None:
            return UNCOUNTED
        text = key_text(stored_key(key))
        try:
            return await self._counters.admit_current_password(self._store.backend, self._now, text)
        except Throttled as error:
            self._events.emit("throttled", request, user_key=stored_key(key), detail=error.scope)
            raise

    async def admit_second_factor(self, request: Connection, params: Mapping[str, object]) -> None:
        """See `UserRecords.admit_second_factor`."""
        account = None if self._counters is None else await self._users.throttle_key(params)
        if self._counters is None or account is None:
            return
        try:
            await self._counters.admit_second_factor(self._store.backend, self._now, account)
        except Throttled as error:
            self._events.emit("throttled", request, detail=error.scope)
            raise

    async def forget_failures(self, params: Mapping[str, object]) -> bool:
        """Reset an account's failed sign-ins; see `SessionAuth.forget_failures`."""
        account = None if self._counters is None else await self._users.throttle_key(params)
        return False if account is None else await self.forget_failures_of(account)

    async def forget_failures_of(self, counted_as: str) -> bool:
        """See `UserRecords.forget_failures_of`."""
        if self._counters is None:
            return False
        return await self._counters.forget(self._store.backend, counted_as, self._now())

    # --- sessions -----------------------------------------------------------------------------------------------------

    async def check_ready(self, key: Key) -> None:
        """See `UserRecords.check_ready`: one small read."""
        await self._store.epoch(stored_key(key), self._now())

    async def accept_proof(self, account: Account[I], proof: bytes) -> None:
        """See `UserRecords.accept_proof`: re-seal the user's records, so that they accept both proofs."""

        async def load() -> bytes:
            return proof

        def change(session: Session, proof: bytes) -> Session:
            return self._subjects.accepting(session, account, proof)

        await self._store.rewrite(stored_key(account.key), load, change, self._now())

    async def refresh(self, key: Key) -> None:
        """See `UserRecords.refresh`: merge the identity into the records of all of the user's sessions."""

        async def load() -> Account[I] | None:
            return await self._users.get(key)

        await self._store.rewrite(stored_key(key), load, self._subjects.merged, self._now())

    @uncancellable
    async def end_sessions(self, key: Key, why: str, keep: Session | None = None, request: Any = None) -> int:
        """See `UserRecords.end_sessions`."""
        emit, expected = self._events.about(request), why != CREATED
        return await self._sessions.end_all(stored_key(key), emit, why, keep=keep, expected=expected)
