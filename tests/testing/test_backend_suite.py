"""The backend suite itself: what it skips, and how it stops verbs."""

import asyncio
import gc
import inspect
import re
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from textwrap import dedent
from typing import Any
from unittest import SkipTest

import pytest

from harness.small_backend import SmallBackend
from harness.small_suites import AsyncSuite, NearSuite, PlacedSuite, SmallSuite, TransactionalSuite
from powauth.backends.base import Backend, Millis
from powauth.backends.wrapping import BackendWrapper
from powauth.testing import BackendConformance
from powauth.testing.backend.abilities import AbilityTests
from powauth.testing.backend.concurrency import ConcurrencyTests
from powauth.testing.backend.faults import FaultTests
from powauth.testing.stepping import Race, stepping


class BareSuite(SmallSuite):
    """The verbs and nothing else."""

    def make_backend(self) -> Backend:
        return Bare(super().make_backend())


class Bare(BackendWrapper):
    abilities = ()

    def __init__(self, inner: Backend) -> None:
        self.mode = inner.mode
        self._inner = inner

    def here(self) -> Backend:
        return self._inner


class PlainSuite(BackendConformance):
    """With what must be provided, and nothing else."""

    def make_backend(self) -> Backend:
        return SmallBackend()


def names_in(part: type[Any]) -> list[str]:
    return sorted(name for name in dir(part) if name.startswith("test_"))


def why_skipped(test: Callable[[], object]) -> str | None:
    try:
        test()
    except SkipTest as skipped:
        return str(skipped)
    return None


@pytest.mark.parametrize("name", names_in(AbilityTests))
def test_rep_64_no_test_of_an_ability_passes_where_the_ability_is_absent(name: str) -> None:
    why = why_skipped(getattr(BareSuite(), name))
    assert why is not None
    assert why.startswith("this backend ")


@pytest.mark.parametrize("name", names_in(AbilityTests))
def test_rep_64_each_test_of_an_ability_runs_where_the_ability_is_there(name: str) -> None:
    suites = [SmallSuite(), NearSuite(), TransactionalSuite(), PlacedSuite()]
    assert any(why_skipped(getattr(suite, name)) is None for suite in suites)


@pytest.mark.parametrize(
    ("part", "name", "missing"),
    [
        (ConcurrencyTests, "test_sto_06_a_second_connection_sees_each_change_at_once", "second"),
        (FaultTests, "test_rep_61_an_engine_out_of_reach_is_unavailable", "make_unreachable"),
        (FaultTests, "test_rep_61_an_engine_that_breaks_is_unavailable_until_it_is_mended", "break_engine"),
        (FaultTests, "test_a_verb_that_is_cancelled_leaves_a_backend_that_works", "async"),
    ],
)
def test_rep_64_a_test_is_skipped_where_the_suite_lacks_what_it_needs(part: type[Any], name: str, missing: str) -> None:
    assert name in names_in(part)
    assert missing in str(why_skipped(getattr(PlainSuite(), name)))
    assert why_skipped(getattr(AsyncSuite(), name)) is None


def test_pytest_reports_such_a_test_as_skipped(tmp_path: Path) -> None:
    program = """
        from powauth.backends.memory import MemoryBackend
        from powauth.testing import BackendConformance

        class TestMine(BackendConformance):
            def make_backend(self):
                return MemoryBackend()
    """
    (tmp_path / "test_mine.py").write_text(dedent(program))
    command = [sys.executable, "-m", "pytest", "-ra", "-p", "no:cacheprovider", "-k", "second_connection or read_back"]
    output = subprocess.run(command, cwd=tmp_path, check=True, capture_output=True, text=True).stdout
    assert "1 passed, 1 skipped" in output
    assert "this suite makes no second connection: override `second`" in output


def test_a_failed_test_says_at_which_step() -> None:
    class Forgetful(SmallBackend):
        async def update(self, record: Any, expected_version: int, now: Millis) -> bool:
            with self.command() as store:
                may = self.may_update(store, record, expected_version, now)
            with self.command() as store:
                if may:
                    self.put(store, record)
            return may

    suite: SmallSuite = type("Forgetfuls", (SmallSuite,), {"kind": Forgetful})()
    with pytest.raises(AssertionError) as caught:
        suite.test_no_step_of_an_update_revives_a_deleted_record()
    (note,) = caught.value.__notes__
    assert re.match(r"the first call was stopped at: \w+\.py:\d+, before", note)


@pytest.mark.parametrize("suite", [SmallSuite, AsyncSuite])
def test_a_verb_is_stopped_at_every_step_once_and_the_other_runs_meanwhile(suite: type[SmallSuite]) -> None:
    made = suite()
    made.patience = timedelta(minutes=1)  # the second verb waits for nobody: only a busy machine delays it
    rounds: list[str] = []

    async def scenario(backend: Backend) -> None:
        assert isinstance(backend, SmallBackend)

        async def prepare(owner: bytes) -> Race[int, int]:
            events: list[str] = []

            async def first() -> int:
                epoch = await backend.epoch(owner, 0)
                events.append("first")
                return epoch

            async def second() -> int:
                events.append("second")
                return 0

            async def check(_: int, __: int) -> None:
                assert sorted(events) == ["first", "second"]
                rounds.append(events[0])

            return Race(first, second, check)

        await made.at_each_step(backend, prepare)

    made.run(scenario)
    assert rounds[0] == "first"
    assert set(rounds[1:]) == {"second"}
    assert len(rounds) > 2


class Litter:
    """Garbage with a finalizer, which only a collection finds."""

    def __init__(self, found: list[bool]) -> None:
        self.itself = self
        self.found = found

    def __del__(self) -> None:
        self.found.append(True)


@pytest.mark.parametrize("is_enabled", [True, False])
def test_no_garbage_is_collected_in_a_stopped_verb(is_enabled: bool, request: pytest.FixtureRequest) -> None:
    found: list[bool] = []

    async def scenario(backend: Backend) -> None:
        async def prepare(owner: bytes) -> Race[list[bool], int]:
            async def first() -> list[bool]:
                Litter(found)
                await backend.epoch(owner, 0)
                return list(found)

            async def second() -> int:
                return 0

            async def check(found_in_first: list[bool], _: int) -> None:
                assert found_in_first == []
                gc.collect()
                found.clear()

            return Race(first, second, check)

        await SmallSuite().at_each_step(backend, prepare)

    threshold = gc.get_threshold()
    request.addfinalizer(lambda: gc.set_threshold(*threshold))
    request.addfinalizer(gc.enable)
    gc.set_threshold(1)
    if not is_enabled:
        gc.disable()
    SmallSuite().run(scenario)
    assert gc.isenabled() == is_enabled


@pytest.mark.parametrize("suite", [SmallSuite, AsyncSuite])
def test_a_verb_that_the_stopped_one_keeps_waiting_goes_on_after_it(suite: type[SmallSuite]) -> None:
    made = suite()

    async def scenario(backend: Backend) -> None:
        assert isinstance(backend, SmallBackend)
        waiting = 0

        async def prepare(owner: bytes) -> Race[int, int]:
            order: list[str] = []

            async def first() -> int:
                moved = await backend.epoch(owner, 0, advance=True)
                order.append("first")
                return moved

            async def second() -> int:
                moved = await backend.epoch(owner, 0, advance=True)
                order.append("second")
                return moved

            async def check(one: int, another: int) -> None:
                nonlocal waiting
                assert one != another
                waiting += order == ["first", "second"]

            return Race(first, second, check)

        await made.at_each_step(backend, prepare)
        # Once the second verb ran last on purpose. In threads the lock of the store kept it waiting, too.
        assert waiting > 1 if backend.mode == "inline" else waiting == 1

    made.run(scenario)


def test_an_error_of_a_verb_in_a_thread_is_the_tests_error() -> None:
    made = SmallSuite()

    async def scenario(backend: Backend) -> None:
        async def fails() -> int:
            raise LookupError("lost")

        async def check(_: int, __: int) -> None:
            raise AssertionError

        async def prepare(owner: bytes) -> Race[int, int]:
            return Race(lambda: backend.epoch(owner, 0), fails, check)

        with pytest.raises(LookupError, match="lost"):
            await made.at_each_step(backend, prepare)

    made.run(scenario)


def test_what_is_cancelled_between_two_steps_hears_of_it() -> None:
    heard: list[type[BaseException]] = []

    async def work() -> str:
        try:
            await asyncio.sleep(0)
        except asyncio.CancelledError as error:
            heard.append(type(error))
        return "done"

    async def between() -> None:
        raise asyncio.CancelledError

    async def main() -> str:
        return await stepping(work(), between)

    assert asyncio.run(main()) == "done"
    assert heard == [asyncio.CancelledError]


def test_every_test_of_the_suite_is_a_plain_method() -> None:
    for name, test in inspect.getmembers(BackendConformance, inspect.isfunction):
        if name.startswith("test_"):
            assert [*inspect.signature(test).parameters] == ["self"], name
            assert not inspect.iscoroutinefunction(test), name
