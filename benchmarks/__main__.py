"""Run every part of the comparison, one after the other: ``python -m benchmarks``."""

import argparse
import os
import sys
from collections.abc import Sequence

from benchmarks import backends, beside_sign_ins, bounds, compare, end_to_end, report, signing_in
from benchmarks.bounds import Results
from benchmarks.tables import table
from benchmarks.workers import cores

PARTS = ("compare", "serve", "sign-in", "beside", "stores")
SIZES = (1_000, 1_000_000)


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure and print. Write the results if the arguments ask for it."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--parts", default=",".join(PARTS), help=f"which of {', '.join(PARTS)}")
    parser.add_argument("--only", default="", help="words, with commas between: contenders whose names contain one")
    parser.add_argument("--quick", action="store_true", help="few rounds and small stores, to see that it works")
    parser.add_argument("--write", action="store_true", help=f"write {report.PAGE.name} and its picture")
    options = parser.parse_args(arguments)
    parts = options.parts.split(",")
    if unknown := set(parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    if options.write and (options.only or set(parts) != set(PARTS)):
        parser.error("--write is for a run of everything: leave out --only and --parts, or the page loses the rest")
    results = Results()
    left: dict[str, str] = {}
    found = compare.chosen([word for word in options.only.split(",") if word], left)
    everywhere = os.sched_getaffinity(0)
    os.sched_setaffinity(0, cores()[1])  # this process only waits, and its children are pinned to their own processors
    try:
        if "compare" in parts:
            laps, rounds = (1, 5) if options.quick else (compare.LAPS, compare.ROUNDS)
            results.measured = compare.measure(found, laps=laps, rounds=rounds)
            print(table(compare.HEAD, compare.rows(found, results.measured)), end="\n\n")
        load_missing = end_to_end.missing()
        if "serve" in parts and load_missing is None:
            rounds, seconds = (2, 1.0) if options.quick else (end_to_end.ROUNDS, end_to_end.SECONDS)
            results.throughput = [
                each for kind in end_to_end.APPS for each in end_to_end.measure(kind, rounds=rounds, seconds=seconds)
            ]
            print(table(end_to_end.HEAD, end_to_end.rows(results.throughput)), end="\n\n")
        if "sign-in" in parts:
            results.sign_ins = signing_in.measure(20 if options.quick else signing_in.TIMES)
            results.disk_sync = signing_in.disk_sync()
            print(table(signing_in.HEAD, signing_in.rows(results.sign_ins)))
            print(f"a page written and synced to this disk: {results.disk_sync.text(0)} µs", end="\n\n")
    finally:
        os.sched_setaffinity(0, everywhere)
    if "beside" in parts:
        rounds, seconds = (1, 2.0) if options.quick else (beside_sign_ins.ROUNDS, beside_sign_ins.SECONDS)
        results.beside = beside_sign_ins.measure(rounds=rounds, seconds=seconds)
        print(table(beside_sign_ins.HEAD, beside_sign_ins.rows(results.beside)), end="\n\n")
    if "stores" in parts:
        results.stores = backends.measure([each // 100 for each in SIZES] if options.quick else SIZES)
        print(table(backends.HEAD, results.stores), end="\n\n")
    for head, verdicts in (
        (bounds.PEERS_HEAD, bounds.peer_verdicts(results)),
        (bounds.ROWS_HEAD, bounds.row_verdicts(results)),
        (bounds.HEAD, bounds.verdicts(results)),
    ):
        if verdicts:
            print(table(head, bounds.rows(verdicts)), end="\n\n")
    if "serve" in parts and load_missing is not None:
        left["behind a server"] = load_missing
    for name, reason in left.items():
        print(f"left out: {name} ({reason})", file=sys.stderr)
    if options.write:
        report.PAGE.write_text(report.page(found, results, left), encoding="utf-8")
        report.PICTURE.write_text(report.picture(found, results), encoding="utf-8")


if __name__ == "__main__":
    main()
