"""Count the instructions that an authenticated request takes: ``python -m benchmarks.instructions``.

Callgrind runs the scenarios of `benchmarks.instruction_scenarios` in one process of the same interpreter, and writes
its count at each `mark`. A middleware *adds* the difference between its scenario and the same app without it, per
request.

**Repeatability.** Hash seed, clock and secret are fixed, and the garbage collector is off. Two runs then differ only in
their memory addresses. The interpreter's cache of attribute look-ups has slots by address, so names that share a slot
are searched for again and again. That search depends on chance (1.2 % of a request), so it is left out of the count
(``--toggle-collect``), unless the interpreter was stripped of the function's name. The remaining difference was within
0.6 % over other environments, directories and loads of the machine.

**Comparison.** Counts differ between builds of Python and of the C library. So each count is divided by that of a
yardstick in the same run, the hand-written middleware of `benchmarks.contenders.floor`. On the build of the record, the
yardstick's count is the same, so the ratio shows the count. Each minor version of Python has its own record, because
the cost of operations differs between them.

``--check`` fails if a request costs more than the record allows; ``make gate`` runs it. ``--record`` writes the record.
Use it after a change whose cost is intended, or that saves instructions.
"""

import argparse
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.instruction_scenarios import ADDED, BLOCKS, FLOOR, REQUESTS
from benchmarks.tables import table

ROOT = Path(__file__).parent.parent

RECORD = Path(__file__).with_suffix(".json")

SCENARIOS = "benchmarks.instruction_scenarios"
"""The module that callgrind runs."""

TOLERANCE = 0.05
"""The share by which the cost of a request may grow."""

TIMEOUT = 600
"""Seconds. A run takes about 25."""

MEMORY = "ASGI, memory"
NEEDLESS = "ASGI, memory, needless"
"""The scenario whose middleware does needless work."""
ROWS = "ASGI, memory, SQLAlchemy"
"""The scenario with users in a table, remembered sessions, and all extensions."""

SAME = 0.02
"""The share by which two scenarios with the same work may differ."""

Counts = dict[str, int]
"""Instructions that a middleware adds to a request, by scenario."""


def build() -> str:
    """Return the name of a build, which is the key of its record: ``cpython-3.11 x86_64``."""
    major, minor = sys.version_info[:2]
    return f"{sys.implementation.name}-{major}.{minor} {platform.machine()}"


def unavailable() -> str | None:
    """Return the reason why nothing can be counted here; ``None`` if it can."""
    if shutil.which("valgrind") is None:
        return "valgrind is not installed"
    if sys.implementation.name != "cpython":
        return "callgrind counts CPython's instructions"
    return None


def count() -> Counts:
    """Run the scenarios under callgrind.

    Raises:
        RuntimeError: if they failed. The message has the details.
    """
    with tempfile.TemporaryDirectory(prefix="powauth-instructions-") as folder:
        out = Path(folder, "out")
        done = subprocess.run(
            [
                "valgrind",
                "-q",
                "--tool=callgrind",
                "--dump-before=getsid",
                "--toggle-collect=find_name_in_mro",
                "--collect-atstart=yes",
                "--combine-dumps=yes",
                f"--callgrind-out-file={out}",
                sys.executable,
                "-m",
                SCENARIOS,
                folder,
            ],
            cwd=ROOT,
            # Leave out the rest of the caller's environment: it may measure coverage, or change how Python runs.
            env={
                "PATH": os.environ.get("PATH", os.defpath),
                "PYTHONPATH": f"{ROOT / 'src'}{os.pathsep}{ROOT}",
                "PYTHONHASHSEED": "0",
            },
            capture_output=True,
            text=True,
            timeout=TIMEOUT,
            check=False,
        )
        if done.returncode != 0:
            raise RuntimeError(f"the scenarios failed under callgrind:\n{done.stderr}")
        names = done.stdout.splitlines()
        with out.open() as lines:
            totals = [int(line.split()[1]) for line in lines if line.startswith("totals:")]
    return added(names, totals)


def added(names: list[str], totals: list[int]) -> Counts:
    """Return the instructions that each middleware adds per request, from callgrind's totals between marks.

    The first total is everything before the first mark. Then each scenario has `BLOCKS` blocks and the warm-up of the
    next one.
    """
    assert len(totals) == 1 + len(names) * (BLOCKS + 1), (len(names), len(totals))
    median = {
        name: statistics.median(totals[first : first + BLOCKS])
        for name, first in zip(names, range(1, len(totals), BLOCKS + 1), strict=False)
    }
    return {name: round((median[name] - median[bare]) / REQUESTS) for name, bare in ADDED.items()}


def ratios(counts: Counts) -> dict[str, float]:
    """Return each count as a multiple of the yardstick's."""
    return {name: number / counts[FLOOR] for name, number in counts.items()}


def changes(recorded: Counts, counted: Counts) -> dict[str, float]:
    """Return the share by which each scenario's cost has grown, relative to the yardstick; negative if cheaper."""
    scale = counted[FLOOR] / recorded[FLOOR]
    return {name: counted[name] / (number * scale) - 1 for name, number in recorded.items()}


def dearer(recorded: Counts, counted: Counts) -> list[str]:
    """Return the scenarios that cost more than the record allows, each with its figures."""
    before = {name: number * counted[FLOOR] / recorded[FLOOR] for name, number in recorded.items()}
    return [
        f"{name}: {counted[name]:,} instructions a request where {before[name]:,.0f} are on record, {change:+.1%}"
        for name, change in changes(recorded, counted).items()
        if change > TOLERANCE
    ]


def implausible(counted: Counts) -> list[str]:
    """Return the results that are impossible if the scenarios do what their names say."""
    memory, needless, rows = (counted[name] for name in (MEMORY, NEEDLESS, ROWS))
    anonymous, forged, engine = (counted[name] for name in ("ASGI, anonymous", "ASGI, forged", "ASGI, LMDB"))
    expected = {
        "a session costs more than the floor": 0 < counted[FLOOR] < memory,
        # All requests share one identity, in any users context. No extension is asked: one look at the headers finds
        # the cookie, and that there is no API key.
        "users in a table with extensions cost what others cost without": abs(rows - memory) <= SAME * memory,
        "nobody costs less than somebody, and memory less than LMDB": 0 < anonymous < memory < engine,
        "a forged id emits an event": anonymous < forged,
        "a needless piece of work is caught": any(
            line.startswith(MEMORY) for line in dearer(counted, counted | {MEMORY: needless})
        ),
    }
    return [f"not so: {what}" for what, holds in expected.items() if not holds]


def records() -> dict[str, Counts]:
    """Return all records, by `build`."""
    found: dict[str, Counts] = json.loads(RECORD.read_text()) if RECORD.exists() else {}
    return found


def record(counts: Counts) -> None:
    """Write the counts into the record of this build."""
    RECORD.write_text(json.dumps(records() | {build(): counts}, indent=2, sort_keys=True) + "\n")


def verdict(known: Counts | None, counts: Counts) -> list[str]:
    """Return the reasons why ``counts`` fail the gate; none if they pass."""
    if known is None or known.keys() != counts.keys():
        return [f"no record of these scenarios for {build()}: python -m benchmarks.instructions --record"]
    return [*dearer(known, counts), *implausible(counts)]


def main() -> None:
    """Count and print. Check or write the record if the arguments ask for it."""
    parser = argparse.ArgumentParser(description="Instructions per authenticated request.")
    parser.add_argument("--record", action="store_true", help=f"write {RECORD.name}")
    parser.add_argument("--check", action="store_true", help="fail if a request costs more than is on record")
    wanted = parser.parse_args()
    reason = unavailable()
    if reason is not None:
        raise SystemExit(reason)
    counts = count()
    known = records().get(build())
    moved = {} if known is None or known.keys() != counts.keys() else changes(known, counts)
    times = ratios(counts)
    rows = [
        (name, f"{number:,}", f"{times[name]:.2f}", f"{moved[name]:+.1%}" if moved else "none on record")
        for name, number in counts.items()
    ]
    print(table((build(), "added per request", "x floor", "since the record"), rows))
    if wanted.record:
        record(counts)
    if wanted.check:
        failures = verdict(known, counts)
        if failures:
            raise SystemExit("\n".join(failures))


if __name__ == "__main__":
    main()
