"""What all tests share with pytest itself: lines for the end of its report, and a quick place for files."""

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

_LINE = "line of the summary"


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
