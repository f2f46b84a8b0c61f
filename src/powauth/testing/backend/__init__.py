"""The suite that every backend passes: ours, and one that you write.

Subclass `BackendConformance` in your own tests and provide a method that makes a backend. pytest collects the rest::

    class TestMyBackend(BackendConformance):
        def make_backend(self) -> Backend:
            return MyBackend(prefix=self.namespace)

Override the other methods of `powauth.testing.backend.suite.Suite` where your engine can do what they ask for: another
connection (`second`), an engine that cannot be reached (`make_unreachable`), an engine that fails (`break_engine`). The
tests of what your backend does not offer are skipped, and say so.

The suite needs nothing from pytest but its collecting: each test is a plain method with plain asserts. Do not run it
under ``python -O``. No test waits for time to pass: the clock is an argument of the verbs. Records live for a minute at
least, so that an engine with an expiry of its own (told ``expires_at - now``) keeps them during a test.
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
    """What `powauth.backends.base.Backend` promises, sentence by sentence. Subclass it as ``Test…``.

    `powauth.testing.backend.suite.Suite` lists the attributes and methods to override.
    """
