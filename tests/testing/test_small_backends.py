"""The backends that mutants are made of pass the suite: what catches a mutant is its fault."""

from harness.small_suites import AsyncSuite, NearAsyncSuite, NearSuite, SmallSuite


class TestSmall(SmallSuite):
    pass


class TestSmallAsync(AsyncSuite):
    pass


class TestNear(NearSuite):
    pass


class TestNearAsync(NearAsyncSuite):
    pass
