"""The program ``examples/users_service.py``, a users context over another service, passes the suite."""

import importlib.util
import re
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from harness.directory import Directory, served
from powauth.accounts.base import Account
from powauth.testing import UsersConformance
from powauth.testing.users import Users

PROGRAM = Path(__file__).parents[2] / "examples" / "users_service.py"


@pytest.fixture(scope="module")
def program() -> Iterator[Any]:
    spec = importlib.util.spec_from_file_location("users_service", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["users_service"] = module
    spec.loader.exec_module(module)
    yield module
    del sys.modules["users_service"]


class TestUsersOfAnotherService(UsersConformance):
    forbidden = {"team": "owners", "enabled": False}  # noqa: RUF012 - as in the suite

    @pytest.fixture(autouse=True)
    def _with_program(self, program: Any) -> Iterator[None]:
        self.kind = program.DirectoryUsers
        self.directory = Directory()
        with served(self.directory) as self.url:
            yield

    def make_users(self) -> Users:
        users: Users = self.kind(self.url)
        return users

    def second(self, users: Users) -> Users:
        return self.make_users()

    async def deactivate(self, users: Users, account: Account[Any]) -> None:
        self.person(account)["enabled"] = False

    async def stored(self, users: Users, account: Account[Any]) -> Mapping[str, object]:
        return dict(self.person(account))

    def hashing_work(self, users: Users) -> int:
        return self.directory.work

    async def break_database(self, users: Users) -> None:
        self.directory.broken = True

    async def mend_database(self, users: Users) -> None:
        self.directory.broken = False

    def person(self, account: Account[Any]) -> dict[str, Any]:
        return self.directory.people[str(account.key)]


def test_the_docs_show_this_program_and_its_suite(program: Any) -> None:
    text = PROGRAM.read_text()
    page = (PROGRAM.parents[1] / "docs" / "extending.md").read_text()
    assert f"```python\n# users_service.py: python users_service.py\n{text}```" in page
    (suite,) = re.findall(r"^```python\n(.*?class TestDirectoryUsers.*?)^```", page, re.DOTALL | re.MULTILINE)[-1:]
    names = dict(vars(program))
    exec(suite.rpartition("```python\n")[2], names)
    assert issubclass(names["TestDirectoryUsers"], UsersConformance)
