"""What all tests share with pytest itself: lines for its report, a quick place for files, tests left untraced."""

import gc
import logging
import ssl
import tempfile
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import coverage
import pytest
from hypothesis import settings

from powauth import _outages  # each test begins with an empty log of outages

pytest_plugins = ["harness.fixtures"]

collect_ignore = ["harness/process_app.py"]
"""It is an app for servers, and its environment says where the store is."""

# Otherwise an example that waits 200 ms for a busy machine fails its test.
settings.register_profile("no clock", deadline=None)
settings.load_profile("no clock")

_LINE = "line of the summary"

_LONGEST = (
    *("test_browser", "test_interleavings_engines", "test_benchmarks", "test_demo"),
    *("test_backend_redis", "test_redis_cluster_faults", "test_faults", "test_interleavings", "test_sql_faults"),
    *("test_instructions", "test_many_sessions", "test_parallel_processes", "test_redis_near_cache"),
)
"""The files that take longest, in this order."""

collect_ignore_glob = ["typing/typed_*.py", "typing/model.py"]
"""Programs that type checkers read. Nobody runs them."""


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Call it with a line that the end of pytest's report is to show: a figure that the test has found."""

    def add(line: str) -> None:
        # Properties travel with a test's result, from xdist's workers too.
        request.node.user_properties.append((_LINE, line))

    return add


@pytest.fixture
def quick_path(tmp_path: Path) -> Iterator[Path]:
    """A directory in memory where the system has one, for tests with many writes to which the disk is no matter."""
    memory = Path("/dev/shm")
    if not memory.is_dir():
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=memory) as path:
        yield Path(path)


@pytest.fixture
def new_outage_log(monkeypatch: pytest.MonkeyPatch) -> None:
    """A log of outages that has told nothing yet. It is one for the process, and no public name makes it forget."""
    monkeypatch.setattr(_outages, "outages", _outages.OutageLog())


@pytest.fixture(autouse=True, scope="session")
def no_authorities() -> Iterator[None]:
    """Trust no certificate of the system: PyMySQL reads them all for each connection, which takes some 30 ms."""
    with pytest.MonkeyPatch.context() as changed:
        changed.setattr(ssl.SSLContext, "load_default_certs", lambda context, purpose=ssl.Purpose.SERVER_AUTH: None)
        yield


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with the files that take longest: at the end no worker is to wait for another that has one to do."""
    places = {name: place for place, name in enumerate(_LONGEST)}
    items.sort(key=lambda item: places.get(item.path.stem, len(places)))


def _keep_what_is_alive() -> None:
    """Let no later search for garbage look at the objects of this moment: they would make each one take a second."""
    gc.collect()
    gc.freeze()


def pytest_collection_finish() -> None:
    """Keep the collected tests."""
    _keep_what_is_alive()


@pytest.fixture(autouse=True, scope="module")
def what_a_file_leaves() -> Iterator[None]:
    """Keep what a file's tests leave in pytest and in caches. Something left open warns now, at the end of its file."""
    yield
    _keep_what_is_alive()


def pytest_runtest_setup() -> None:
    """Let each test begin with a log that writes: some tests of the same process have made it quiet."""
    logging.getLogger("powauth").setLevel(logging.NOTSET)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Generator[None, object, object]:
    """Measure no coverage in a test that is ``untraced``: traced, it would take more than three times as long."""
    # In a worker of xdist pytest-cov has begun two measurements; its own ``no_cover`` would leave one of them on.
    stopped: list[coverage.Coverage] = []
    while item.get_closest_marker("untraced") and (running := coverage.Coverage.current()) is not None:
        running.stop()
        stopped.append(running)
    try:
        return (yield)
    finally:
        for each in reversed(stopped):
            each.start()


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    lines = [
        value
        for outcome in ("passed", "failed")
        for result in terminalreporter.getreports(outcome)
        for name, value in result.user_properties
        if name == _LINE
    ]
    if lines:
        terminalreporter.section("figures")
        for line in sorted(lines):
            terminalreporter.write_line(line)
