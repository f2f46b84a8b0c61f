"""The conformance suite for users contexts, including those that you write.

Subclass `UsersConformance` in your own tests and provide a method that makes a context. pytest collects the rest::

    class TestMyUsers(UsersConformance):
        def make_users(self) -> UsersContext[MyUser, Me]:
            return MyUsers(directory=self.name)

Override the other methods of `powauth.testing.users.suite.Suite` if your context supports them: lock a user, remove a
password, count the work of hashing, break the database. The tests of unsupported methods are skipped with a message.

The suite uses pytest only to collect the tests: each test is a plain method with plain asserts. Do not run it under
``python -O``. No test waits for time to pass, and none measures time.
"""

from powauth.testing.users.accounts import AccountTests
from powauth.testing.users.changes import ChangeTests
from powauth.testing.users.faults import FaultTests
from powauth.testing.users.races import RaceTests
from powauth.testing.users.registration import RegistrationTests
from powauth.testing.users.sign_in import SignInTests
from powauth.testing.users.suite import BETTER, GOOD, HOSTILE, Users

__all__ = ["BETTER", "GOOD", "HOSTILE", "Users", "UsersConformance"]


class UsersConformance(
    RegistrationTests,
    SignInTests,
    AccountTests,
    ChangeTests,
    RaceTests,
    FaultTests,
):
    """Tests of everything that `powauth.accounts.base.UsersContext` promises. Subclass it as ``Test…``.

    `powauth.testing.users.suite.Suite` lists the attributes and methods to override.
    """
