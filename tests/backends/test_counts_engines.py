"""Round trips to real engines that requests take, counted by a proxy between the app and the engine."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
from sqlalchemy import make_url

from harness import redis_servers
from harness.engines import database, kind_of, unique_table
from harness.http_support import App
from harness.support import Browser, Kind
from harness.tcp_proxy import Proxy
from powauth.backends.base import Backend, drive
from powauth.backends.redis import RedisBackend
from powauth.backends.sql import SQLBackend

DRIVERS = ["redis", "psycopg", "asyncpg", "mariadb_pymysql"]

WARM_UPS = 7
"""Requests of each kind before one is counted: connections are made, scripts are loaded and statements prepared."""


@contextmanager
def behind_proxy(driver: str, kind: Kind, folder: Path) -> Iterator[tuple[Callable[[], Backend], Proxy]]:
    """What makes a backend that reaches its engine through a proxy."""
    if driver == "redis":
        if not redis_servers.shared_answers():
            pytest.skip(f"no Redis at {redis_servers.SHARED}: start one, or set POWAUTH_TEST_REDIS")
        server = urlsplit(redis_servers.SHARED)
        prefix = redis_servers.unique_prefix()[:60]
        with Proxy(server.hostname or "", server.port or 6379) as proxy:
            url = server._replace(netloc=f"127.0.0.1:{proxy.port}").geturl()
            yield (
                lambda: RedisBackend(url, prefix=prefix, asynchronous=kind == "asgi", timeout=timedelta(seconds=30)),
                proxy,
            )
        redis_servers.clear_shared(prefix)
        return
    where = database(kind_of(driver), folder)
    table = unique_table()
    with where.engine() as engine:
        drive(SQLBackend(engine, table=table).create_tables())
    try:
        with Proxy(where.server.host or "127.0.0.1", where.server.port or 0) as proxy:
            through = make_url(where.through(driver)).set(host="127.0.0.1", port=proxy.port)
            url = through.render_as_string(hide_password=False)
            yield lambda: SQLBackend(url, table=table, timeout=timedelta(seconds=30)), proxy
    finally:
        where.drop(table, f"{table}_epochs")


class Visits:
    """Requests to an app on one event loop, or on none."""

    def __init__(self, app: App, proxy: Proxy, runner: asyncio.Runner) -> None:
        self.app = app
        self.proxy = proxy
        self.runner = runner

    def visit(self, browser: Browser, path: str) -> int:
        """One request; the round trips that it took."""
        before = self.proxy.round_trips
        sending: Any = browser.cookie_header()
        if self.app.kind == "asgi":
            response = self.runner.run(browser.send_asgi(path, sending, {}))
        else:
            response = browser.send(path, sending, {})
        assert response.status == 200
        browser.take(response)
        return self.proxy.round_trips - before


@pytest.mark.parametrize(
    ("driver", "kind"),
    [(driver, kind) for driver in DRIVERS for kind in ("asgi", "wsgi") if (driver, kind) != ("asyncpg", "wsgi")],
)
def test_round_trips_of_requests(driver: str, kind: Kind, tmp_path: Path) -> None:
    sync_on_asgi = kind == "asgi" and driver in {"psycopg", "mariadb_pymysql"}
    with behind_proxy(driver, kind, tmp_path) as (make, proxy), asyncio.Runner() as runner:
        visits = Visits(App(make(), kind), proxy, runner)
        app = visits.app
        found: dict[str, int] = {}
        for _ in range(WARM_UPS + 1):
            browser = app.browser()
            found = {
                "anonymous": visits.visit(browser, "/"),
                "sign-in": visits.visit(browser, "/login"),
                "request": visits.visit(browser, "/"),
            }
            app.clock.advance(900)
            found["renewal"] = visits.visit(browser, "/")
            found["confirmation"] = visits.visit(browser, "/")
            found["sign-out"] = visits.visit(browser, "/logout")
        if app.kind == "asgi" and not sync_on_asgi:
            runner.run(app.backend.inner.close())
        else:
            drive(app.backend.inner.close())
    # MariaDB: no CTE that writes, so a first sign-in makes the epoch's row in a statement of its own.
    sign_in = 4 if driver == "mariadb_pymysql" else 3
    assert found == {
        "anonymous": 0,
        "sign-in": sign_in,
        "request": 1,
        "renewal": 2,
        "confirmation": 2,
        "sign-out": 2,
    }
