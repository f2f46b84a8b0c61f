"""The page and the chart: all results, with the methods and the machine."""

import os
import platform
import subprocess
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from benchmarks import beside_sign_ins, bounds, compare, end_to_end, servers, signing_in
from benchmarks.backends import HEAD as STORE_HEAD
from benchmarks.bounds import Results
from benchmarks.chart import Bar, chart
from benchmarks.contenders.base import Contender
from benchmarks.figures import spread

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "benchmarks.md"
PICTURE = ROOT / "docs" / "images" / "benchmarks.svg"

LIBRARIES = (
    "powauth",
    "aiosqlite",
    "crudauth",
    "django",
    "fastapi",
    "fastapi-users",
    "flask",
    "flask-login",
    "flask-session",
    "gunicorn",
    "httptools",
    "litestar",
    "lmdb",
    "redis",
    "sqlalchemy",
    "starlette",
    "starsessions",
    "uvicorn",
    "uvloop",
)

TEMPLATE = Path(__file__).parent / "page.md"
"""The page with a comment where each table belongs."""

NOT_MEASURED = "Not measured in this run."


def machine() -> list[str]:
    """Describe the machine in lines of Markdown."""
    python = f"{platform.python_implementation()} {platform.python_version()}"
    lines = [
        f"- {datetime.now(UTC).date().isoformat()}, {python}, {platform.system()} {platform.release()}",
        f"- {_processor()}, {len(os.sched_getaffinity(0))} processors",
    ]
    tools = [tool for tool in (_redis_version(), _wrk_version()) if tool]
    lines += [f"- {', '.join(tools)}"] if tools else []
    return [*lines, f"- {', '.join(_versions())}"]


def _versions() -> list[str]:
    found = []
    for name in LIBRARIES:
        try:
            found.append(f"{name} {version(name)}")
        except PackageNotFoundError:
            found.append(f"{name} (not installed)")
    return found


def _processor() -> str:
    for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
        if line.startswith("model name"):
            return line.partition(":")[2].strip()
    return platform.machine()


def _redis_version() -> str:
    executable = servers.redis_executable()
    if executable is None:
        return ""
    words = subprocess.run([executable, "--version"], capture_output=True, text=True, check=True).stdout.split()
    return f"Redis {next((word[2:] for word in words if word.startswith('v=')), '?')}"


def _wrk_version() -> str:
    if end_to_end.missing():
        return ""
    text = subprocess.run(["wrk", "--version"], capture_output=True, text=True, check=False).stdout
    return " ".join(text.split()[:2])


def markdown_table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    """Return a table in Markdown, with numbers aligned to the right."""

    def line(cells: Sequence[object]) -> str:
        escaped = [str(cell).replace("|", r"\|") for cell in cells]
        return f"| {' | '.join(escaped)} |"

    first = rows[0] if rows else [""] * len(head)
    marks = ["---:" if str(cell)[:1].isdigit() else "---" for cell in first]
    return "\n".join([line(head), f"|{'|'.join(marks)}|", *(line(row) for row in rows)])


def page(found: Sequence[Contender], results: Results, left: Mapping[str, str]) -> str:
    """Return the whole text of ``docs/benchmarks.md``."""
    measured = [each for each in found if each.name in results.measured]
    keeps = [[f"{each.title} ({each.interface.upper()})", each.keeps, each.checks] for each in measured]
    sync = results.disk_sync
    parts = {
        "peers": _table(bounds.PEERS_HEAD, bounds.rows(bounds.peer_verdicts(results))),
        "rows": _table(bounds.ROWS_HEAD, bounds.rows(bounds.row_verdicts(results))),
        "bounds": _table(bounds.HEAD, bounds.rows(bounds.verdicts(results))),
        "compare": _table(compare.HEAD, compare.rows(measured, results.measured)),
        "keeps": _table(["contender", "keeps", "checks"], keeps),
        "serve": _table(end_to_end.HEAD, end_to_end.rows(results.throughput)),
        "sync": "?" if sync is None else sync.text(0),
        "sign-in": _table(signing_in.HEAD, signing_in.rows(results.sign_ins)),
        "beside": _table(beside_sign_ins.HEAD, beside_sign_ins.rows(results.beside)),
        "stores": _table(STORE_HEAD, results.stores),
        "left": "\n".join(f"- Left out here: {name} ({reason})." for name, reason in left.items()),
        "machine": "\n".join(machine()),
    }
    text = TEMPLATE.read_text(encoding="utf-8")
    for name, part in parts.items():
        text = text.replace(f"<!-- {name} -->", part)
    return text.replace("\n\n\n", "\n")


def _table(head: Sequence[str], rows: Sequence[Sequence[object]]) -> str:
    return markdown_table(head, rows) if rows else NOT_MEASURED


def picture(found: Sequence[Contender], results: Results) -> str:
    """Return the chart of the costs that contenders add."""
    bars = [
        Bar(f"{each.title} ({each.interface.upper()})", _kind(each.name), spread(results.measured[each.name].added))
        for each in found
        if each.name in results.measured
    ]
    return chart("What a layer adds to a request of a signed-in user", "microseconds, in process", bars)


def _kind(name: str) -> str:
    return next((kind for kind in ("powauth", "floor") if name.startswith(kind)), "other")
