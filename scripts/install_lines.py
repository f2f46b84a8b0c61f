"""Follow each page of the README and the docs in an empty environment, and print the outcomes line by line.

For each page, only this copy's wheel and the page's own requirements are installed, without a lock file. The page's
programs run as printed. A user registers, signs in, is recognised, signs out and is rejected. Then the page's tests
run. Each extra of powauth is also installed alone and used once.

All of this is done with the newest releases, and again with the oldest ones that ``pyproject.toml`` admits.

    python -m scripts.install_lines            # all
    python -m scripts.install_lines flask      # only pages and extras with "flask" in their name
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from pathlib import Path

from scripts.empty_environments import Environments, Failed
from scripts.extras_alone import check_extra, extras
from scripts.page_journeys import STEPS, follow
from scripts.page_programs import Page, read_pages

AT_ONCE = 2
"""Jobs that run at the same time: one for each processor of a small machine."""

Row = tuple[str, str, str, str]
"""The page, the requirements, the command and the outcome."""


def page_rows(page: Page, environments: Environments) -> Iterator[Row]:
    """Follow a page, and yield a row for each program."""
    # The test clients of older frameworks need other packages than those on the page.
    tests = not environments.oldest
    with tempfile.TemporaryDirectory() as folder:
        for program, outcome in follow(page, environments.get, Path(folder), tests=tests):
            yield page.name, " ".join(program.requirements), program.command, outcome


def extra_rows(extra: str, environments: Environments) -> Iterator[Row]:
    """Install an extra alone and use it once."""
    requirement = f"powauth[{extra}]"
    with tempfile.TemporaryDirectory() as folder:
        for command, outcome in check_extra(extra, environments.get((requirement,)), Path(folder)):
            yield "each extra alone", requirement, command, outcome


def jobs_of(environments: Environments, wanted: str) -> list[Callable[[], list[Row]]]:
    """Return the jobs: one for each page and each extra."""
    pages = [partial(page_rows, page, environments) for page in read_pages() if wanted in page.name]
    alone = [partial(extra_rows, extra, environments) for extra in extras() if wanted in extra]
    return [partial(collected, rows) for rows in (*pages, *alone)]


def collected(rows: Callable[[], Iterator[Row]]) -> list[Row]:
    """Collect the rows of a job. If an installation fails, the failure is the last row."""
    found: list[Row] = []
    try:
        for row in rows():
            found.append(row)  # noqa: PERF402 - keeps the rows before a failure
    except Failed as failure:
        found.append(("not installed", failure.what, "pip install", f"FAILED: {failure}"))
    return found


def main() -> int:
    """Run everything and print the table. Return 1 if anything failed."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0] if __doc__ else None)
    parser.add_argument("wanted", nargs="?", default="", help="only pages and extras with this in their name")
    wanted = parser.parse_args().wanted
    started, failures, count = time.monotonic(), 0, 0
    with tempfile.TemporaryDirectory(prefix="install-lines-") as folder, ThreadPoolExecutor(AT_ONCE) as pool:
        for environments in Environments.newest_and_oldest(Path(folder)):
            print(f"\n{environments.title}\n{'=' * len(environments.title)}")
            print(f"A served program: {', '.join(STEPS)}.\n")
            for rows in pool.map(lambda job: job(), jobs_of(environments, wanted)):
                for row in rows:
                    print(" | ".join(row), flush=True)
                    count += 1
                    failures += "FAILED" in row[3]
    print(f"\n{time.monotonic() - started:.0f} seconds")
    print(f"{count - failures} passed, {failures} failed")
    return 1 if failures or not count else 0


if __name__ == "__main__":
    sys.exit(main())
