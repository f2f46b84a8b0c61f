"""The backends that mutants are made of pass the suite: what catches a mutant is its fault."""

from harness.small_suites import (
    AsyncSuite,
    NearAsyncSuite,
    NearSuite,
    PlacedSuite,
    SmallSuite,
    TransactionalSuite,
)


class TestSmall(SmallSuite):
    pass


class TestSmallAsync(AsyncSuite):
    pass


class TestTransactional(TransactionalSuite):
    pass


class TestPlaced(PlacedSuite):
    pass


class TestNear(NearSuite):
    pass


class TestNearAsync(NearAsyncSuite):
    pass
