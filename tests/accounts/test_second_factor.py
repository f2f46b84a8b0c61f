"""A second factor that a hook asks for: guesses at it are counted, as guesses at the password are."""

import pytest

from harness.support import SECRET, FakeConnection, MemoryUsers, User
from powauth import Hooks, Limit, Refused, SessionAuth, Step, Throttle, Throttled
from powauth.backends.base import drive
from powauth.backends.memory import MemoryBackend


def test_aut_03_a_right_password_buys_no_unlimited_guesses_at_a_second_factor() -> None:
    def second_factor(step: Step[User]) -> None:
        if step.connection.header("x-code") != "123456":
            raise Refused("the code is wrong")

    users = MemoryUsers()
    users.add("ada@example.com")
    auth = SessionAuth(
        secret_key=SECRET,
        users=users,
        backend=MemoryBackend(),
        hooks=Hooks(before_sign_in=second_factor),
        throttle=Throttle(per_account=Limit(3, 900)),
    )
    params = {"email": "ada@example.com", "password": "correct horse"}
    for code in ("000000", "000001", "000002"):
        with pytest.raises(Refused):
            drive(auth.authenticate_user(FakeConnection(x_code=code), params))
    with pytest.raises(Throttled):
        drive(auth.authenticate_user(FakeConnection(x_code="123456"), params))
