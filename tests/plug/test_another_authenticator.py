"""An `Authenticator` that is not the session plug: three methods are enough, and the flows of accounts work over it."""

from collections.abc import Callable
from typing import Any

import pytest

from harness.small_users import WEAK_ROUNDS, Row, SmallUsers, Store
from harness.support import FakeConnection, Me, MemoryUsers, User
from harness.visits import PASSWORD
from powauth import Account, Authenticator, ConfigError, Hooks, MoreNeeded, RequestAuth, Step
from powauth.accounts.service import AS_BEFORE, Grant
from powauth.backends.base import drive
from powauth.http.connection import NO_EFFECTS, Connection

ADA = "ada@example.org"
RIGHT = {"email": ADA, "password": PASSWORD}


class HeaderAuth(Authenticator[User, Me]):
    """A trusted proxy says in a header who the user is. A sign-in notes it on the connection."""

    async def fetch(self, connection: Connection) -> Me | None:
        account = await self.users.find(connection.header("x-user"))
        return None if account is None else account.identity

    async def create(self, connection: Connection, account: Account[Me], grant: Grant = AS_BEFORE) -> Account[Me]:
        del connection, grant
        return account

    async def delete(self, connection: Connection) -> None:
        del connection


@pytest.fixture
def auth() -> HeaderAuth:
    users = MemoryUsers()
    users.add(ADA, PASSWORD)
    return HeaderAuth(users)


def bound(auth: HeaderAuth, **headers: str) -> RequestAuth[User, Me]:
    connection = FakeConnection(None, **headers)
    assert not auth.call_at_once(connection)
    drive(auth.call(connection))
    return RequestAuth(auth, connection)


def email_of(request: RequestAuth[User, Me]) -> str | None:
    return None if request.identity is None else request.identity.email


def test_a_request_is_whose_the_authenticator_says(auth: HeaderAuth) -> None:
    assert email_of(bound(auth, x_user=ADA)) == ADA
    assert email_of(bound(auth)) is None


def test_a_user_that_is_assigned_already_is_kept(auth: HeaderAuth) -> None:
    request = bound(auth, x_user=ADA)
    assert isinstance(request.connection, FakeConnection)
    request.connection.headers.clear()
    drive(auth.call(request.connection))
    assert email_of(request) == ADA


def test_the_flows_of_accounts_work_over_it(auth: HeaderAuth) -> None:
    request = bound(auth)
    assert drive(request.sign_in(RIGHT | {"password": "not this one"})) is None
    assert drive(request.sign_in(RIGHT)) == request.identity
    assert email_of(request) == ADA
    assert drive(request.update_user(current_password=PASSWORD, name="Ada L.")).name == "Ada L."
    assert drive(request.update_user(current_password=PASSWORD, password="staple battery")).email == ADA
    drive(request.sign_out())
    assert request.identity is None
    drive(request.register(email="bob@example.org", password=PASSWORD))
    assert email_of(request) == "bob@example.org"
    drive(request.delete_user(current_password=PASSWORD))
    assert request.identity is None


def test_the_apps_own_code_works_over_it(auth: HeaderAuth) -> None:
    account = drive(auth.users.find(ADA))
    assert account is not None
    assert drive(auth.update_account(account.key, name="Ada L.")).name == "Ada L."
    assert drive(auth.update_account(account, password="staple battery")).email == ADA
    assert drive(auth.credentials_changed(account.identity)) == 0
    assert drive(auth.delete_account(account.key)) is True


def test_a_response_carries_nothing_of_it(auth: HeaderAuth) -> None:
    connection = bound(auth).connection
    assert auth.is_due(connection)
    assert drive(auth.respond(connection)) == NO_EFFECTS


def test_a_lasting_connection_is_asked_again(auth: HeaderAuth) -> None:
    request = bound(auth, x_user=ADA)
    assert drive(request.recheck())
    assert not auth.is_expired(request.connection)
    drive(auth.delete_account(request.require_user().id))
    assert not drive(request.recheck())


@pytest.mark.parametrize(
    ("connection", "presented"),
    [
        (FakeConnection(), False),
        (FakeConnection(["theme=dark"]), True),
        (FakeConnection(origin="https://app.example"), True),
    ],
)
def test_what_a_browser_may_have_added_is_taken_for_presented(
    auth: HeaderAuth, connection: FakeConnection, presented: bool
) -> None:
    assert auth.is_presented(connection) is presented
    assert auth.is_ambient(connection)


@pytest.mark.parametrize(
    "work",
    [
        lambda request: request.session,
        lambda request: request.access_token,
        lambda request: drive(request.sessions()),
    ],
)
def test_it_keeps_no_sessions_and_says_so(auth: HeaderAuth, work: Callable[[Any], object]) -> None:
    with pytest.raises(ConfigError, match="HeaderAuth keeps no sessions; use a SessionAuth"):
        work(bound(auth, x_user=ADA))


def test_a_second_factor_is_asked_for_over_it_too() -> None:
    def ask(step: Step[Me]) -> None:
        raise MoreNeeded(["code"])

    users = MemoryUsers()
    users.add(ADA, PASSWORD)
    request = bound(HeaderAuth(users, hooks=Hooks(before_sign_in=ask)))
    with pytest.raises(MoreNeeded):
        drive(request.sign_in(RIGHT))
    assert request.identity is None


def test_a_weak_hash_is_made_stronger_over_it_too() -> None:
    users: Any = SmallUsers(Store())
    users.store.rows[1] = Row(1, ADA, users.hashed(PASSWORD, WEAK_ROUNDS))
    request = bound(HeaderAuth(users))
    assert drive(request.sign_in(RIGHT)) is not None
    assert not users.needs_rehash(users.store.rows[1])
