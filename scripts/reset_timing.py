"""Measures whether the time of a request for a reset tells who has an account: ``python -m scripts.reset_timing``.

A server on the loopback answers requests for a known, an unknown, a locked and a password-less user, in turns. The
program prints the median of each kind and the ratio of the slowest to the fastest. It is no test: a busy machine adds
noise.
"""

import argparse
import itertools
import logging
import random
import secrets
import statistics
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from email.message import EmailMessage
from pathlib import Path
from typing import Any
from wsgiref.simple_server import WSGIRequestHandler, make_server

import httpx
import sqlalchemy as sa
import uvicorn
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from powauth import CookieCarrier, Limit, SessionAuth
from powauth.accounts.sqlalchemy import SQLAlchemyUsers, UserMixin
from powauth.backends.memory import MemoryBackend
from powauth.extensions.reset_password import ResetPassword
from powauth.integrations import asgi, wsgi
from powauth.pages import asgi as asgi_pages
from powauth.pages import wsgi as wsgi_pages

SAMPLES = 200
KINDS = ("known", "unknown", "locked", "password-less")
PLENTY = Limit(1_000_000, timedelta(hours=1))


class Base(DeclarativeBase):
    """The tables."""


class User(UserMixin, Base):
    """A user who can be locked."""

    __tablename__ = "users"

    is_active: Mapped[bool] = mapped_column(default=True)


class Nowhere:
    """A mailer that throws mail away. A thread sends mail, so its time is not in the answers anyway."""

    def send(self, message: EmailMessage) -> None:
        """Do nothing."""


def prepare(file: Path) -> None:
    """Make a user of each kind but the unknown one."""
    engine = sa.create_engine(f"sqlite:///{file}")
    Base.metadata.create_all(engine)
    with engine.begin() as connection:
        for kind in KINDS:
            if kind != "unknown":
                row = {"email": f"{kind}@example.org", "is_active": kind != "locked"}
                password_hash = None if kind == "password-less" else "$argon2id$v=19$m=8,t=1,p=1$c2FsdHNhbHQ$aGFzaA"
                connection.execute(sa.insert(User).values(**row, password_hash=password_hash))
    engine.dispose()


def auth_of(engine: sa.Engine | AsyncEngine) -> SessionAuth[User, Any]:
    """Return the authenticator, with limits that the samples do not reach."""
    reset = ResetPassword(Nowhere(), per_address=PLENTY, per_source=PLENTY)
    return SessionAuth(
        secret_key=secrets.token_urlsafe(48),
        users=SQLAlchemyUsers(engine, User),
        backend=MemoryBackend(),
        public_url="http://localhost",
        carrier=CookieCarrier(insecure_http=True),
        extensions=[reset],
    )


class _Quiet(WSGIRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        """Log nothing."""


@contextmanager
def served(kind: str, file: Path) -> Iterator[str]:
    """Serve the pages, and return their address."""
    if kind == "wsgi":
        auth = auth_of(sa.create_engine(f"sqlite:///{file}"))
        server = make_server(
            "127.0.0.1", 0, wsgi.SessionAuthMiddleware(wsgi_pages.PagesApp(auth), auth), handler_class=_Quiet
        )
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}"
        server.shutdown()
        return
    auth = auth_of(create_async_engine(f"sqlite+aiosqlite:///{file}"))
    app = asgi.SessionAuthMiddleware(asgi_pages.PagesApp(auth), auth)
    uvicorn_server = uvicorn.Server(uvicorn.Config(app, port=0, log_level="warning", lifespan="off", ws="none"))
    thread = threading.Thread(target=uvicorn_server.run, daemon=True)
    thread.start()
    while not uvicorn_server.started:
        time.sleep(0.01)
    port = uvicorn_server.servers[0].sockets[0].getsockname()[1]
    yield f"http://127.0.0.1:{port}"
    uvicorn_server.should_exit = True
    thread.join(30)


def measure(url: str, samples: int) -> dict[str, list[float]]:
    """Return the times of the answers in seconds, by kind of user."""
    found: dict[str, list[float]] = {kind: [] for kind in KINDS}
    rounds = (random.sample(KINDS, len(KINDS)) for _ in range(samples + 10))
    with httpx.Client(base_url=url, timeout=30) as client:
        for number, kind in enumerate(itertools.chain.from_iterable(rounds)):
            time.sleep(0.3)  # the background work of the request before is done
            begun = time.perf_counter()
            answer = client.post("/password/forgot", json={"email": f"{kind}@example.org"})
            took = time.perf_counter() - begun
            if answer.status_code != 202:  # noqa: PLR2004 - Accepted
                raise SystemExit(f"the answer for a {kind} user is {answer.status_code}")
            if number >= 10 * len(KINDS):  # the first ones warm up
                found[kind].append(took)
    return found


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--samples", type=int, default=SAMPLES)
    samples = parser.parse_args().samples
    logging.getLogger("powauth").setLevel(logging.CRITICAL)
    for kind in ("asgi", "wsgi"):
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "users.sqlite3"
            prepare(file)
            with served(kind, file) as url:
                found = measure(url, samples)
        medians = {name: statistics.median(times) * 1000 for name, times in found.items()}
        shown = ", ".join(f"{name} {value:.2f} ms" for name, value in medians.items())
        print(f"{kind}: {shown}; ratio {max(medians.values()) / min(medians.values()):.3f}")


if __name__ == "__main__":
    main()
