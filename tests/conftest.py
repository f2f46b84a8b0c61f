"""What all tests share with pytest itself: lines for the end of its report."""

from collections.abc import Callable

import pytest

_LINE = "line of the summary"


@pytest.fixture
def report(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Call it with a line that the end of pytest's report is to show: a figure that the test has found."""

    def add(line: str) -> None:
        # Properties travel with a test's result, from xdist's workers too.
        request.node.user_properties.append((_LINE, line))

    return add


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
