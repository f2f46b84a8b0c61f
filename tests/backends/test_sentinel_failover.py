"""Row 10 of the table on a real failover: the store loses the write of a renewal, and nobody notices."""

import time
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from harness.all_backends import Bridge
from harness.http_support import App
from harness.redis_servers import PATIENCE, Server, info, needs_server, own_sentinel, wait_for, wait_for_replica
from harness.support import Browser, Kind
from powauth.backends.base import Backend, drive
from powauth.backends.redis import RedisBackend

RENEWAL = 900

pytestmark = needs_server


@pytest.fixture
def servers(tmp_path: Path) -> Iterator[tuple[Server, Server, str]]:
    with own_sentinel(tmp_path) as (master, replica, sentinel):
        yield master, replica, f"redis+sentinel://{sentinel.address}/main"


def ask_until_served(browser: Browser) -> int:
    """How many answers were 503, each with the cookie untouched, before the new master served."""
    deadline = time.monotonic() + PATIENCE
    refused = 0
    while time.monotonic() < deadline:
        response = browser.get("/private")
        if response.status == 200:
            return refused
        assert (response.status, response.set_cookies) == (503, [])
        refused += 1
    raise AssertionError("nobody was served again")


@pytest.mark.parametrize("kind", ["asgi", "wsgi"])
def test_row_10_a_failover_that_loses_a_renewal_signs_nobody_out(
    kind: Kind, servers: tuple[Server, Server, str]
) -> None:
    master, replica, url = servers

    def make() -> RedisBackend:
        return RedisBackend(url, asynchronous=kind == "asgi", timeout=timedelta(seconds=2))

    backend: Backend = Bridge(make()) if kind == "asgi" else make()
    app = App(backend, kind)
    browser, other = app.signed_in(), app.signed_in()
    wait_for_replica(master)
    # From here on the replica hears nothing.
    replica.ask("REPLICAOF", "127.0.0.1", "1")
    stale = browser.copy()
    app.clock.advance(RENEWAL)
    assert len(browser.get("/").set_cookies) == 1
    newer = app.id_of(browser)
    signed_in_late = app.signed_in()

    master.kill()
    assert ask_until_served(browser) > 0
    wait_for(lambda: info(replica, "replication")["role"] == "master", "a new master")
    assert app.id_of(browser) == newer
    assert app.event_names[-1] == "forwarded"
    brought, untouched = sorted((stored.session for stored in app.stored), key=lambda session: -session.generation)
    assert (brought.generation, brought.confirmed, untouched.generation) == (1, True, 0)

    # Who was not renewed is where they were; a sign-in that was lost is nobody's; an older id gets the newer one.
    assert other.get("/private").status == 200
    assert signed_in_late.get("/").json() == {"user": None}
    assert stale.get("/private").status == 200
    assert app.id_of(stale) == newer
    assert browser.get("/logout").status == 200
    assert stale.get("/private").status == 401
    drive(backend.close())
