"""Fail if a test run covers too little. The core needs every line and branch, and everything else 95 %.

Run it after ``pytest --cov``. It prints each line and branch that no test has reached.
"""

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

CORE = (
    "powauth/sessions/",
    "powauth/plug/",
    "powauth/request_auth.py",
    "powauth/http/carriers.py",
    "powauth/http/connection.py",
    "powauth/http/cross_site.py",
    "powauth/http/guards.py",
    "powauth/http/own_path.py",
    "powauth/http/visit.py",
    "powauth/accounts/base.py",
    "powauth/accounts/hooks.py",
    "powauth/accounts/identity.py",
    "powauth/accounts/records.py",
    "powauth/accounts/service.py",
    "powauth/accounts/throttle.py",
)
"""The files and folders that decide who is signed in. The paths are relative to the folder of the package."""

ELSEWHERE_PERCENT = 95.0

Files = Mapping[str, Mapping[str, Any]]
"""The report of ``coverage json`` on each file, by its path."""


def main() -> int:
    """Print what is not covered. Return 1 if the coverage is too low."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "coverage.json"
        subprocess.run([sys.executable, "-m", "coverage", "json", "--quiet", "-o", report], check=True)
        files: Files = json.loads(report.read_text())["files"]
    for line in missing_lines(files):
        print(line)
    reasons = failures(files)
    for reason in reasons:
        print(f"coverage: {reason}")
    if not reasons:
        print(f"coverage: core 100 %, elsewhere {percent_elsewhere(files):.1f} %")
    return 1 if reasons else 0


def failures(files: Files) -> list[str]:
    """Return the reasons why the coverage is too low. The list is empty if it is high enough."""
    found = [
        f"{name}: {percent_of([file]):.2f} % of a file of the core, which needs 100 %"
        for name, file in sorted(files.items())
        if _core_of(name) is not None and not _is_whole(file)
    ]
    # A renamed or split file must not drop out of the core unnoticed.
    measured = {_core_of(name) for name in files}
    found += [f"no file of the core is at {part}: correct CORE" for part in CORE if part not in measured]
    elsewhere = percent_elsewhere(files)
    if elsewhere < ELSEWHERE_PERCENT:
        found.append(f"{elsewhere:.2f} % outside of the core, which needs {ELSEWHERE_PERCENT:.0f} %")
    return found


def missing_lines(files: Files) -> list[str]:
    """Return a line of text for each file that is not fully covered."""
    lines = []
    for name, file in sorted(files.items()):
        if not _is_whole(file):
            mark = "elsewhere" if _core_of(name) is None else "CORE"
            branches = " ".join(f"{start}->{end}" for start, end in file["missing_branches"])
            what = f"lines {file['missing_lines']}, branches {branches}"
            lines.append(f"{mark} {name}: {percent_of([file]):.2f} %, {what}")
    return lines


def percent_elsewhere(files: Files) -> float:
    """Return the covered percentage of the lines and branches outside of the core."""
    return percent_of([file for name, file in files.items() if _core_of(name) is None])


def percent_of(files: list[Mapping[str, Any]]) -> float:
    """Return the covered percentage of the lines and branches of some files; 100 if there are none."""
    covered = sum(file["summary"]["covered_lines"] + file["summary"]["covered_branches"] for file in files)
    total = sum(file["summary"]["num_statements"] + file["summary"]["num_branches"] for file in files)
    return 100 * covered / total if total else 100.0


def _is_whole(file: Mapping[str, Any]) -> bool:
    return not file["missing_lines"] and not file["missing_branches"]


def _core_of(name: str) -> str | None:
    """Return the entry of `CORE` for a file; ``None`` if the file is outside of the core."""
    path = Path(name).as_posix()
    return next((part for part in CORE if f"/{part}" in f"/{path}"), None)


if __name__ == "__main__":
    sys.exit(main())
