"""Measures whether the time of an answer tells who has an account: ``python -m scripts.reset_timing``.

A server on the loopback, first under ASGI and then under WSGI, answers two flows:

- requests for a reset of the password, for known, unknown, locked and password-less users;
- registrations with `ConfirmEmail`, for unknown, confirmed and unconfirmed addresses.

The kinds take turns in a random order. A sample is the median of five answers to one kind. No address is used twice, so
no kind profits from a cache. For each flow the program prints the median of each kind, and the ratio of the slowest to
the fastest with a bootstrap interval of 95 %. An interval that contains 1 shows no difference. The program exits with 1
if a ratio is above 1.05.

With 200 samples of each kind it takes some five minutes. It is no test: a busy machine adds noise.
"""

import argparse
import asyncio
import logging
import random
import secrets
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from email.message import EmailMessage
from pathlib import Path
from typing import Any, Final, NamedTuple
from wsgiref.simple_server import WSGIRequestHandler, make_server

import httpx
import sqlalchemy as sa
import uvicorn
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from powauth import CookieCarrier, Limit, SessionAuth
from powauth.accounts.sqlalchemy import SQLAlchemyUsers, UserMixin
from powauth.backends.base import drive
from powauth.backends.memory import MemoryBackend
from powauth.extensions.confirm_email import ConfirmEmail, ConfirmEmailMixin
from powauth.extensions.reset_password import ResetPassword
from powauth.integrations import asgi, wsgi
from powauth.pages import asgi as asgi_pages
from powauth.pages import wsgi as wsgi_pages

SAMPLES: Final = 200
ANSWERS: Final = 5
"""Answers to one kind in a round. Their median is one sample, because a single answer may meet a switch of threads."""

WARM_UP: Final = 10
"""Rounds that are not counted."""

BOUND: Final = 1.05
"""The highest ratio of two medians of one flow."""

RESAMPLES: Final = 2000
"""Draws of the bootstrap."""

PLENTY: Final = Limit(1_000_000, timedelta(hours=1))
PASSWORD_HASH: Final = "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$aGFzaA"  # noqa: S105 - of no password

Times = Mapping[str, Sequence[float]]
"""The samples in seconds, by kind of address."""


REST: Final = 0.4
"""Seconds to wait after a round. Its background work begins a quarter of a second later."""


class Flow(NamedTuple):
    """A form that takes an address.

    Attributes:
        name: the name that is printed.
        path: the path of the form.
        kinds: for each kind of address, the columns of its user; ``None`` if it has no user.
    """

    name: str
    path: str
    kinds: Mapping[str, Mapping[str, object] | None]


_USER: Final = {
    "password_hash": PASSWORD_HASH,
    "is_active": True,
    "email_confirmed_at": datetime(2026, 1, 1, tzinfo=UTC),
}

RESET: Final = Flow(
    name="reset",
    path="/password/forgot",
    kinds={
        "known": _USER,
        "unknown": None,
        "locked": {**_USER, "is_active": False},
        "password-less": {**_USER, "password_hash": None},
    },
)
REGISTRATION: Final = Flow(
    name="registration",
    path="/register",
    kinds={"unknown": None, "confirmed": _USER, "unconfirmed": {**_USER, "email_confirmed_at": None}},
)


class Base(DeclarativeBase):
    """The tables."""


class User(ConfirmEmailMixin, UserMixin, Base):
    """A user who can be locked."""

    __tablename__ = "users"

    is_active: Mapped[bool] = mapped_column(default=True)


class Nowhere:
    """A mailer that throws mail away. A thread sends mail, so its time is not in the answers anyway."""

    def send(self, message: EmailMessage) -> None:
        """Do nothing."""


def new_address() -> str:
    """Return an address that nobody has. All have the same length."""
    return f"{secrets.token_hex(8)}@example.org"


def prepare(file: Path, flow: Flow, rounds: int) -> dict[str, list[str]]:
    """Add the users of a flow to the table. Return `ANSWERS` addresses of each kind for each round."""
    addresses = {kind: [new_address() for _ in range(rounds * ANSWERS)] for kind in flow.kinds}
    engine = sa.create_engine(f"sqlite:///{file}")
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        for kind, columns in flow.kinds.items():
            if columns is not None:
                connection.execute(sa.insert(User), [{**columns, "email": each} for each in addresses[kind]])
    engine.dispose()
    return addresses


def auth_of(engine: sa.Engine | AsyncEngine) -> SessionAuth[User, Any]:
    """Return the authenticator, with limits that the samples do not reach."""
    mailer = Nowhere()
    return SessionAuth(
        secret_key=secrets.token_urlsafe(48),
        users=SQLAlchemyUsers(engine, User),
        backend=MemoryBackend(),
        public_url="http://localhost",
        carrier=CookieCarrier(insecure_http=True),
        extensions=[ResetPassword(mailer, per_source=PLENTY), ConfirmEmail(mailer, per_source=PLENTY)],
    )


class _Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Log nothing."""


@contextmanager
def served(kind: str, file: Path) -> Iterator[str]:
    """Serve the pages, and return their address."""
    if kind == "wsgi":
        blocking = sa.create_engine(f"sqlite:///{file}")
        auth = auth_of(blocking)
        server = make_server(
            "127.0.0.1", 0, wsgi.SessionAuthMiddleware(wsgi_pages.PagesApp(auth), auth), handler_class=_Quiet
        )
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        thread.join(30)
        server.server_close()
        drive(auth.aclose())
        blocking.dispose()
        return
    engine = create_async_engine(f"sqlite+aiosqlite:///{file}")
    auth = auth_of(engine)
    app = asgi.SessionAuthMiddleware(asgi_pages.PagesApp(auth), auth)
    uvicorn_server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", lifespan="off", ws="none"))

    async def serve() -> None:
        await uvicorn_server.serve()
        await auth.aclose()
        await engine.dispose()

    thread = threading.Thread(target=lambda: asyncio.run(serve()), daemon=True)
    thread.start()
    while not uvicorn_server.started:
        time.sleep(0.01)
    port = uvicorn_server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    uvicorn_server.should_exit = True
    thread.join(30)


def measure(url: str, flow: Flow, addresses: Mapping[str, Sequence[str]], warm_up: int = WARM_UP) -> Times:
    """Return the samples, without those of the first rounds.

    Raises:
        SystemExit: if an answer is not 202.
    """
    found: dict[str, list[float]] = {kind: [] for kind in addresses}
    with httpx.Client(base_url=url, timeout=30) as client:

        def ask(address: str) -> float:
            begun = time.perf_counter()
            answer = client.post(flow.path, json={"email": address})
            took = time.perf_counter() - begun
            if answer.status_code != 202:  # noqa: PLR2004 - Accepted
                raise SystemExit(f"{flow.name}: an answer is {answer.status_code}: {answer.text}")
            return took

        for number in range(min(map(len, addresses.values())) // ANSWERS):
            ask(new_address())  # the first request after a rest is slower
            times: dict[str, list[float]] = {kind: [] for kind in addresses}
            for turn in range(ANSWERS):
                for kind in random.sample(list(addresses), len(addresses)):
                    times[kind].append(ask(addresses[kind][number * ANSWERS + turn]))
            if number >= warm_up:
                for kind, each in times.items():
                    found[kind].append(statistics.median(each))
            time.sleep(REST)
    return found


def verdict(times: Times) -> tuple[bool, str]:
    """Return whether the medians are within the bound, and a line that says so."""
    medians = {kind: statistics.median(each) for kind, each in times.items()}
    fast, *_, slow = sorted(medians, key=medians.__getitem__)
    ratio = medians[slow] / medians[fast]
    drawn = sorted(_resampled(times[slow]) / _resampled(times[fast]) for _ in range(RESAMPLES))
    low, high = drawn[RESAMPLES // 40], drawn[-RESAMPLES // 40]
    shown = ", ".join(f"{kind} {value * 1000:.2f} ms" for kind, value in medians.items())
    holds = ratio <= BOUND
    judged = "within" if holds else "ABOVE"
    return holds, f"{shown}; {slow} / {fast} {ratio:.3f} (95 %: {low:.3f} to {high:.3f}), {judged} {BOUND}"


def _resampled(times: Sequence[float]) -> float:
    return statistics.median(random.choices(times, k=len(times)))  # noqa: S311 - no secret


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure and print. Return 1 if a flow is above the bound."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=SAMPLES, help="samples of each kind (default: %(default)s)")
    rounds = parser.parse_args(arguments).samples + WARM_UP
    logging.getLogger("powauth").setLevel(logging.CRITICAL)
    all_hold = True
    for kind in ("asgi", "wsgi"):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "users.sqlite3"
            addresses = [(flow, prepare(file, flow, rounds)) for flow in (RESET, REGISTRATION)]
            with served(kind, file) as url:
                for flow, of_flow in addresses:
                    holds, line = verdict(measure(url, flow, of_flow))
                    print(f"{kind}, {flow.name}: {line}", flush=True)
                    all_hold = all_hold and holds
    return 0 if all_hold else 1


if __name__ == "__main__":
    sys.exit(main())
