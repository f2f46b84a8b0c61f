"""The core with one planted fault at a time, and the scenarios that must detect it."""

from collections.abc import Mapping
from typing import Any

import msgspec

from harness.interleavings import Core
from harness.support import CountingBackend, Me, User
from powauth import Account, CredentialsCache, SessionAuth
from powauth.accounts.service import AS_BEFORE, Grant
from powauth.backends.base import Millis, Record
from powauth.http.connection import Connection
from powauth.sessions.ids import PresentedId
from powauth.sessions.manager import Emit
from powauth.sessions.presence import Recognized
from powauth.sessions.recognition import NO_ID
from powauth.sessions.record import Outcome, Session, StoredKey, Subject, expires_at, renewed
from powauth.sessions.store import Stored


class IgnoresEpochs(CountingBackend):
    """A sign-in that a revocation has overtaken lands all the same."""

    async def create(self, record: Record, epoch: int | None, now: Millis) -> bool:
        return await super().create(record, None, now)


class UpdateCreates(CountingBackend):
    async def update(self, record: Record, expected_version: int, now: Millis) -> bool:
        return await super().update(record, expected_version, now) or await super().create(record, None, now)


class UpdatesBlindly(CountingBackend):
    """The last writer wins."""

    async def update(self, record: Record, expected_version: int, now: Millis) -> bool:
        held = await self.inner.get(record.key, now)
        if held is None:
            return False
        return await super().update(msgspec.structs.replace(record, version=held.version + 1), held.version, now)


class KeepsNobody(CountingBackend):
    async def delete_owner(self, owner: bytes, now: Millis, keep: bytes | None = None) -> int:
        return await super().delete_owner(owner, now)


class KeepsAll(CountingBackend):
    async def delete_owner(self, owner: bytes, now: Millis, keep: bytes | None = None) -> int:
        return 0


class DeletesOnlyYoung(CountingBackend):
    """A record that has been changed stays."""

    async def delete(self, key: bytes, now: Millis) -> bool:
        held = await self.inner.get(key, now)
        return held is not None and held.version == 0 and await super().delete(key, now)


class DeletesTwice(CountingBackend):
    """Tells everybody that they were the one who deleted a record."""

    async def delete(self, key: bytes, now: Millis) -> bool:
        await super().delete(key, now)
        return True


class ResendsUnseen(SessionAuth[User, Me]):
    """Sends the current id again without looking whether it is alive."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        carry_on = self.sessions.carry_on

        async def broken(
            stored: Stored, presented: PresentedId, emit: Emit, *, proven: bool
        ) -> tuple[Stored, Session | None]:
            if presented.generation < stored.session.generation:
                return stored, stored.session
            return await carry_on(stored, presented, emit, proven=proven)

        self.sessions.carry_on = broken  # type: ignore[method-assign]


class SignsInUnseen(SessionAuth[User, Me]):
    """Sends a new session's id without looking whether it is alive."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)

        async def broken(session: Session, emit: Emit) -> bool:
            del session, emit
            return True

        self.sessions.seen_alive = broken  # type: ignore[method-assign]


class RenewsEach(SessionAuth[User, Me]):
    """The loser of a compare-and-set renews what the winner made."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)

        async def broken(
            stored: Stored, presented: PresentedId, emit: Emit, *, proven: bool
        ) -> tuple[Stored, Session | None]:
            del presented, emit, proven
            found: Stored | None = stored
            while found is not None:
                now = self.now()
                changed = renewed(found.session, now, self.policy)
                done = await self.store.update(found, changed, expires_at(changed, self.policy), now)
                if done is not None:
                    return done, changed
                found = await self.store.get_fresh(found.session.sid, now)
            return stored, None

        self.sessions.carry_on = broken  # type: ignore[method-assign]


class ForgetsThePause(SessionAuth[User, Me]):
    """Renews the session of a user who was away as if they had not been."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        carry_on = self.sessions.carry_on

        async def broken(
            stored: Stored, presented: PresentedId, emit: Emit, *, proven: bool
        ) -> tuple[Stored, Session | None]:
            resumed_at = stored.session.resumed_at
            done, sent = await carry_on(stored, presented, emit, proven=proven)
            forgotten = msgspec.structs.replace(done.session, resumed_at=resumed_at)
            again = await self.store.update(done, forgotten, done.expires_at, self.now())
            return again or done, sent

        self.sessions.carry_on = broken  # type: ignore[method-assign]


class ForgetsTheFlag(SessionAuth[User, Me]):
    """A step-up makes an ordinary session of a remembered one."""

    async def create(
        self, connection: Connection, account: Account[Me], grant: Grant = AS_BEFORE
    ) -> Account[Me] | None:
        remember = bool(grant.remember)
        return await super().create(connection, account, msgspec.structs.replace(grant, remember=remember))


class AnswersByCookie(SessionAuth[User, Me]):
    """Gives a program a cookie in the place of its token."""

    async def create(
        self, connection: Connection, account: Account[Me], grant: Grant = AS_BEFORE
    ) -> Account[Me] | None:
        bearer = bool(grant.bearer)
        return await super().create(connection, account, msgspec.structs.replace(grant, bearer=bearer))


class OnlyRejects(SessionAuth[User, Me]):
    """Leaves a session alive whose old id came back."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options, on_reuse="reject")


class KnowsNoGrace(SessionAuth[User, Me]):
    """An id that has a successor opens nothing."""

    def call_at_once(self, connection: Connection) -> bool:
        del connection
        return False

    async def fetch(self, connection: Connection) -> Me | None:
        identity = await super().fetch(connection)
        presence = self._reader.presence(connection)  # no public name says what was decided
        if isinstance(presence, Recognized) and presence.outcome is Outcome.RESEND:
            self._reader.set_presence(connection, NO_ID)
            return None
        return identity


class TrustsTheCheck(SessionAuth[User, Me]):
    """Does not ask whether the password that was checked is still the one."""

    async def do_create(self, connection: Connection, account: Account[Me], grant: Grant = AS_BEFORE) -> Me | None:
        return await super().do_create(connection, account, msgspec.structs.replace(grant, same_proof=False))


class TakesTheLatestEpochLate(SessionAuth[User, Me]):
    """Takes an epoch that was read after the user for one that was read before."""

    async def create(
        self, connection: Connection, account: Account[Me], grant: Grant = AS_BEFORE
    ) -> Account[Me] | None:
        attempt = grant.attempt
        if attempt is not None and attempt.epoch is not None:
            latest = await self.store.latest_epoch(self.now())
            grant = msgspec.structs.replace(grant, attempt=msgspec.structs.replace(attempt, epoch=latest))
        return await super().create(connection, account, grant)


class SignsInTheCheckedUser(SessionAuth[User, Me]):
    """Makes the session of the user that was checked, not of the one that is there once the epoch is known."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        begin = self.sessions.begin

        async def broken(subject: Subject, *arguments: Any, **named: Any) -> tuple[Stored | None, int]:
            checked = next(me for me in options["users"].written if me.id == subject.user_key)
            old = msgspec.structs.replace(subject, identity=msgspec.msgpack.encode(checked))
            return await begin(old, *arguments, **named)

        self.sessions.begin = broken  # type: ignore[method-assign]


class LeavesThePresented(SessionAuth[User, Me]):
    async def create(
        self, connection: Connection, account: Account[Me], grant: Grant = AS_BEFORE
    ) -> Account[Me] | None:
        await self.fetch(connection)
        self._reader.set_presence(connection, NO_ID)  # no public name lets a request forget what it presented
        return await super().create(connection, account, grant)


class TrimsFirst(SessionAuth[User, Me]):
    """Makes room for a session before it is made."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)

        async def broken(user_key: StoredKey, emit: Emit) -> None:
            del user_key, emit

        self.sessions.end_oldest = broken  # type: ignore[method-assign]

    async def create(
        self, connection: Connection, account: Account[Me], grant: Grant = AS_BEFORE
    ) -> Account[Me] | None:
        if self.sessions.max_sessions is not None:
            for extra in (await self.store.sessions(str(account.key), self.now()))[self.sessions.max_sessions - 1 :]:
                await self.store.delete(extra.session.sid, self.now())
        return await super().create(connection, account, grant)


class NeverAsksAgain(SessionAuth[User, Me]):
    """With ``reload``, takes what the session holds."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)

        async def broken(connection: Connection, stored: Stored, *, merge: bool) -> tuple[Stored, Me]:
            del connection, merge
            return stored, msgspec.msgpack.decode(stored.session.identity, type=Me)

        self._reader.check_proof = broken  # type: ignore[method-assign]  # no public name stands between


class ForgetsEveryone(CredentialsCache):
    """Lets a sign-in that began before a revocation of everyone begin a session after it."""

    async def epoch_of_everyone(self, now: Millis, *, advance: bool = False) -> int:
        return await super().epoch_of_everyone(now, advance=True) if advance else 0


class AdvancesEveryoneLate(SessionAuth[User, Me]):
    """Looks for sessions first, and then lets no sign-in in flight begin one."""

    async def revoke_everyone(self) -> int:
        ended = 0
        async for key in self.store.users(self.now()):
            ended += await self.store.delete_sessions(key, self.now())
        await self.store.epoch_of_everyone(self.now(), advance=True)
        return ended


class ReadsTheUserFirst(CredentialsCache):
    """Reads the user once, before the sessions' versions."""

    async def rewrite(self, user_key: StoredKey, load: Any, change: Any, now: Millis) -> int:
        loaded = await load()

        async def same() -> Any:
            return loaded

        return await super().rewrite(user_key, same, change, now)


class RefreshesWithoutEpoch(CredentialsCache):
    """Lets a sign-in that has read the user before a change land after its refresh."""

    async def epoch(self, user_key: StoredKey, now: Millis, *, advance: bool = False) -> int:
        return await super().epoch(user_key, now)


class RefreshesOnce(CredentialsCache):
    """Gives a session up that another writer has changed meanwhile."""

    async def rewrite(self, user_key: StoredKey, load: Any, change: Any, now: Millis) -> int:
        pending = await self.sessions(user_key, now)
        loaded = await load()
        for stored in pending:
            if loaded is not None:
                await self.update(stored, change(stored.session, loaded), stored.expires_at, now)
        return len(pending)


BROKEN: Mapping[str, Core] = {
    **{
        wrap.__name__: Core(backend=wrap)
        for wrap in (
            IgnoresEpochs,
            UpdateCreates,
            UpdatesBlindly,
            KeepsNobody,
            KeepsAll,
            DeletesOnlyYoung,
            DeletesTwice,
        )
    },
    **{
        auth.__name__: Core(auth=auth)
        for auth in (
            ResendsUnseen,
            SignsInUnseen,
            RenewsEach,
            KnowsNoGrace,
            TrustsTheCheck,
            TakesTheLatestEpochLate,
            AdvancesEveryoneLate,
            SignsInTheCheckedUser,
            LeavesThePresented,
            TrimsFirst,
            NeverAsksAgain,
            ForgetsThePause,
            ForgetsTheFlag,
            AnswersByCookie,
            OnlyRejects,
        )
    },
    **{
        store.__name__: Core(store=store)
        for store in (ReadsTheUserFirst, RefreshesWithoutEpoch, RefreshesOnce, ForgetsEveryone)
    },
}

FOUND: Mapping[str, list[str]] = {
    "IgnoresEpochs": [
        name + how
        for name in (
            "sign-in and revoke-all",
            "sign-in and password change",
            "sign-in and user update",
            "sign-in and deletion",
            "sign-in and lock",
        )
        for how in ("", ", the user read again")
    ]
    + [
        "cookie, token, and revoke-all",
        "token, cookie, and revoke-all",
        "sign-in and deletion, with an extension",
        "sign-in and password change, with an extension",
        "a pass and a change of password",
        "a pass and deletion",
    ],
    "UpdateCreates": [
        "renewal and sign-out",
        "renewal and revoke-all",
        "renewal, sign-out, sign-in, late response",
        "renewal and sign-in in one browser",
        "sign-in, password change, a thief's renewal",
        "sign-out and refresh of identities",
        "revoke of a device and its renewal",
        "return and sign-out",
        "return and revoke-all",
        "two returns and revoke-all",
        "return and password change",
        "a program's renewal and sign-out",
        "a program's renewal and password change",
    ],
    "UpdatesBlindly": [
        "renewal and user update",
        "two user updates",
        "metadata update and renewal",
        "two metadata updates and a request",
        "three guesses, two allowed",
        "return and user update",
    ],
    "KeepsNobody": ["revoke-others and renewal of the kept one"],
    "KeepsAll": ["sign-in and revoke-all", "sign-in and password change", "revoke-others and renewal of the kept one"],
    "DeletesOnlyYoung": ["two renewals and sign-out", "reload and deletion by the app", "two returns and sign-out"],
    "DeletesTwice": ["a pass taken twice"],
    "ResendsUnseen": [
        "two renewals and sign-out",
        "two renewals and revoke-all",
        "reload and deletion",
        "two returns and sign-out",
        "two returns and revoke-all",
    ],
    "SignsInUnseen": ["two sign-ins, at most one session"],
    "RenewsEach": [
        "two renewals",
        "three renewals",
        "renewal and the user's own update",
        "two returns",
        "three returns",
        "two renewals of a token and a request with a cookie",
    ],
    "KnowsNoGrace": [
        "two renewals, time passing in the grace",
        "two requests, and the id comes of age",
        "a slow request, two quick ones, each renews",
    ],
    "TrustsTheCheck": [
        "sign-in and password change, the user read again",
        "sign-in, password change, a thief's renewal",
        "sign-in, password change, a thief's renewal, the user read again",
        "a pass and a change of password",
    ],
    "TakesTheLatestEpochLate": [
        "sign-in and password change",
        "sign-in, password change, a thief's renewal",
        "sign-in and user update",
        "sign-in and deletion",
        "sign-in and lock",
    ],
    "SignsInTheCheckedUser": ["sign-in and user update"],
    "LeavesThePresented": [
        "renewal and sign-in in one browser",
        "two sign-ins in one browser",
        "step-up and renewal",
        "step-up and return",
        "step-up, return and sign-out",
        "a cookie and a token at once",
        "cookie, token, and revoke-all",
    ],
    "TrimsFirst": [
        "two sign-ins, at most one session",
        "three sign-ins, at most one session",
        "two sign-ins, at most two sessions",
    ],
    "NeverAsksAgain": [
        "reload and deletion by the app",
        "two returns and a foreign password change",
        "return and a foreign lock",
    ],
    "ForgetsThePause": ["two returns", "return and user update"],
    "ForgetsTheFlag": ["step-up and renewal", "step-up and return"],
    "AnswersByCookie": ["a program's renewal and password change"],
    "OnlyRejects": ["a restored backup and the browser itself"],
    "ReadsTheUserFirst": ["two user updates", "two user updates and renewal"],
    "RefreshesWithoutEpoch": ["sign-in and user update"],
    "ForgetsEveryone": [
        "sign-in and revoke-everyone",
        "sign-in and revoke-everyone, the user read again",
        "sign-in and two of revoke-everyone",
    ],
    "AdvancesEveryoneLate": ["sign-in and revoke-everyone", "sign-in and revoke-everyone, the user read again"],
    "RefreshesOnce": ["renewal and user update", "two user updates", "return and user update"],
}
"""In which scenarios each of them shows: every scenario can fail."""
