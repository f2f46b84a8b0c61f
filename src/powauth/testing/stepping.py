"""Stops one call at each of its steps, and runs another call while the first is stopped.

Threads and tasks that only run in parallel rarely meet in the gap between two commands. Here they always do. The first
call is stopped in the gap. The second call runs to its end, or as far as it can while the first call is stopped. Then
the first call continues. This is repeated for each step of the first call.

The steps of a call are:

- of an ``async`` component: each suspension. The call is stopped when it is about to resume, so the engine has answered
  its command.
- of any other component: each line of its own code, and each call of other code that follows another such call in one
  line. The call is stopped before them. It runs in a separate thread, with a trace function (`sys.settrace`) and a
  profile function (`sys.setprofile`).

In a loop, a call is stopped twice at each line.
"""

import asyncio
import builtins
import gc
import os
import statistics
import sys
import threading
import types
from collections.abc import Callable, Coroutine, Generator, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any, Generic, NamedTuple, Protocol, TypeVar

from powauth.backends.base import Mode, drive

A = TypeVar("A")
B = TypeVar("B")
T = TypeVar("T")

PATIENCE = timedelta(milliseconds=5)
"""The time that a call gets while another one is stopped, unless the suite says otherwise."""

TICK = 0.001
"""Seconds between two checks of the second call. Time is counted in ticks, not by the clock: a busy machine delays the
checking thread as much as the call."""

TIMES_AT_A_PLACE = 2
"""The number of stops of a call at one place of the code."""

HARMLESS = frozenset({"hash", "id", "isinstance", "issubclass", "len", "max", "min", "repr"})
"""Built-in functions that use no state shared with other calls."""

MAX_STEPS = 400
"""Maximum steps of one call that are tried."""

TIMES_THE_USUAL = 8
"""The second call gets at least this many times its usual duration."""

STUCK = 120.0
"""Seconds after which a thread that has not ended is an error."""


class Component(Protocol):
    """The object whose methods are called: a backend or a users context."""

    mode: Mode


class Race(NamedTuple, Generic[A, B]):
    """Two calls, and the check of their results.

    Attributes:
        first: the call that is stopped.
        second: the call that runs meanwhile.
        check: takes both results and makes assertions.
    """

    first: Callable[[], Coroutine[Any, Any, A]]
    second: Callable[[], Coroutine[Any, Any, B]]
    check: Callable[[A, B], Coroutine[Any, Any, None]]


class Own(NamedTuple):
    """The code that counts as the component's own. Calls are stopped in it.

    It consists of the modules of the component's classes, and the other modules in the same packages.

    Attributes:
        protocol: the base class of all such components. The code of its module does not count.
        into: names of further modules or packages that count.
        over: names of modules that do not count.
    """

    protocol: type
    into: Sequence[str] = ()
    over: Sequence[str] = ()


class Step(NamedTuple):
    """A place at which a call can be stopped, and the number of the call's visit to it."""

    place: object
    time: int

    def __str__(self) -> str:
        return f"{self.place}, time {self.time}"


async def run_at_each_step(
    component: Component,
    own: Own,
    next_race: Callable[[], Coroutine[Any, Any, Race[Any, Any]]],
    patience: timedelta = PATIENCE,
) -> None:
    """Run a race for each step of its first call.

    Args:
        component: the component whose methods are called.
        own: the code to stop in, if the component is not ``async``.
        next_race: sets up a race.
        patience: the shortest time for the second call. After that, the second call counts as waiting for the first.

    Raises:
        AssertionError: if a check fails. A note names the step.
    """
    pace = _Pace(patience)
    stops: _Stops = _TaskStops(pace) if component.mode == "async" else _ThreadStops(pace, _files_of(component, own))
    todo: list[Step | None] = [None]  # the first run has no stop: it finds steps, and does one-time work
    known: set[Step] = set()
    tried = 0
    while todo and tried < MAX_STEPS:
        tried += 1
        stop_at = todo.pop(0)
        race = await next_race()
        try:
            first, second, passed = await stops.run(race, stop_at)
            await race.check(first, second)
        except Exception as error:
            error.add_note(f"the first call was stopped at: {stop_at or 'its end'}")
            raise
        new = [step for step in passed if step not in known]
        known.update(new)
        todo += new


class _Pace:
    """The time for the second call while the first call is stopped."""

    def __init__(self, patience: timedelta) -> None:
        self._patience = patience.total_seconds()
        self._usual: list[int] = []

    @property
    def ticks(self) -> int:
        usual = statistics.median(self._usual) if self._usual else 0
        return int(max(self._patience / TICK, TIMES_THE_USUAL * usual, 2))

    def took(self, ticks: int) -> None:
        """Record the ticks of a second call that did not have to wait."""
        self._usual.append(ticks)


class _Stops:
    """Runs one race. Subclasses define how to stop a call."""

    def __init__(self, pace: _Pace) -> None:
        self.pace = pace

    async def run(self, race: Race[A, B], stop_at: Step | None) -> tuple[A, B, list[Step]]:
        """Return both results, and the steps of the first call. Without a stop, the second call runs last."""
        raise NotImplementedError


class _Passed:
    """The steps that a call has passed."""

    def __init__(self) -> None:
        self.steps: list[Step] = []
        self._times: dict[object, int] = {}

    def at(self, place: object) -> Step | None:  # pragma: no cover
        """Record that the call passes a place, and return the step; ``None`` if it has passed too often."""
        time = self._times[place] = self._times.get(place, 0) + 1
        if time > TIMES_AT_A_PLACE:
            return None
        step = Step(place, time)
        self.steps.append(step)
        return step


class _TaskStops(_Stops):
    """Stops a coroutine where it suspends."""

    async def run(self, race: Race[A, B], stop_at: Step | None) -> tuple[A, B, list[Step]]:
        passed = _Passed()
        second: list[asyncio.Task[B]] = []
        suspensions = 0

        async def between() -> None:
            nonlocal suspensions
            suspensions += 1
            step = Step(f"suspension {suspensions}", 1)
            passed.steps.append(step)
            if step != stop_at:
                return
            second.append(asyncio.ensure_future(race.second()))
            for ticks in range(self.pace.ticks):
                await asyncio.wait(second, timeout=TICK)
                if second[0].done():
                    self.pace.took(ticks + 1)
                    break

        first = await stepping(race.first(), between)
        if not second:
            second.append(asyncio.ensure_future(race.second()))
        return first, await second[0], passed.steps


async def _nothing() -> None:
    return


@types.coroutine
def stepping(
    coroutine: Coroutine[Any, Any, T],
    between: Callable[[], Coroutine[Any, Any, None]] = _nothing,
    suspending: Callable[[], None] = lambda: None,
) -> Generator[Any, Any, T]:
    """Run a coroutine, and further code at each suspension, in one task.

    Args:
        coroutine: the coroutine.
        between: runs after each suspension, before the coroutine resumes.
        suspending: is called before each suspension.
    """
    resume: Callable[[], Any] = partial(coroutine.send, None)
    while True:
        try:
            awaited = resume()
        except StopIteration as stop:
            return stop.value  # type: ignore[no-any-return]
        try:
            suspending()
            answer = yield awaited
            yield from between().__await__()
        except BaseException as error:  # the task is cancelled: let the coroutine handle it
            resume = partial(coroutine.throw, error)
        else:
            resume = partial(coroutine.send, answer)


class _ThreadStops(_Stops):
    """Stops a thread at lines and returns within the files of the component."""

    def __init__(self, pace: _Pace, is_own: Callable[[str], bool]) -> None:
        super().__init__(pace)
        self._is_own = is_own

    async def run(self, race: Race[A, B], stop_at: Step | None) -> tuple[A, B, list[Step]]:
        with _no_collection():
            return self._run(race, stop_at)

    def _run(self, race: Race[A, B], stop_at: Step | None) -> tuple[A, B, list[Step]]:
        thread = _SteppedThread(lambda: drive(race.first()), self._is_own, stop_at)
        thread.start()
        second: _Thread[B] = _Thread(lambda: drive(race.second()))
        try:
            if thread.wait_for_stop():
                second.start()
                for ticks in range(self.pace.ticks):
                    second.join(TICK)
                    if not second.is_alive():
                        self.pace.took(ticks + 1)
                        break
        finally:
            thread.go_on()
        first = thread.result()
        if second.ident is None:
            second.start()
        return first, second.result(), thread.passed.steps


@contextmanager
def _no_collection() -> Iterator[None]:
    """Stop garbage collection. A finalizer that it calls within a call would be a step that no other run has."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


class _Thread(threading.Thread, Generic[T]):
    """A thread with a result."""

    def __init__(self, work: Callable[[], T]) -> None:
        super().__init__(daemon=True)
        self._work = work
        self._outcome: list[T] = []
        self._error: BaseException | None = None

    def run(self) -> None:
        """Do the work, and keep its result or its error."""
        try:
            self._outcome.append(self._work())
        except BaseException as error:
            self._error = error

    def result(self) -> T:
        """Wait for the end and return the result, or raise the work's error."""
        self.join(STUCK)
        if self._error is not None:
            raise self._error
        assert self._outcome, "a call does not return"
        return self._outcome[0]


class _SteppedThread(_Thread[T]):
    """A thread that stops at one step."""

    def __init__(self, work: Callable[[], T], is_own: Callable[[str], bool], stop_at: Step | None) -> None:
        super().__init__(work)
        self.passed = _Passed()
        self._is_own = is_own
        self._stop_at = stop_at
        self._paused = threading.Event()
        self._go_on = threading.Event()
        self._stopped = False
        self._has_called = False

    def run(self) -> None:
        """Do the work with a trace function and a profile function."""
        sys.setprofile(self._profile)
        sys.settrace(self._trace)
        try:
            super().run()
        finally:
            sys.settrace(None)
            sys.setprofile(None)
            self._paused.set()

    def wait_for_stop(self) -> bool:
        """Wait until the thread is stopped (``True``), or has ended without reaching the step (``False``)."""
        assert self._paused.wait(STUCK), "a call does not return"
        return self._stopped

    def go_on(self) -> None:
        self._go_on.set()

    def _at(self, frame: types.FrameType, what: str) -> None:  # pragma: no cover
        self._has_called = False
        step = self.passed.at(f"{os.path.basename(frame.f_code.co_filename)}:{frame.f_lineno}, before {what}")  # noqa: PTH119
        if step is not None and step == self._stop_at:
            self._stopped = True
            self._paused.set()
            self._go_on.wait(STUCK)

    # Functions for `sys.settrace` and `sys.setprofile`. Coverage uses the same mechanism, so it cannot measure them.

    def _trace(self, frame: types.FrameType, event: str, _: object) -> Callable[..., Any] | None:  # pragma: no cover
        if not self._is_own(frame.f_code.co_filename):
            return None
        if event == "line":
            self._at(frame, "the line")
        return self._trace

    def _profile(self, frame: types.FrameType, event: str, called: object) -> None:  # pragma: no cover
        caller = frame if event.startswith("c_") else frame.f_back
        if caller is None or not self._is_own(caller.f_code.co_filename):
            return
        if caller is frame:
            of = getattr(called, "__self__", None)
            name = getattr(called, "__name__", "")
            if isinstance(of, bytes | str | int) or (of is builtins and name in HARMLESS):
                return
        elif self._is_own(frame.f_code.co_filename):
            return
        else:
            name = frame.f_code.co_name
        if event not in {"call", "c_call"}:
            self._has_called = True
        elif self._has_called:
            self._at(caller, f"the call of {name}")


def _files_of(component: Component, own: Own) -> Callable[[str], bool]:
    """Return a function that returns whether a file holds the component's own code."""
    files: set[str] = set()
    folders: set[str] = set()
    names = [cls.__module__ for cls in type(component).__mro__ if cls not in own.protocol.__mro__]
    names = [name for name in names if name != own.protocol.__module__]  # the abilities are in that module, too
    for name in [*names, *own.into]:
        module = sys.modules.get(name)
        path = getattr(module, "__file__", None)
        if path is None:
            continue
        files.add(path)
        if getattr(module, "__package__", ""):
            folders.add(os.path.dirname(path))  # noqa: PTH120 compared with the names in code objects

    known = {str(getattr(sys.modules.get(name), "__file__", name)): False for name in own.over}

    def is_own(file: str) -> bool:  # pragma: no cover
        found = known.get(file)
        if found is None:
            found = known[file] = file in files or os.path.dirname(file) in folders  # noqa: PTH120
        return found

    return is_own
