"""Runs all attacks, and prints a table."""

import argparse
import sys
import tempfile
import time
from pathlib import Path

from scripts.factor_attacks.running import TABLE_HEAD, row, run_all


def main() -> int:
    """Run the attacks. Return 1 if one of them was not held."""
    parser = argparse.ArgumentParser(prog="python -m scripts.factor_attacks", description=__doc__)
    parser.add_argument("words", nargs="*", help="only the attacks whose names have one of these words")
    parser.add_argument("--quick", action="store_true", help="each attack against one server alone, in turns")
    options = parser.parse_args()
    began = time.monotonic()
    print(TABLE_HEAD, flush=True)
    with tempfile.TemporaryDirectory(prefix="powauth-attacks-") as folder:
        outcomes = run_all(Path(folder), lambda each: print(row(each), flush=True), options.words, quick=options.quick)
    broken = sum(not each.held for each in outcomes)
    seconds = time.monotonic() - began
    print(f"{len(outcomes)} attacks in {seconds:.0f} s: {len(outcomes) - broken} held, {broken} broken")
    return 1 if broken or not outcomes else 0


if __name__ == "__main__":
    sys.exit(main())
