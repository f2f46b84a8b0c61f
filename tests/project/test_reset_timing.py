"""``scripts.reset_timing`` runs and counts. Nothing here depends on a time."""

from pathlib import Path

import pytest
from scripts.reset_timing import ANSWERS, REGISTRATION, RESET, Flow, measure, prepare, served, verdict


@pytest.mark.filterwarnings("ignore:insecure_http=True")
@pytest.mark.parametrize("flow", [RESET, REGISTRATION], ids=lambda flow: str(flow.name))
@pytest.mark.parametrize("interface", ["asgi", "wsgi"])
def test_each_kind_of_address_is_measured_after_the_warm_up(interface: str, flow: Flow, tmp_path: Path) -> None:
    file = tmp_path / "users.sqlite3"
    addresses = prepare(file, flow, rounds=3)
    assert len({each for of_kind in addresses.values() for each in of_kind}) == 3 * ANSWERS * len(flow.kinds)
    with served(interface, file) as url:
        found = measure(url, flow, addresses, warm_up=1)
    assert {kind: len(times) for kind, times in found.items()} == dict.fromkeys(flow.kinds, 2)


@pytest.mark.parametrize(("slow", "holds", "said"), [(1.04, True, "within 1.05"), (1.06, False, "ABOVE 1.05")])
def test_medians_more_than_five_per_cent_apart_are_refused(slow: float, holds: bool, said: str) -> None:
    within, line = verdict({"known": [slow] * 9, "unknown": [1.0] * 9})
    medians = f"known {slow * 1000:.2f} ms, unknown 1000.00 ms"
    assert within is holds
    assert line == f"{medians}; known / unknown {slow:.3f} (95 %: {slow:.3f} to {slow:.3f}), {said}"


def test_the_interval_shows_noise() -> None:
    """The medians are equal. About half of all draws from such samples have the other median."""
    noisy = [1.0] * 13 + [1.4] * 14
    within, line = verdict({"known": noisy, "unknown": noisy})
    assert within
    assert "unknown / known 1.000 (95 %: 0.714 to 1.400)" in line
