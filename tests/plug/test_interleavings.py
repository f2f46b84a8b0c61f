"""Every order of the steps of concurrent requests, on the real core; see `harness.interleavings`."""

import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import pytest

from harness.interleavings import (
    Core,
    explore,
    find_violation,
)
from harness.scenarios import SCENARIOS
from harness.support import CountingBackend, User
from powauth import CredentialsCache, SessionAuth
from powauth.backends.base import Backend, Millis, Record
from powauth.backends.lmdb import LMDBBackend
from powauth.backends.memory import MemoryBackend
from powauth.http.connection import Connection, Effects
from powauth.sessions.record import Session, decide, encode_id, expires_at, renewed

pytestmark = pytest.mark.untraced

BACKENDS: dict[str, Callable[[Path], Backend]] = {
    "memory": lambda _: MemoryBackend(),
    "lmdb": lambda path: LMDBBackend(path / "sessions", durable=False),
}
"""Any backend whose coroutines do not suspend can be added here."""


@pytest.mark.parametrize("engine", BACKENDS)
@pytest.mark.parametrize("name", SCENARIOS)
def test_no_order_of_steps_does_harm(name: str, engine: str, quick_path: Path, report: Callable[[str], None]) -> None:
    begun = time.perf_counter()
    found = explore(SCENARIOS[name], BACKENDS[engine](quick_path))
    seconds = time.perf_counter() - begun
    stand_for = f", one for each class of {found.stand_for}" if SCENARIOS[name].reduced else ""
    report(f"interleavings: {name} ({engine}): {found.orders} orders{stand_for}, {seconds:.1f} s")


@pytest.mark.parametrize("name", [name for name, scenario in SCENARIOS.items() if not scenario.reduced])
def test_one_order_of_each_class_finds_what_all_orders_find(name: str) -> None:
    """The reduction is sound: the classes hold all orders, and come to all that these come to."""
    every = explore(SCENARIOS[name], MemoryBackend())
    reduced = explore(replace(SCENARIOS[name], reduced=True), MemoryBackend())
    assert reduced.stand_for == every.orders
    assert reduced.outcomes == every.outcomes
    assert reduced.orders <= every.orders


# What is wrong with these is found


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


class ResendsUnseen(SessionAuth[User]):
    """Sends the current id again without looking whether it is alive."""

    async def _to_send(self, connection: Connection, state: Any) -> Session | None:
        if state.known.presented.generation < state.stored.session.generation:
            found: Session = state.stored.session
            return found
        return await super()._to_send(connection, state)


class SignsInUnseen(SessionAuth[User]):
    """Sends a new session's id without looking whether it is alive."""

    async def respond(self, connection: Connection, *, failed: bool = False) -> Effects:
        state = self._state(connection)
        if state.signed_in and state.stored is not None:
            return Effects(self.carrier.write(connection, encode_id(state.stored.session, self._mac)))
        return await super().respond(connection, failed=failed)


class RenewsEach(SessionAuth[User]):
    """The loser of a compare-and-set renews what the winner made."""

    async def _to_send(self, connection: Connection, state: Any) -> Session | None:
        stored, now = state.stored, self.now()
        while stored is not None:
            changed = renewed(stored.session, now, self.policy)
            if await self.store.update(stored, changed, expires_at(changed, self.policy), now):
                return changed
            stored = await self._read_again(stored.session.sid)
        return None


class KnowsNoGrace(SessionAuth[User]):
    """An id that has a successor opens nothing."""

    async def fetch(self, connection: Connection) -> User | None:
        user = await super().fetch(connection)
        state = self._state(connection)
        if state.stored is not None and state.known is not None:
            outcome = decide(state.stored.session, state.known.presented, self.now(), self.policy)
            if outcome.name == "RESEND":
                state.stored = None
                return None
        return user


class TrustsTheCheck(SessionAuth[User]):
    """Does not ask whether the password that was checked is still the one."""

    async def create(self, connection: Connection, user: User, *, proof: bytes | None = None) -> User | None:
        return await super().create(connection, user)


class TakesTheLatestEpochLate(SessionAuth[User]):
    """Takes an epoch that was read after the user for one that was read before."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.__dict__["_reads_once"] = True

    async def create(self, connection: Connection, user: User, *, proof: bytes | None = None) -> User | None:
        attempt = connection.states.get(self._attempt)
        if attempt is not None and attempt.epoch is not None:
            latest = await self.store.backend.latest_epoch(self.now())
            connection.states[self._attempt] = msgspec.structs.replace(attempt, epoch=latest)
        return await super().create(connection, user, proof=proof)


class SignsInTheCheckedUser(SessionAuth[User]):
    """Makes the session of the user that was checked, not of the one that is there once the epoch is known."""

    def _new_session(self, connection: Connection, key: str, user: User, now: Millis) -> Session:
        checked = next(row for row in self.users.written if row.id == user.id)  # type: ignore[attr-defined]
        return super()._new_session(connection, key, checked, now)


class LeavesThePresented(SessionAuth[User]):
    async def _replace_presented(self, *_: object) -> None:
        return None


class TrimsFirst(SessionAuth[User]):
    """Makes room for a session before it is made."""

    async def create(self, connection: Connection, user: User, *, proof: bytes | None = None) -> User | None:
        if self.max_sessions is not None:
            await super()._end_oldest(self.users.key(user), self.max_sessions - 1, self.now())
        return await super().create(connection, user, proof=proof)

    async def _end_oldest(self, *_: object) -> None:
        return None


class NeverAsksAgain(SessionAuth[User]):
    """With ``reload``, takes what the session holds."""

    async def _fetch_reloaded(self, connection: Connection, state: Any, stored: Any, user: User) -> User | None:
        state.stored = stored
        return user


class ReadsTheUserFirst(CredentialsCache):
    """Reads the user once, before the sessions' versions."""

    async def refresh(self, user_key: str, load: Callable[[], Awaitable[bytes | None]], now: Millis) -> int:
        snapshot = await load()

        async def same() -> bytes | None:
            return snapshot

        return await super().refresh(user_key, same, now)


class RefreshesWithoutEpoch(CredentialsCache):
    """Lets a sign-in that has read the user before a change land after its refresh."""

    async def epoch(self, user_key: str, now: Millis, *, advance: bool = False) -> int:
        return await super().epoch(user_key, now)


class RefreshesOnce(CredentialsCache):
    """Gives a session up that another writer has changed meanwhile."""

    async def refresh(self, user_key: str, load: Callable[[], Awaitable[bytes | None]], now: Millis) -> int:
        pending = await self.sessions(user_key, now)
        snapshot = await load()
        for stored in pending:
            if snapshot is not None:
                await self.update(
                    stored, msgspec.structs.replace(stored.session, user=snapshot), stored.expires_at, now
                )
        return len(pending)


BROKEN: Mapping[str, Core] = {
    **{
        wrap.__name__: Core(backend=wrap)
        for wrap in (IgnoresEpochs, UpdateCreates, UpdatesBlindly, KeepsNobody, KeepsAll, DeletesOnlyYoung)
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
            SignsInTheCheckedUser,
            LeavesThePresented,
            TrimsFirst,
            NeverAsksAgain,
        )
    },
    **{store.__name__: Core(store=store) for store in (ReadsTheUserFirst, RefreshesWithoutEpoch, RefreshesOnce)},
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
    ],
    "UpdateCreates": [
        "renewal and sign-out",
        "renewal and revoke-all",
        "renewal, sign-out, sign-in, late response",
        "renewal and sign-in in one browser",
        "sign-in, password change, a thief's renewal",
        "sign-out and snapshot refresh",
        "revoke of a device and its renewal",
    ],
    "UpdatesBlindly": [
        "renewal and user update",
        "two user updates",
        "metadata update and renewal",
        "two metadata updates and a request",
        "three guesses, two allowed",
    ],
    "KeepsNobody": ["revoke-others and renewal of the kept one"],
    "KeepsAll": ["sign-in and revoke-all", "sign-in and password change", "revoke-others and renewal of the kept one"],
    "DeletesOnlyYoung": ["two renewals and sign-out", "reload and deletion by the app"],
    "ResendsUnseen": ["two renewals and sign-out", "two renewals and revoke-all", "reload and deletion"],
    "SignsInUnseen": ["two sign-ins, at most one session"],
    "RenewsEach": ["two renewals", "three renewals", "renewal and the user's own update"],
    "KnowsNoGrace": [
        "two renewals, time passing in the grace",
        "two requests, and the id comes of age",
        "a slow request, two quick ones, each renews",
    ],
    "TrustsTheCheck": [
        "sign-in and password change, the user read again",
        "sign-in, password change, a thief's renewal",
        "sign-in, password change, a thief's renewal, the user read again",
    ],
    "TakesTheLatestEpochLate": [
        "sign-in and password change",
        "sign-in, password change, a thief's renewal",
        "sign-in and user update",
        "sign-in and deletion",
        "sign-in and lock",
    ],
    "SignsInTheCheckedUser": ["sign-in and user update"],
    "LeavesThePresented": ["renewal and sign-in in one browser", "two sign-ins in one browser"],
    "TrimsFirst": [
        "two sign-ins, at most one session",
        "three sign-ins, at most one session",
        "two sign-ins, at most two sessions",
    ],
    "NeverAsksAgain": ["reload and deletion by the app"],
    "ReadsTheUserFirst": ["two user updates", "two user updates and renewal"],
    "RefreshesWithoutEpoch": ["sign-in and user update"],
    "RefreshesOnce": ["renewal and user update", "two user updates"],
}
"""In which scenarios each of them shows: every scenario can fail."""


@pytest.mark.parametrize(("broken", "name"), [(broken, name) for broken, names in FOUND.items() for name in names])
def test_what_is_broken_is_found(broken: str, name: str) -> None:
    assert find_violation(SCENARIOS[name], MemoryBackend(), BROKEN[broken]) is not None


def test_every_scenario_can_fail() -> None:
    assert {name for names in FOUND.values() for name in names} == set(SCENARIOS)
    assert set(FOUND) == set(BROKEN)
