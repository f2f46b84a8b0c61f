"""`powauth._forks`: a child is told once, before its first use, however it was forked."""

import mmap
import subprocess
import sys
import threading
from collections.abc import Callable

import pytest

from harness.forks import BOTH, children, fork_in_c, fork_in_python, in_children, needs_fork
from harness.lmdb_processes import _in_fork, in_process
from powauth import _forks  # the module that the connections of all stores ask has no public name

pytestmark = needs_fork

Fork = Callable[[], int]


class Holder:
    """Something that a fork must not share."""

    def __init__(self) -> None:
        self.releases = 0
        _forks.on_fork(self, Holder.release)

    def release(self) -> None:
        self.releases += 1


@pytest.fixture(params=["wiped page", "process id"], autouse=True)
def way(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Each test runs both ways. The module chooses one of them at import, so the other needs its private name."""
    if request.param == "process id":
        monkeypatch.setattr(_forks, "_page", None)
    elif _forks._page is None:  # as the docstring says
        pytest.skip("this system has no page that it wipes in children (MADV_WIPEONFORK)")
    return str(request.param)


@BOTH
def test_a_child_releases_once_before_its_first_use(fork: Fork) -> None:
    holder = Holder()

    def child(_: int) -> tuple[int, int]:
        _forks.check()
        first = holder.releases
        _forks.check()
        return first, holder.releases

    assert in_children(child, fork, 3) == [(1, 1)] * 3
    _forks.check()
    assert holder.releases == 0, "the parent releases nothing"


def test_pythons_hook_releases_before_any_use() -> None:
    holder = Holder()
    assert in_children(lambda _: holder.releases, fork_in_python) == [1]
    assert in_children(lambda _: holder.releases, fork_in_c) == [0], "C runs no hook, or this tests nothing"


@BOTH
def test_a_child_of_a_child_releases_again(fork: Fork) -> None:
    holder = Holder()

    def child(_: int) -> list[int]:
        _forks.check()

        def grandchild(_: int) -> int:
            _forks.check()
            return holder.releases

        return [holder.releases, *in_children(grandchild, fork)]

    assert in_children(child, fork) == [[1, 2]]


@BOTH
def test_a_child_of_a_child_that_used_nothing(fork: Fork) -> None:
    holder = Holder()

    def child(_: int) -> list[int]:
        def grandchild(_: int) -> int:
            _forks.check()
            return holder.releases

        return in_children(grandchild, fork)

    once = 2 if fork is fork_in_python else 1  # the hook runs in both
    assert in_children(child, fork) == [[once]]


def test_what_is_made_in_a_child_is_not_released_there() -> None:
    def child(_: int) -> int:
        holder = Holder()
        _forks.check()
        return holder.releases

    assert in_children(child, fork_in_c) == [0]


def test_what_is_gone_is_not_released() -> None:
    class Telling(Holder):
        def release(self) -> None:
            raise AssertionError("released after its end")

    gone = Telling()
    del gone

    assert in_children(lambda _: _forks.check(), fork_in_c) == [None]


def test_all_threads_of_a_child_wait_for_the_release() -> None:
    entered, go_on = threading.Event(), threading.Event()

    class Slow(Holder):
        def release(self) -> None:
            entered.set()
            assert go_on.wait(60)
            self.releases += 1

    slow = Slow()
    _forks.on_fork(slow, Slow.release)

    def child(_: int) -> list[int]:
        seen: list[int] = []

        def use() -> None:
            _forks.check()
            seen.append(slow.releases)

        threads = [threading.Thread(target=use) for _ in range(3)]
        for thread in threads:
            thread.start()
        assert entered.wait(60)
        before = list(seen)
        go_on.set()
        for thread in threads:
            thread.join(60)
        return [*before, *seen]

    assert in_children(child, fork_in_c) == [[1, 1, 1]]


@BOTH
def test_a_fork_while_another_thread_releases(fork: Fork) -> None:
    """The child of a child whose parent was in the middle of its release does not wait for that thread."""
    holder = Holder()

    class Forking:
        def __init__(self) -> None:
            self.made = False
            self.answers: list[int] = []

        def release(self) -> None:
            if not self.made:
                self.made = True
                with children(grandchild, fork, 1) as results:
                    self.answers = results()

    def grandchild(_: int) -> int:
        _forks.check()
        return holder.releases

    forking = Forking()
    _forks.on_fork(forking, Forking.release)

    def child(_: int) -> list[int]:
        _forks.check()
        return forking.answers

    # Holder came first, so the child had released it already when it forked.
    assert in_children(child, fork_in_c) == [[2]]


def test_a_release_that_uses_what_is_being_released() -> None:
    class Using(Holder):
        def release(self) -> None:
            self.releases += 1
            _forks.check()

    using = Using()
    _forks.on_fork(using, Using.release)

    def child(_: int) -> int:
        _forks.check()
        return using.releases

    assert in_children(child, fork_in_c) == [1]


def test_nothing_counts_as_released_after_an_error() -> None:
    class Failing(Holder):
        def release(self) -> None:
            self.releases += 1
            if self.releases == 1:
                raise LookupError

    failing = Failing()
    _forks.on_fork(failing, Failing.release)
    holder = Holder()

    def child(_: int) -> tuple[int, int]:
        with pytest.raises(LookupError):
            _forks.check()
        _forks.check()
        return failing.releases, holder.releases

    assert in_children(child, fork_in_c) == [(2, 1)]


KEPT = """
import os, sys
from powauth import _forks  # the module that the connections of all stores ask has no public name

class Connection:
    def __del__(self):
        os.write(1, b"goodbye")

class Holder:
    def leave(self):
        _forks.keep(self.connection)
        self.connection = None

holder = Holder()
holder.connection = Connection()
_forks.on_fork(holder, Holder.leave)
if not (child := os.fork()):
    _forks.check()
    sys.exit(7)
assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7
os._exit(0)
"""


def test_what_is_kept_says_nothing_when_the_child_exits(way: str) -> None:
    del way
    done = subprocess.run([sys.executable, "-c", KEPT], check=True, capture_output=True, timeout=60)
    assert done.stdout == b""


class Page:
    """A page of a system that takes these advices."""

    def __init__(self, *accepted: int) -> None:
        self.accepted = accepted

    def madvise(self, advice: int) -> None:
        if advice not in self.accepted:
            raise OSError("Invalid argument")


def test_a_system_that_takes_any_advice_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As emulators do that ignore all of them: then the page would never be wiped."""
    if sys.platform != "linux":
        pytest.skip("Linux's advice")
    for accepted, believed in (((18,), True), ((), False), ((18, -1), False)):
        page = Page(*accepted)
        monkeypatch.setattr(mmap, "mmap", lambda *_, page=page, **__: page)
        assert (_forks.wiped_page() is not None) is believed


def test_another_system_compares_process_ids(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "platform", "darwin")
    assert _forks.wiped_page() is None


def test_a_child_whose_lines_are_measured() -> None:
    """As the first test. Coverage sees the lines of a child only if its parent is no process of pytest's."""
    in_process(_fork_and_check)


def _fork_and_check(_: object) -> None:
    holder = Holder()

    def child() -> None:
        _forks.check()
        assert holder.releases == 1
        _forks.keep(holder)

    _in_fork(child)
    _in_fork(child, fork_in_c)
    assert holder.releases == 0
