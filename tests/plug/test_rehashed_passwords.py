"""A password whose hash is weak gets a stronger one at the sign-in. Nobody is signed out by that.

The proof in the records depends on the hash. So the user's sessions accept both proofs before the hash is written.
"""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec

from harness.small_users import WEAK_ROUNDS, Row, SmallUsers, Store
from harness.visits import PASSWORD, Client, SmallApp
from powauth import CredentialsCache, Hooks, Refused, Rehash, Step, StoreUnavailable
from powauth.backends.base import drive
from powauth.sessions.record import Session

ADA = "ada@example.org"
KEY = 1


class WeakUsers(SmallUsers):
    """One user with a weak hash. ``meanwhile`` runs before each hash is written."""

    def __init__(self) -> None:
        super().__init__(Store())
        self.store.rows[KEY] = Row(KEY, ADA, self.hashed(PASSWORD, WEAK_ROUNDS))
        self.store.last_key = KEY
        self.meanwhile: Callable[[], object] = lambda: None

    @property
    def ada(self) -> Row:
        return self.store.rows[KEY]

    def set_hash(self, password: str, rounds: int = WEAK_ROUNDS) -> None:
        """Change the hash as another program would."""
        self.store.rows[KEY] = replace(self.ada, password_hash=self.hashed(password, rounds))

    def rehash(self, row: Row, password: str) -> Rehash:
        rehash = super().rehash(row, password)

        async def write() -> bool:
            self.meanwhile()
            return await rehash.write()

        return Rehash(rehash.proof, write)


def reloading(users: WeakUsers, **options: Any) -> SmallApp:
    """An app that compares the proof at each request."""
    app = SmallApp(users=users)
    return SmallApp(users=users, store=CredentialsCache(app.backend, reload=True), **options)


def sessions(app: SmallApp) -> list[Session]:
    return [stored.session for stored in drive(app.auth.store.sessions(KEY, app.auth.now()))]


def signed_in(app: SmallApp) -> Client:
    client = app.client()
    client.sign_in()
    return client


def with_a_weak_hash(app: SmallApp, users: WeakUsers) -> Client:
    """A client that is signed in by a session from before the hash was to be made stronger."""
    needs, users.needs_rehash = users.needs_rehash, lambda row: False  # type: ignore[method-assign]
    client = signed_in(app)
    users.needs_rehash = needs  # type: ignore[method-assign]
    return client


def test_the_hash_is_stronger_after_the_sign_in() -> None:
    users = WeakUsers()
    app = SmallApp(users=users)
    weak = users.ada.password_hash
    client = signed_in(app)
    assert not users.needs_rehash(users.ada)
    assert users.ada.password_hash != weak
    assert client.who() == ADA
    assert signed_in(app).who() == ADA


def test_a_rehash_signs_nobody_out() -> None:
    users = WeakUsers()
    app = reloading(users)
    older = [with_a_weak_hash(app, users) for _ in range(2)]
    new = signed_in(app)
    assert [client.who() for client in (*older, new)] == [ADA] * 3
    assert "updated" not in app.event_names
    assert "revoked" not in app.event_names


def test_the_sessions_accept_both_proofs_before_the_hash_is_written() -> None:
    users = WeakUsers()
    app = reloading(users)
    older = with_a_weak_hash(app, users)
    seen: list[str | None] = []

    def look() -> None:
        (session,) = sessions(app)
        assert len(session.proofs) == 2
        seen.append(older.who())

    users.meanwhile = look
    new = signed_in(app)
    assert seen == [ADA]
    assert (older.who(), new.who()) == (ADA, ADA)


def test_a_rehash_that_was_never_written_leaves_the_old_proof_good() -> None:
    users = WeakUsers()
    app = reloading(users)
    older = with_a_weak_hash(app, users)

    def crash() -> None:
        raise StoreUnavailable("the database went away")

    users.meanwhile = crash
    reply = app.client().send(lambda auth: auth.sign_in(email=ADA, password=PASSWORD))
    assert reply.status == 503
    assert older.who() == ADA
    users.meanwhile = lambda: None
    new = signed_in(app)  # its stronger hash has another salt, so the record must forget the one never written
    assert (older.who(), new.who()) == (ADA, ADA)
    assert max(len(session.proofs) for session in sessions(app)) == 2


def test_a_session_of_another_proof_is_not_brought_back() -> None:
    users = WeakUsers()
    app = reloading(users)
    thief = with_a_weak_hash(app, users)
    users.set_hash("staple battery")  # by another program, which does not end the thief's session
    new = app.client()
    new.sign_in(password="staple battery")
    assert new.who() == ADA
    assert thief.who() is None


def test_a_new_proof_that_a_session_accepts_already_is_not_written_again() -> None:
    users = WeakUsers()
    app = reloading(users)
    older = with_a_weak_hash(app, users)
    account: Any = drive(users.authenticate({"email": ADA, "password": PASSWORD}))
    for _ in range(2):
        drive(app.auth.accounts.records.accept_proof(account, account.rehash.proof))
        versions = [stored.version for stored in drive(app.auth.store.sessions(KEY, app.auth.now()))]
        assert versions == [1]
    assert older.who() == ADA


def test_a_sign_in_whose_hash_was_changed_meanwhile_starts_over() -> None:
    users = WeakUsers()
    app = reloading(users)

    def change_once() -> None:
        users.meanwhile = lambda: None
        users.set_hash(PASSWORD)  # another process has written another hash of the same password

    users.meanwhile = change_once
    assert signed_in(app).who() == ADA
    assert not users.needs_rehash(users.ada)


def test_a_password_that_was_changed_during_the_sign_in_signs_nobody_in() -> None:
    users = WeakUsers()
    app = reloading(users)

    def change() -> None:
        users.set_hash("staple battery")

    users.meanwhile = change
    reply = app.client().send(lambda auth: auth.sign_in(email=ADA, password=PASSWORD))
    assert (reply.status, reply.result) == (200, None)
    assert sessions(app) == []
    assert app.event_names == ["sign_in_refused"]


def test_a_hash_that_changes_again_and_again_is_an_error_and_no_wrong_password() -> None:
    users = WeakUsers()
    app = reloading(users)
    users.meanwhile = lambda: users.set_hash(PASSWORD)
    reply = app.client().send(lambda auth: auth.sign_in(email=ADA, password=PASSWORD))
    assert reply.status == 503
    assert "sign_in_refused" not in app.event_names


def test_a_wrong_password_writes_nothing() -> None:
    users = WeakUsers()
    app = reloading(users)
    weak = users.ada.password_hash
    assert app.client().send(lambda auth: auth.sign_in(email=ADA, password="not this one")).result is None
    assert users.ada.password_hash == weak


def test_a_hook_that_refuses_the_sign_in_leaves_the_older_sessions_alive() -> None:
    users = WeakUsers()

    def refuse(step: Step[Any]) -> None:
        raise Refused("not today")

    app = reloading(users)
    older = with_a_weak_hash(app, users)
    strict = SmallApp(users=users, store=app.auth.store, hooks=Hooks(before_sign_in=refuse))
    assert strict.client().send(lambda auth: auth.sign_in(email=ADA, password=PASSWORD)).status == 403
    assert older.who() == ADA


def test_a_handler_that_changes_its_own_users_password_seals_its_session_again() -> None:
    users = WeakUsers()
    app = reloading(users)
    client, other = signed_in(app), signed_in(app)

    async def work(auth: Any) -> None:
        users.set_hash("staple battery")
        await auth.reseal()

    assert client.send(work).status == 200
    assert client.who() == ADA
    assert other.who() is None
    assert [len(session.proofs) for session in sessions(app)] == [1]
    proofs = msgspec.msgpack.encode(sessions(app)[0].proofs)
    assert str(users.ada.password_hash).encode() not in proofs, "proofs are keyed hashes, and no hash of a password"
