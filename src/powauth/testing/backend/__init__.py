"""The conformance suite for backends, including those that you write.

Subclass `BackendConformance` in your own tests and provide a method that makes a backend. pytest collects the rest::

    class TestMyBackend(BackendConformance):
        def make_backend(self) -> Backend:
            return MyBackend(prefix=self.namespace)

Override the other methods of `powauth.testing.backend.suite.Suite` if your engine supports them: another connection
(`second`), an engine that cannot be reached (`make_unreachable`), an engine that fails (`break_engine`). The tests of
unsupported methods are skipped with a message.

The suite uses pytest only to collect the tests: each test is a plain method with plain asserts. Do not run it under
``python -O``. No test waits for time to pass: the clock is an argument of the verbs. Records live for at least a
minute, so that an engine that expires records itself (after ``expires_at - now``) keeps them during a test.
"""

from powauth.testing.backend.abilities import AbilityTests
from powauth.testing.backend.administration import AdministrationTests
from powauth.testing.backend.concurrency import ConcurrencyTests
from powauth.testing.backend.content import ContentTests
from powauth.testing.backend.epochs import EpochTests
from powauth.testing.backend.faults import FaultTests
from powauth.testing.backend.interleavings import InterleavingTests
from powauth.testing.backend.owners import OwnerTests
from powauth.testing.backend.records import RecordTests
from powauth.testing.backend.suite import MINUTE, NOW, TTL, Scenario

__all__ = ["MINUTE", "NOW", "TTL", "BackendConformance", "Scenario"]


class BackendConformance(
    RecordTests,
    OwnerTests,
    EpochTests,
    AdministrationTests,
    ContentTests,
    AbilityTests,
    ConcurrencyTests,
    InterleavingTests,
    FaultTests,
):
    """Tests of everything that `powauth.backends.base.Backend` promises. Subclass it as ``Test…``.

    `powauth.testing.backend.suite.Suite` lists the attributes and methods to override.
    """
