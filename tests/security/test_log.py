"""LOG: what is told of every flow, and what never is, whatever logs."""

import dataclasses
import importlib
import inspect
import json
import logging
import pkgutil
import re
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase

import powauth
from harness.core_support import KINDS, the_ids
from harness.support import SECRET, START, Browser, Clock, CountingBackend, Kind, Request, make_app
from powauth import Event, SessionAuth, StoreUnavailable
from powauth.accounts.passwords import PasswordHasher
from powauth.accounts.sqlalchemy import SQLAlchemyUsers, UserMixin
from powauth.backends.base import Backend, drive
from powauth.backends.lmdb import LMDBBackend
from powauth.backends.sql import SQLBackend, create_tables
from powauth.sessions.ids import PresentedId, encode_sid

PASSWORD = "seven-red-herons-sing"
WRONG = "six-black-herons-croak"
NEW = "nine-blue-herons-dive"
OUTSIDE = "eve\r\nroot signed_in\x1b[2J\u202e\u2028@example.org"
ADA = "ada@example.org"
NEW_ADDRESS = "ada.l@example.org"


class Base(DeclarativeBase):
    pass


class Account(UserMixin, Base):
    __tablename__ = "accounts_of_logs"


class Run:
    """Every flow, once, over real users and a store of a database or LMDB."""

    def __init__(self, kind: Kind, folder: Path, *, store: str = "lmdb", on_event: Any = None) -> None:
        self.kind = kind
        self.engine = create_engine(f"sqlite:///{folder / 'users'}", hide_parameters=True)
        Base.metadata.create_all(self.engine)
        hasher = PasswordHasher(time_cost=1, memory_cost=8, cheap_and_unsafe=True)
        self.users = SQLAlchemyUsers(self.engine, Account, hasher=hasher)
        if store == "sql":
            create_tables(self.engine)
        inner: Backend = SQLBackend(self.engine) if store == "sql" else LMDBBackend(folder / "db", durable=False)
        self.backend = CountingBackend(inner)
        self.clock = Clock()
        self.events: list[Event] = []
        listener = self.events.append if on_event is None else on_event
        self.auth = SessionAuth(
            secret_key=SECRET, users=self.users, backend=self.backend, clock=self.clock, on_event=listener
        )
        self.work: Callable[[Request], Any] | None = None
        self.app = make_app(kind, self.auth, {"/do": self._do})
        self.ids: set[str] = set()
        self.statuses: list[int] = []

    async def _do(self, request: Request) -> object:
        assert self.work is not None
        await self.work(request)
        return None

    def browser(self) -> Browser:
        return Browser(self.app, self.kind)

    def do(self, browser: Browser, name: str, *arguments: object, **options: object) -> int:
        async def work(request: Request) -> None:
            await request.call(name, *arguments, **options)

        self.work = work
        return self.get(browser, "/do")

    def get(self, browser: Browser, path: str = "/") -> int:
        status = browser.get(path).status
        self.ids.update(browser.jar.values())
        self.statuses.append(status)
        return status

    def log_in(self, browser: Browser, email: str = ADA, password: str = PASSWORD) -> int:
        return self.do(browser, "sign_in", {"email": email, "password": password})

    def everything(self) -> None:
        browser, other, thief = self.browser(), self.browser(), self.browser()
        self.do(browser, "register", {"email": ADA, "password": PASSWORD})
        self.do(self.browser(), "register", {"email": ADA, "password": PASSWORD})
        for email, password in ((ADA, WRONG), (OUTSIDE, WRONG), ("nobody@example.org", WRONG)):
            self.log_in(other, email, password)
        self.log_in(other)
        thief.jar = dict(other.jar)
        self.clock.advance(900)
        self.get(other)
        self.get(other)
        self.clock.advance(60)
        self.get(thief)  # reuse: the session ends
        self.get(other)  # and is unknown
        self.get(Browser(self.app, self.kind, {self.auth.carrier.name: "A" * 72}))
        self.log_in(other)
        current = self.do_sessions(browser)
        self.do(browser, "revoke", current)
        self.log_in(other)
        self.do(browser, "revoke_others")
        self.do(browser, "update_user", {"current_password": WRONG, "email": NEW_ADDRESS})
        self.do(browser, "update_user", {"current_password": PASSWORD, "email": NEW_ADDRESS})
        self.do(browser, "update_user", {"current_password": PASSWORD, "password": NEW})
        self.do(browser, "update_metadata", device="phone")
        for _ in range(12):
            self.log_in(self.browser(), ADA, WRONG)
        self.backend.fail["*"] = StoreUnavailable("down")
        self.get(browser, "/private")
        self.do(browser, "sign_out")
        self.backend.fail.clear()
        browser = self.browser()
        self.log_in(browser, NEW_ADDRESS, NEW)
        self.do(browser, "sign_out")
        self.log_in(browser, NEW_ADDRESS, NEW)
        self.do(browser, "delete_user", {"current_password": NEW})

    def do_sessions(self, browser: Browser) -> str:
        found: list[Any] = []

        async def work(request: Request) -> None:
            found.extend(await request.call("sessions"))

        self.work = work
        self.get(browser, "/do")
        (other,) = [each.sid for each in found if not each.current]
        return str(other)

    @property
    def presented(self) -> list[PresentedId]:
        return [found for value in self.ids if (found := the_ids().decode(value)) is not None]

    def close(self) -> None:
        drive(self.users.close())
        drive(self.backend.close())
        self.engine.dispose()


STATUSES_OF_FAILURES = {422, 429, 503}


@pytest.mark.parametrize("kind", KINDS)
def test_log_01_every_flow_is_told_of(kind: Kind, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, logger="powauth")
    run = Run(kind, tmp_path)
    run.everything()
    names = [event.name for event in run.events]
    assert set(names) >= {
        "registered", "signed_in", "sign_in_refused", "throttled", "renewed", "reuse_detected", "unknown_id",
        "forged_id", "revoked", "updated", "signed_out", "sign_out_failed", "store_unavailable", "deleted",
    }  # fmt: skip
    assert [event.detail for event in run.events if event.name == "updated"] == ["credentials", "credentials"]
    sids = {encode_sid(found.sid) for found in run.presented}
    for event in run.events:
        assert datetime.fromtimestamp(START, UTC) <= event.at <= datetime.fromtimestamp(run.auth.now() / 1000, UTC)
        assert event.sid is None or event.sid in sids
        if event.name not in ("revoked", "sign_out_failed"):
            assert event.ip == "192.0.2.1"
        if event.name in ("registered", "signed_in", "renewed", "reuse_detected", "updated", "signed_out", "deleted"):
            assert event.user_key is not None
        if event.name in ("signed_in", "renewed", "reuse_detected", "signed_out"):
            assert event.sid is not None
    lines = [record.getMessage() for record in caplog.records if record.getMessage().startswith(tuple(names))]
    assert len(lines) == len(names)
    for line, event in zip(lines, run.events, strict=True):
        assert line.isascii()
        assert line.isprintable()
        assert json.loads(line.partition(" ")[2])["name"] == event.name
    for text in (OUTSIDE, "root", "\u202e", "example.org"):
        assert not any(text in line for line in lines)
    run.close()


class BrokenHandler(logging.Handler):
    """A log that cannot be written, and does not keep that to itself."""

    def __init__(self) -> None:
        super().__init__()
        self.tried = 0

    def handle(self, record: logging.LogRecord) -> bool:
        self.tried += 1
        raise OSError("no space left on device")


@contextmanager
def handling(handler: logging.Handler, *names: str, level: int = logging.DEBUG) -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in names]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.addHandler(handler)
        logger.setLevel(level)
    try:
        yield
    finally:
        for logger, before in zip(loggers, levels, strict=True):
            logger.removeHandler(handler)
            logger.setLevel(before)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("broken", ["log", "listener", "both"])
def test_log_01_a_sink_that_fails_breaks_nothing_and_lets_nothing_through(
    kind: Kind, broken: str, tmp_path: Path
) -> None:
    folders = [tmp_path / "calm", tmp_path / "broken"]
    for folder in folders:
        folder.mkdir()
    calm = Run(kind, folders[0])
    calm.everything()
    assert set(calm.statuses) >= STATUSES_OF_FAILURES

    def listener(event: Event) -> None:
        raise OSError(event.name)

    handler = BrokenHandler()
    run = Run(kind, folders[1], on_event=None if broken == "log" else listener)
    with handling(handler, *([] if broken == "listener" else ["powauth"])):
        run.everything()
    assert run.statuses == calm.statuses
    assert (handler.tried > 0) is (broken != "listener")
    for each in (calm, run):
        each.close()


class Everything(logging.Handler):
    """All that any logger says, with arguments and tracebacks, as a formatter of a careless app writes it."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(f"{record.name} {record.getMessage()} {record.args!r} {record.__dict__!r}")
        if record.exc_info and record.exc_info[1] is not None:
            self.lines.append("".join(traceback.TracebackException(*record.exc_info, capture_locals=True).format()))


def secrets_of(run: Run) -> dict[str, str]:
    """What must be nowhere, by what it is."""
    secrets = {"key": SECRET, "password": PASSWORD, "wrong password": WRONG, "new password": NEW, "hash": "$argon2"}
    secrets |= {f"id {number}": value for number, value in enumerate(sorted(run.ids))}
    assert len(run.presented) > 5
    for number, found in enumerate(run.presented):
        secrets |= {f"salt {number}": repr(found.salt)[2:-1], f"salt {number} in hex": found.salt.hex()}
    return secrets


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("store", ["lmdb", "sql"])
def test_log_02_no_secret_is_in_any_log_at_any_level(kind: Kind, store: str, tmp_path: Path) -> None:
    handler = Everything()

    def listener(event: Event) -> None:
        raise RuntimeError(event.name)  # so that tracebacks are logged, with all locals

    # SQLAlchemy's statements are logged at INFO. At DEBUG it logs the rows that it reads too, whatever it is told to
    # hide; the security page says so.
    powauth = handling(handler, "", "powauth", "powauth.accounts", "asyncio")
    with powauth, handling(handler, "sqlalchemy", level=logging.INFO):
        run = Run(kind, tmp_path, store=store, on_event=listener)
        run.everything()
    text = "\n".join(handler.lines)
    assert "Traceback" in text
    assert "throttled" in text
    assert "INSERT INTO accounts_of_logs" in text
    assert [what for what, secret in secrets_of(run).items() if secret in text] == []
    assert not re.search(r"sqlite:///|lmdb://", text)
    run.close()


@pytest.mark.parametrize("kind", KINDS)
def test_log_02_errors_that_reach_the_app_hold_no_secret(kind: Kind, tmp_path: Path) -> None:
    run = Run(kind, tmp_path)
    run.everything()
    browser = run.browser()
    caught: list[str] = []
    failures: list[tuple[str, tuple[object, ...]]] = [
        ("register", ({"email": OUTSIDE, "password": WRONG},)),
        ("register", ({"email": ADA, "password": "short"},)),
        ("update_user", ({"current_password": WRONG, "password": NEW},)),
        ("sign_in", ({"email": ADA, "password": WRONG},)),
        ("revoke", (next(iter(run.ids)),)),
        ("update_metadata", ()),
    ]
    for state in ("up", "down"):
        if state == "down":
            run.backend.fail["*"] = StoreUnavailable("down")
        for name, arguments in failures:

            async def work(request: Request, name: str = name, arguments: tuple[object, ...] = arguments) -> None:
                try:
                    await request.call(name, *arguments)
                except Exception as error:
                    caught.append("".join(traceback.format_exception(error)) + repr(error) + repr(error.__dict__))

            run.work = work
            browser.get("/do")
    assert len(caught) > 6
    text = "\n".join(caught)
    # The source lines of a traceback name parameters, never values.
    assert [what for what, secret in secrets_of(run).items() if what != "hash" and secret in text] == []
    for part in (run.auth, run.auth.store, run.auth.carrier, run.backend.inner, run.users, run.auth.accounts):
        shown = repr(part)
        assert [what for what, secret in secrets_of(run).items() if secret in shown] == []
    run.close()


HOLDS_SECRETS = {
    "token",
    "link",
    "secret",
    "seed",
    "cookies",
    "password",
    "raw",
    "challenge",
    "json",
    "body",
}
"""Names of fields whose values, or parts of them, a log must not have."""

SHOWN = {"Vary", "Answer"}
"""Their ``raw`` and ``body`` are the same for every client."""


def test_log_02_no_structure_shows_a_secret_in_its_representation() -> None:
    found = 0
    for info in pkgutil.walk_packages(powauth.__path__, "powauth."):
        if info.name.endswith("__main__"):
            continue
        module = importlib.import_module(info.name)
        for one in vars(module).values():
            if not isinstance(one, type) or one.__module__ != info.name or one.__name__ in SHOWN:
                continue
            names = getattr(one, "__match_args__", ())
            held = HOLDS_SECRETS & {*names} if isinstance(names, tuple) else set()
            if not held:
                continue
            found += 1
            fields = dataclasses.fields(one) if dataclasses.is_dataclass(one) else ()
            hidden = {each.name for each in fields if not each.repr}
            own = "__repr__" in inspect.getsource(one)
            assert own or held <= hidden, f"{info.name}.{one.__name__} shows {held - hidden}"
    assert found > 8
