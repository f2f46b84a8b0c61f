"""TRM-05: a revocation of everyone, while a user who has no session yet is signing in."""

from typing import Any

import pytest

from harness.support import SECRET, Clock, CountingBackend, FakeConnection, Me, MemoryUsers, User
from powauth import RequestAuth, SessionAuth, StoreUnavailable
from powauth.accounts.records import Attempt
from powauth.accounts.service import Grant
from powauth.backends.base import drive
from powauth.backends.memory import MemoryBackend

ADA = {"email": "ada@example.org", "password": "correct horse"}


class Site:
    """An authenticator whose backend calls a function before each verb."""

    def __init__(self) -> None:
        self.users = MemoryUsers()
        self.users.add(ADA["email"], ADA["password"])
        self.backend = CountingBackend(MemoryBackend())
        self.auth: SessionAuth[User, Me] = SessionAuth(
            secret_key=SECRET, users=self.users, backend=self.backend, throttle=None, metadata=None, clock=Clock()
        )

    def sign_in(self) -> RequestAuth[User, Me]:
        bound = RequestAuth(self.auth, FakeConnection())
        drive(self.auth.call(bound.connection))
        drive(bound.sign_in(ADA))
        return bound

    def before(self, verb: str, work: Any) -> None:
        """Do ``work`` once, before the next call of ``verb``."""

        async def once(called: str) -> None:
            if called == verb:
                self.backend.before = None
                await work()

        self.backend.before = once

    def sessions(self) -> int:
        return drive(self.auth.store.count(self.auth.now()))


def test_trm_05_a_sign_in_that_began_before_it_makes_no_session_after_it() -> None:
    site = Site()
    calls = site.backend.calls
    site.before("create", site.auth.revoke_everyone)
    bound = site.sign_in()
    # The first session ended again. The user was read and proven anew, after the revocation.
    assert calls.count("create") == 2
    assert calls.count("delete") == 1
    assert site.sessions() == 1
    assert drive(bound.recheck())


def test_trm_05_without_a_second_try_there_is_no_session() -> None:
    site = Site()
    account = drive(site.users.find(ADA["email"]))
    assert account is not None
    connection = FakeConnection()
    drive(site.auth.call(connection))
    site.before("create", site.auth.revoke_everyone)
    once = Grant(attempt=Attempt(epoch=drive(site.auth.store.latest_epoch(site.auth.now()))), once=True)
    assert drive(site.auth.create(connection, account, once)) is None
    assert site.sessions() == 0


def test_trm_05_later_sign_ins_take_one_try() -> None:
    site = Site()
    drive(site.auth.revoke_everyone())
    site.sign_in()
    site.backend.calls.clear()
    site.sign_in()
    assert site.backend.calls.count("create") == 1
    assert "delete" not in site.backend.calls


@pytest.mark.parametrize("deletes", [True, False])
def test_trm_05_a_session_whose_revocation_cannot_be_read_is_not_kept(deletes: bool) -> None:
    site = Site()

    async def fail(verb: str) -> None:
        if (verb == "epoch" and "create" in site.backend.calls) or (verb == "delete" and not deletes):
            raise StoreUnavailable("down")

    site.backend.before = fail
    with pytest.raises(StoreUnavailable):
        site.sign_in()
    site.backend.before = None
    assert site.sessions() == int(not deletes)
