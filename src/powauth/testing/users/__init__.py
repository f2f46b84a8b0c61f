"""The suite that every users context passes: ours, and one that you write.

Subclass `UsersConformance` in your own tests and provide a method that makes a context. pytest collects the rest::

    class TestMyUsers(UsersConformance):
        def make_users(self) -> UsersContext[MyUser, Me]:
            return MyUsers(directory=self.name)

Override the other methods of `powauth.testing.users.suite.Suite` where your context can do what they ask for: lock a
user, remove a password, count the work of hashing, break the database. The tests of what your context does not offer
are skipped, and say so.

The suite needs nothing from pytest but its collecting: each test is a plain method with plain asserts. Do not run it
under ``python -O``. No test waits for time to pass, and none measures it.
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
    """What `powauth.accounts.base.UsersContext` promises, sentence by sentence. Subclass it as ``Test…``.

    `powauth.testing.users.suite.Suite` lists the attributes and methods to override.
    """
