"""Fails if a test run covers too little: lines and branches, 100 % of the core and 95 % of everything else."""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

CORE = (
    "powauth/sessions/",
    "powauth/plug/",
    "powauth/request_auth.py",
    "powauth/http/carriers.py",
    "powauth/http/visit.py",
    "powauth/accounts/service.py",
    "powauth/accounts/hooks.py",
    "powauth/accounts/identity.py",
)
"""Folders and files of the core, from the package down."""
ELSEWHERE_PERCENT = 95.0


def main() -> int:
    """Print what is missing; 1 if that is too much."""
    with tempfile.NamedTemporaryFile(suffix=".json") as report:
        subprocess.run([sys.executable, "-m", "coverage", "json", "--quiet", "-o", report.name], check=True)
        files: dict[str, Any] = json.loads(Path(report.name).read_text())["files"]
    failed = False
    covered = total = 0
    for name, file in sorted(files.items()):
        summary = file["summary"]
        all_of_it = summary["num_statements"] + summary["num_branches"]
        done = summary["covered_lines"] + summary["covered_branches"]
        core = any(part in Path(name).as_posix() for part in CORE)
        if not core:
            covered, total = covered + done, total + all_of_it
        if done < all_of_it:
            too_little = core
            failed |= too_little
            lines = file["missing_lines"]
            branches = [f"{start}->{end}" for start, end in file["missing_branches"]]
            mark = "TOO LITTLE " if too_little else ""
            print(f"{mark}{name}: {100 * done / all_of_it:.1f} %, lines {lines}, branches {' '.join(branches)}")
    percent = 100 * covered / total if total else 0.0
    failed |= percent < ELSEWHERE_PERCENT
    print(f"coverage: core 100 % asked, elsewhere {percent:.1f} % ({ELSEWHERE_PERCENT:.0f} % asked)")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
