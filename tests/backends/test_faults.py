"""What ``make faults`` shows, with fewer clients and faults: no failure of an engine signs anybody out or in."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from benchmarks import faults
from benchmarks.load import Findings
from benchmarks.servers import (
    MISSING_POSTGRESQL,
    MISSING_REDIS,
    directory,
    postgresql_binaries,
    redis_executable,
)

CLIENTS = 100
HOLD = 1.5

Report = Callable[[str], None]

needs_redis = pytest.mark.skipif(redis_executable() is None, reason=MISSING_REDIS)
needs_postgresql = pytest.mark.skipif(postgresql_binaries() is None, reason=MISSING_POSTGRESQL)


@pytest.fixture(autouse=True)
def _quiet() -> None:
    faults.quiet()


def note(report: Report, found: list[Findings]) -> None:
    for each in found:
        report(
            f"faults: {each.engine}, {each.fault}: {each.requests} requests, {each.refused} answered 503, "
            f"all {CLIENTS} served after {each.served_after:.2f} s"
        )


def check(found: Findings) -> None:
    assert found.signed_out == 0
    assert found.signed_in == 0
    assert found.errors == []
    assert found.public_failures == 0
    assert found.requests
    assert found.sign_ins[0] >= 2, "sign-ins work before and after"


@needs_redis
def test_sto_07_redis_stopped_killed_cut_off_and_planted_signs_nobody_out_or_in(tmp_path: Path, report: Report) -> None:
    found: list[Findings] = []
    asyncio.run(faults.redis_faults(tmp_path, CLIENTS, HOLD, found.append, brief=True))
    note(report, found)
    for each in found:
        check(each)
    assert all(each.refused for each in found[:3]), "the engine was away"


@needs_redis
def test_sto_07_redis_that_keeps_nothing_signs_everybody_out_and_nobody_in(tmp_path: Path) -> None:
    found: list[Findings] = []
    asyncio.run(faults.redis_loss(tmp_path, CLIENTS, HOLD, found.append))
    assert found[0].signed_out >= CLIENTS
    assert (found[0].signed_in, found[0].errors, found[0].public_failures) == (0, [], 0)


@needs_postgresql
def test_sto_07_postgresql_stopped_killed_cut_off_and_planted_signs_nobody_out_or_in(report: Report) -> None:
    found: list[Findings] = []
    with directory() as folder:  # pytest's own does not let the server's user in
        asyncio.run(faults.postgres_faults(folder, CLIENTS, HOLD, found.append, brief=True))
    note(report, found)
    for each in found:
        check(each)
    assert all(each.refused for each in found[:3]), "the engine was away"


def test_sto_07_lmdb_with_a_stopped_or_killed_writer_full_and_planted_signs_nobody_out_or_in(
    tmp_path: Path, report: Report
) -> None:
    found: list[Findings] = []
    asyncio.run(faults.lmdb_faults(tmp_path, CLIENTS, HOLD, found.append, brief=True))
    note(report, found)
    for each in found:
        check(each)
        assert each.refused == 0, "reading needs neither the writer nor room"
    stopped = found[0]
    assert stopped.slowest > HOLD / 2, "writers waited for the one that was stopped"
