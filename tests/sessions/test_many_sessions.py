"""Users with many sessions and stores with many records: what ``make faults`` shows at full size, here with fewer."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from benchmarks import revocation, scale
from benchmarks.servers import (
    MISSING_POSTGRESQL,
    MISSING_REDIS,
    directory,
    postgresql_binaries,
    redis_executable,
)

SESSIONS = 1_500
RECORDS = 20_000

MISSING = {
    "Redis": None if redis_executable() else MISSING_REDIS,
    "PostgreSQL": None if postgresql_binaries() else MISSING_POSTGRESQL,
}


@pytest.mark.parametrize("engine", revocation.ENGINES)
def test_revoke_all_is_complete_while_20_clients_sign_in_as_that_user(
    engine: str, report: Callable[[str], None]
) -> None:
    if reason := MISSING.get(engine):
        pytest.skip(reason)
    with directory() as folder:  # pytest's own does not let PostgreSQL's user in
        found = asyncio.run(revocation.revoke_on(engine, folder, SESSIONS))
    report(
        f"revoke-all of {SESSIONS} sessions and 20 clients signing in: {engine}: {found.ended} ended in "
        f"{found.seconds * 1000:.0f} ms, round trips: {found.round_trips or 'none'}"
    )
    assert found.ended >= SESSIONS
    assert found.survivors == 0
    assert found.lost == 0
    if engine == "Redis":
        chunks = -(-found.ended // 500)
        assert found.round_trips is not None
        assert found.round_trips <= chunks + 2, "one for each 500, and one for a script that the server did not know"


@pytest.mark.parametrize("engine", scale.ENGINES)
def test_lists_revocations_and_cleaning_at_scale(engine: str, tmp_path: Path, report: Callable[[str], None]) -> None:
    if reason := MISSING.get(engine):
        pytest.skip(reason)
    costs = {cost.verb: cost for cost in scale.ENGINES[engine](tmp_path, RECORDS)}
    assert len(costs) == 6
    for cost in costs.values():
        # Of processor time: Redis's slow log also counts the time that a busy machine's other processes take. If a
        # virtual machine is paused, that counts as processor time. One call in 500 may meet a pause. A command that
        # takes too long would do so in each call.
        heavy = [each for each in cost.worked if each >= scale.SLOW_MICROSECONDS / 1e6]
        assert len(heavy) <= cost.calls // 500, f"{cost.verb}: commands of Redis took {heavy} seconds, not under 10 ms"
        took, waits = sorted(cost.took), [undisturbed for _, undisturbed in cost.waits]
        beside = f", longest read beside it {max(waits) * 1000:.2f} ms" if waits else ""
        report(f"{RECORDS} records: {engine}: {cost.verb}: {took[len(took) // 2] * 1000:.2f} ms{beside}")
