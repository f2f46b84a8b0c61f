"""Mutants, which are implementations with one planted fault each, and the test of a published suite that must fail."""

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar
from unittest import SkipTest

T = TypeVar("T", bound=type[Any])

RUNS = 3
"""How often a suite must catch each mutant: every time."""


@dataclass(frozen=True)
class Mutant:
    """One planted fault.

    Attributes:
        name: Of the class.
        wrong: What is wrong with it, in one line.
        suite: Makes the suite on the mutant. pytest, too, makes one for each test.
        caught_by: The test that catches it.
    """

    name: str
    wrong: str
    suite: Callable[[], object]
    caught_by: str

    def __str__(self) -> str:
        return self.name

    def is_caught(self) -> bool:
        """Run the test; return whether an assertion of it fails.

        A test that is skipped catches nothing. Any other error than that of an assertion is one of the mutant itself.
        """
        test = getattr(self.suite(), self.caught_by)
        try:
            test()
        except SkipTest as skipped:
            raise AssertionError(f"{self.caught_by} is skipped: {skipped}") from None
        except AssertionError:
            return True
        return False


SuiteOf = Callable[[type[Any]], Callable[[], object]]
"""Gives, for a mutant, what makes the suite on it."""


class Mutants:
    """A list of mutants, filled by a decorator.

    Args:
        suites: The suite on a mutant, by the name of the variant. Each mutant is tested in each variant.
    """

    def __init__(self, **suites: SuiteOf) -> None:
        self.all: list[Mutant] = []
        self._suites = suites

    def caught_by(self, test: str, **suites: SuiteOf) -> Callable[[T], T]:
        """Add a class, whose docstring says what is wrong with it."""

        def add(mutant: T) -> T:
            wrong = inspect.getdoc(mutant)
            assert wrong is not None
            assert "\n" not in wrong
            for variant, suite_of in (suites or self._suites).items():
                self.all.append(Mutant(f"{mutant.__name__}-{variant}", wrong, suite_of(mutant), test))
            return mutant

        return add


def assert_caught(mutant: Mutant) -> None:
    """Check that the suite catches a mutant in each of several runs."""
    caught = [mutant.is_caught() for _ in range(RUNS)]
    assert all(caught), (
        f"{mutant.caught_by} let {mutant.name} pass in {caught.count(False)} of {RUNS} runs: {mutant.wrong}"
    )
