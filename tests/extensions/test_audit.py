"""`Audit`: every event gets to the table or is counted as lost, and no failure of the table touches a request."""

import asyncio
import logging
import os
import threading
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine

from harness.core_support import KINDS
from harness.support import SECRET, Browser, Kind
from harness.tables_support import ADA, TableSite
from harness.users_databases import (
    ASYNC,
    BLOCKING,
    PASSWORD,
    Base,
    blocking_engine,
    cheap_hasher,
    run_async,
    table_name,
)
from powauth import ConfigError, Event, EventKind, Extension, SessionAuth
from powauth.accounts.identity import Key
from powauth.accounts.sqlalchemy import SQLAlchemyUsers, UserMixin
from powauth.accounts.throttle import Limit, Throttle
from powauth.accounts.user_keys import MAX_USER_KEY_CHARS, user_key_text
from powauth.backends.base import drive
from powauth.backends.memory import MemoryBackend
from powauth.extensions.audit import Audit, AuditMixin, Entry
from powauth.integrations import wsgi
from powauth.pages import wsgi as wsgi_pages
from powauth.testing import ExtensionConformance

WRONG = "six black herons"
HOSTILE = "eve\r\nroot signed_in\x1b[2J\u202e\u2028\0\ud800\\"
ODD = EventKind("odd", "an event of these tests")


class Person(UserMixin, Base):
    __tablename__ = table_name()


class Activity(AuditMixin, Base):
    __tablename__ = table_name()


class Odd(Extension[Any]):
    """Emits whatever it is told to."""

    name = "odd"
    events = (ODD,)
    parts: Any

    def bind(self, parts: Any) -> "Odd":
        bound = type(self)()
        bound.parts = parts
        return bound


Make = Callable[..., TableSite]


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    sites: list[TableSite] = []
    with blocking_engine("sqlite", str(tmp_path), Person, Activity) as engine:

        def site(kind: Kind = "wsgi", **options: Any) -> TableSite:
            chosen = {
                name: options.pop(name) for name in ("synchronous", "skip", "capacity", "closing") if name in options
            }
            sites.append(TableSite(kind, engine, Person, [Audit(engine, Activity, **chosen), Odd()], **options))
            return sites[-1]

        yield site
        for each in sites:
            drive(each.auth.aclose())


def audit(site: TableSite) -> Audit:
    return site.auth.extension(Audit)


def written(site: TableSite) -> list[Entry]:
    """The entries, oldest first, after the writer has written what waits."""
    drive(audit(site).aclose())
    return drive(audit(site).recent(limit=1000))[::-1]


def text_of(key: Key | None) -> str | None:
    return None if key is None else user_key_text(key)


def fill(site: TableSite, browser: Browser) -> None:
    site.call(browser, "sign_in", {"email": ADA, "password": WRONG})
    site.call(browser, "sign_in", {"email": ADA, "password": PASSWORD})
    site.call(browser, "update_user", {"current_password": PASSWORD, "email": "ada.l@example.org"})
    site.call(browser, "sign_out")


# --- what is written --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("synchronous", [False, True])
def test_log_01_every_event_is_an_entry(kind: Kind, synchronous: bool, make: Make) -> None:
    site = make(kind, synchronous=synchronous)
    fill(site, site.browser())
    entries = written(site)
    assert entries[0].event == "registered"
    assert [
        (each.event, each.at, each.user_key, each.sid, each.ip, each.detail, each.actor) for each in entries[1:]
    ] == [
        (each.name, each.at, text_of(each.user_key), each.sid, each.ip, each.detail, text_of(each.actor))
        for each in site.events
    ]
    assert {"sign_in_refused", "signed_in", "updated", "revoked", "signed_out"} <= {each.event for each in entries}
    assert audit(site).lost == 0


def test_log_01_values_from_outside_are_printable(make: Make) -> None:
    site = make()
    emit = site.auth.extension(Odd).parts.emit
    emit(ODD, HOSTILE.replace("\ud800", ""), HOSTILE * 9, actor="a b")
    entry = written(site)[-1]
    for text in (entry.user_key, entry.detail, entry.actor):
        assert text is not None
        assert text.isascii()
        assert text.isprintable()
        assert len(text) <= MAX_USER_KEY_CHARS
    assert str(entry.detail).startswith("eve\\r\\nroot signed_in\\x1b[2J\\u202e\\u2028\\x00\\ud800\\\\")
    assert entry.actor == user_key_text("a b")


def test_nobody_without_an_account_fills_the_table(make: Make) -> None:
    site = make(throttle=Throttle(per_account=Limit(3, timedelta(minutes=5)), per_source=None))
    for _ in range(20):
        site.call(site.browser(), "sign_in", {"email": ADA, "password": WRONG})
        site.browser().send("/", "__Host-auth=a; __Host-auth=b", {})
    names = [each.name for each in site.events]
    assert (names.count("throttled"), names.count("conflicting_ids")) == (17, 20)
    assert [each.event for each in written(site)[1:]] == ["sign_in_refused"] * 3 + ["throttled"]
    site.clock.advance(60)
    site.call(site.browser(), "sign_in", {"email": ADA, "password": WRONG})
    assert written(site)[-1].event == "throttled"


def test_log_02_no_entry_holds_a_secret(make: Make) -> None:
    site = make()
    browser = site.browser()
    fill(site, browser)
    site.sign_in(browser)
    everything = repr(written(site))
    for secret in (PASSWORD, WRONG, ADA, *browser.jar.values()):
        assert secret not in everything


def test_events_of_extensions_are_entries_and_some_events_are_skipped(make: Make) -> None:
    site = make(skip=("signed_in",))
    site.sign_in(site.browser())
    site.auth.extension(Odd).parts.emit(ODD)
    assert [each.event for each in written(site)] == ["registered", "odd"]


def test_by_default_nobody_fills_the_table_with_made_up_ids(make: Make) -> None:
    site = make()
    for _ in range(3):
        Browser(site.app, "wsgi", {site.auth.carrier.name: "A" * 72}).get("/")
    assert "forged_id" in site.event_names
    assert [each.event for each in written(site)] == ["registered"]


@pytest.mark.parametrize("driver", BLOCKING)
def test_the_table_on_every_database(driver: str, tmp_path: Path) -> None:
    with blocking_engine(driver, str(tmp_path), Person, Activity) as engine:
        site = TableSite("wsgi", engine, Person, [Audit(engine, Activity), Odd()])
        emit = site.auth.extension(Odd).parts.emit
        for key in ("Ann", "ann", "ann ", "\u00e4nn", "x" * 255, "\u00e4" * 127):
            emit(ODD, key, HOSTILE)
        drive(audit(site).aclose())
        for key in ("Ann", "ann", "ann ", "\u00e4nn", "x" * 255, "\u00e4" * 127):
            (entry,) = drive(audit(site).recent(key))
            assert (entry.event, entry.at) == ("odd", site.now())
        assert drive(audit(site).recent("ANN")) == []
        site.clock.advance(3600.25)
        emit(ODD)
        drive(audit(site).aclose())
        assert drive(audit(site).purge(timedelta(hours=1))) == 7
        assert [each.at for each in drive(audit(site).recent())] == [site.now()]
        assert drive(audit(site).purge(timedelta(hours=1))) == 0


@pytest.mark.parametrize("driver", ASYNC)
def test_the_table_over_an_asynchronous_engine(driver: str, tmp_path: Path) -> None:
    async def scenario(engine: AsyncEngine) -> None:
        users: SQLAlchemyUsers[Person, Any] = SQLAlchemyUsers(engine, Person, hasher=cheap_hasher())
        auth: SessionAuth[Any, Any] = SessionAuth(
            secret_key=SECRET, users=users, backend=MemoryBackend(), extensions=[Audit(engine, Activity), Odd()]
        )
        ada = await auth.create_account({"email": ADA, "password": PASSWORD})
        emit = auth.extension(Odd).parts.emit
        await asyncio.to_thread(emit, ODD, None, "in a thread")
        for number in range(250):
            emit(ODD, None, str(number))
        await auth.aclose()
        entries = await auth.extension(Audit).recent(limit=1000)
        assert [each.detail for each in entries[::-1]][1:] == ["in a thread", *map(str, range(250))]
        assert [each.event for each in await auth.extension(Audit).recent(ada)] == ["registered"]
        assert await auth.extension(Audit).purge(timedelta(days=1)) == 0
        assert auth.extension(Audit).lost == 0

    run_async(driver, str(tmp_path), [Person, Activity], scenario)


def test_the_background_writes_without_being_closed(make: Make) -> None:
    site = make()
    done = threading.Event()

    def note(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if Activity.__tablename__ in statement:
            done.set()

    sa.event.listen(site.engine, "after_cursor_execute", note)
    site.sign_in(site.browser())
    assert done.wait(60)


# --- what fails -------------------------------------------------------------------------------------------------------


def statuses(site: TableSite) -> list[int]:
    browser, found = site.browser(), []
    for name, *arguments in (
        ("sign_in", {"email": ADA, "password": WRONG}),
        ("sign_in", {"email": ADA, "password": PASSWORD}),
        ("update_user", {"current_password": WRONG, "password": "eleven grey geese"}),
        ("update_user", {"current_password": PASSWORD, "password": "eleven grey geese"}),
        ("sign_out",),
    ):
        found.append(site.call(browser, name, *arguments).status)
        found.append(len(browser.jar))
    return found


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("synchronous", [False, True])
def test_log_01_a_table_that_fails_breaks_nothing_and_lets_nobody_in(
    kind: Kind, synchronous: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    found = []
    for broken in (False, True):
        folder = tmp_path / str(broken)
        folder.mkdir()
        with blocking_engine("sqlite", str(folder), Person, Activity) as engine:
            extensions = [Audit(engine, Activity, synchronous=synchronous), Odd()]
            site = TableSite(kind, engine, Person, extensions)
            drive(audit(site).aclose())
            if broken:
                site.sql(sa.text(f"DROP TABLE {Activity.__tablename__}"))
            found.append(statuses(site))
            drive(site.auth.aclose())
            assert (audit(site).lost > 0) is broken
            assert ("audit_lost" in site.event_names) is broken
    assert found[0] == found[1]
    errors = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert "the audit log could not be written" in {record.getMessage() for record in errors}
    assert PASSWORD not in caplog.text


def test_a_gap_is_reported_when_it_begins_and_when_it_ends(make: Make) -> None:
    site = make(synchronous=True)
    emit = site.auth.extension(Odd).parts.emit
    name = Activity.__tablename__
    site.sql(sa.text(f"ALTER TABLE {name} RENAME TO away"))
    for _ in range(3):
        emit(ODD)
    site.sql(sa.text(f"ALTER TABLE away RENAME TO {name}"))
    emit(ODD)
    emit(ODD)
    lost = [event.detail for event in site.events if event.name == "audit_lost"]
    assert lost == ["StoreMissing", "3 entries lost"]
    assert audit(site).lost == 3
    assert [each.event for each in written(site)] == ["registered", "odd", "odd"]


def test_a_full_queue_drops_and_counts(make: Make) -> None:
    """The database waits, and events go on. No call of a request waits for it."""
    site = make(capacity=5)
    drive(audit(site).aclose())
    began, go_on = threading.Event(), threading.Event()

    def hold(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if Activity.__tablename__ in statement:
            began.set()
            assert go_on.wait(60)

    sa.event.listen(site.engine, "before_cursor_execute", hold)
    emit = site.auth.extension(Odd).parts.emit
    emit(ODD, None, "first")
    assert began.wait(60)
    for number in range(9):
        emit(ODD, None, str(number))
    assert audit(site).lost == 4
    assert site.event_names.count("audit_lost") == 1
    go_on.set()
    details = [each.detail for each in written(site)]
    assert details == [None, "first", "0", "1", "2", "3", "4"]
    assert [event.detail for event in site.events if event.name == "audit_lost"] == [
        "the queue is full",
        "4 entries lost",
    ]


def test_what_waits_too_long_at_the_end_is_counted(make: Make) -> None:
    site = make(closing=timedelta(milliseconds=50))
    drive(audit(site).aclose())
    began, go_on = threading.Event(), threading.Event()
    writers: list[threading.Thread] = []

    def hold(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if Activity.__tablename__ in statement and not began.is_set():
            writers.append(threading.current_thread())
            began.set()
            assert go_on.wait(60)

    sa.event.listen(site.engine, "before_cursor_execute", hold)
    emit = site.auth.extension(Odd).parts.emit
    emit(ODD)
    assert began.wait(60)
    emit(ODD)
    drive(site.auth.aclose())
    assert audit(site).lost == 1
    go_on.set()
    drive(site.auth.aclose())  # the writer need not wait for more
    writers[0].join(60)
    assert not writers[0].is_alive(), "its connection would stay open after the engine is disposed of"


def test_no_thread_is_left_to_start(make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    """As when the process ends, or has as many threads as it may."""
    site = make()
    drive(audit(site).aclose())

    def start(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    site.auth.extension(Odd).parts.emit(ODD)
    assert audit(site).lost == 1
    monkeypatch.undo()
    site.auth.extension(Odd).parts.emit(ODD)
    assert [each.event for each in written(site)] == ["registered", "odd"]


def test_a_forked_process_writes_its_own_entries_and_none_of_the_parents(make: Make) -> None:
    site = make()
    drive(audit(site).aclose())
    began, go_on = threading.Event(), threading.Event()

    def hold(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if Activity.__tablename__ in statement and not began.is_set():
            began.set()
            assert go_on.wait(60)

    sa.event.listen(site.engine, "before_cursor_execute", hold)
    emit = site.auth.extension(Odd).parts.emit
    emit(ODD, None, "held")
    assert began.wait(60)
    emit(ODD, None, "waits")
    child = os.fork()
    if child == 0:
        emit(ODD, None, "of the child")
        drive(site.auth.aclose())
        os._exit(audit(site).lost)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    go_on.set()
    assert sorted(str(each.detail) for each in written(site)) == ["None", "held", "of the child", "waits"]


def test_an_event_in_a_thread_after_the_loop_has_ended_waits_for_the_next_loop(tmp_path: Path) -> None:
    engine = create_async_engine(f"sqlite+aiosqlite:///{tmp_path}/db", poolclass=sa.NullPool)
    users: SQLAlchemyUsers[Person, Any] = SQLAlchemyUsers(engine, Person, hasher=cheap_hasher())
    auth: SessionAuth[Any, Any] = SessionAuth(
        secret_key=SECRET, users=users, backend=MemoryBackend(), extensions=[Audit(engine, Activity), Odd()]
    )
    emit = auth.extension(Odd).parts.emit

    async def first() -> None:
        async with engine.begin() as connection:
            await connection.run_sync(lambda inner: Base.metadata.create_all(inner, [Activity.__table__]))  # type: ignore[list-item]
        emit(ODD, None, "first")
        await asyncio.sleep(0)
        await auth.aclose()

    emit(ODD, None, "before any loop")
    asyncio.run(first())
    emit(ODD, None, "between two loops")

    async def second() -> list[str | None]:
        await auth.aclose()
        found = [each.detail for each in await auth.extension(Audit).recent()]
        await engine.dispose()
        return found

    assert asyncio.run(second()) == ["between two loops", "first", "before any loop"]
    assert auth.extension(Audit).lost == 0


def test_an_asynchronous_queue_drops_and_counts(tmp_path: Path) -> None:
    async def scenario(engine: AsyncEngine) -> None:
        users: SQLAlchemyUsers[Person, Any] = SQLAlchemyUsers(engine, Person, hasher=cheap_hasher())
        auth: SessionAuth[Any, Any] = SessionAuth(
            secret_key=SECRET,
            users=users,
            backend=MemoryBackend(),
            extensions=[Audit(engine, Activity, capacity=5, closing=timedelta(milliseconds=1)), Odd()],
        )
        found = auth.extension(Audit)
        for _ in range(9):
            auth.extension(Odd).parts.emit(ODD)
        assert found.lost == 4
        async with engine.begin() as connection:
            await connection.execute(sa.text(f"DROP TABLE {Activity.__tablename__}"))
        await asyncio.sleep(0)
        await auth.aclose()
        assert found.lost == 9
        async with engine.begin() as connection:
            await connection.run_sync(lambda inner: Base.metadata.create_all(inner, [Activity.__table__]))  # type: ignore[list-item]

    run_async("sqlite+aiosqlite", str(tmp_path), [Person, Activity], scenario)


# --- the page ---------------------------------------------------------------------------------------------------------


class Pages:
    """The pages under WSGI, and clients of them."""

    def __init__(self, site: TableSite) -> None:
        self.site = site
        self.app = wsgi.SessionAuthMiddleware(wsgi_pages.PagesApp(site.auth), site.auth)

    def client(self, **headers: str) -> httpx.Client:
        return httpx.Client(transport=httpx.WSGITransport(self.app), base_url="https://app.example", headers=headers)

    def signed_in(self, email: str = ADA, **headers: str) -> httpx.Client:
        client = self.client(**headers)
        asked = {"email": email, "password": PASSWORD}
        assert client.post("/login", json=asked, headers={"origin": "https://app.example"}).status_code == 200
        return client


@pytest.fixture
def pages(make: Make) -> Pages:
    return Pages(make(synchronous=True))


def test_a_user_sees_the_own_activity_newest_first(pages: Pages) -> None:
    site = pages.site
    drive(site.auth.create_account(email="bob@example.org", password=PASSWORD))
    pages.signed_in("bob@example.org")
    site.clock.advance(60)
    client = pages.signed_in(accept="application/json")
    found = client.get("/account/activity").json()["activity"]
    assert [(each["event"], each["current"]) for each in found] == [("signed_in", True), ("registered", False)]
    assert set(found[0]) == {"event", "at", "ip", "session", "current"}
    assert found[0]["at"] == site.now().isoformat(timespec="milliseconds").replace("+00:00", "Z")


def test_people_see_texts(pages: Pages) -> None:
    page = pages.signed_in(accept="text/html").get("/account/activity")
    assert page.status_code == 200
    assert "You signed in" in page.text
    assert "You created your account" in page.text
    assert "Recent activity" in pages.signed_in(accept="text/html").get("/account").text


ALERT = "an old copy of its sign-in was used"


def test_the_account_page_tells_of_a_reuse_until_the_sign_in_after_the_next(pages: Pages) -> None:
    """The user has been signed out by it, and learns the reason at the next sign-in."""

    def told() -> bool:
        return ALERT in pages.signed_in(accept="text/html").get("/account").text

    assert not told()
    reuse = Event(name="reuse_detected", at=pages.site.now(), user_key=pages.site.ada.id)
    audit(pages.site).on_event(reuse)
    page = pages.signed_in(accept="text/html").get("/account").text
    assert f'role="status"><a href="/account/activity">A device was signed out, because {ALERT}.' in page
    assert not told()
    audit(pages.site).on_event(Event(name="reuse_detected", at=pages.site.now(), user_key="somebody else"))
    assert not told()


def test_the_account_page_is_shown_although_the_table_fails(pages: Pages) -> None:
    client = pages.signed_in(accept="text/html")
    pages.site.sql(sa.text(f"DROP TABLE {Activity.__tablename__}"))
    page = client.get("/account")
    assert (page.status_code, "Recent activity" in page.text) == (200, True)


def test_nobody_sees_activity_without_signing_in(pages: Pages) -> None:
    assert pages.client(accept="application/json").get("/account/activity").status_code == 401
    assert pages.client(accept="text/html").get("/account/activity").status_code == 303
    client = pages.signed_in(accept="application/json")
    assert client.post("/account/activity", headers={"origin": "https://app.example"}).status_code == 405


def test_pge_03_what_came_from_outside_is_text(make: Make) -> None:
    site = make(synchronous=True)
    audit(site).on_event(
        Event(name="signed_in", at=site.now(), user_key=site.ada.id, ip='"><script>\u202e{{7*7}}', sid="<b>")
    )
    page = Pages(site).signed_in(accept="text/html").get("/account/activity").text
    assert "<script>" not in page
    assert "\u202e" not in page
    assert "&#34;&gt;&lt;script&gt;\\u202e{{7*7}}" in page


def test_uid_04_a_new_user_of_an_old_key_sees_nothing_of_the_former_one(pages: Pages) -> None:
    site = pages.site
    key = site.ada.id
    client = pages.signed_in(accept="application/json")
    for name in ("signed_in", "deleted"):
        audit(site).on_event(Event(name=name, at=site.now(), user_key=key, ip="192.0.2.66"))
    assert client.get("/account/activity").json() == {"activity": []}
    audit(site).on_event(Event(name="registered", at=site.now(), user_key=key))
    assert [each["event"] for each in client.get("/account/activity").json()["activity"]] == ["registered"]


def test_a_page_over_a_table_that_fails_is_an_outage(pages: Pages) -> None:
    client = pages.signed_in(accept="application/json")
    pages.site.sql(sa.text(f"DROP TABLE {Activity.__tablename__}"))
    reply = client.get("/account/activity")
    assert reply.status_code == 503
    assert Activity.__tablename__ not in reply.text


# --- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"synchronous": "yes"}, "synchronous must be True or False"),
        ({"skip": "signed_in"}, "skip must be a collection of names of events, not str"),
        ({"skip": ["deleted"]}, "skip must not contain 'deleted': Audit needs it"),
        ({"capacity": 0}, "the capacity of an audit log must be a whole number of 1 or more"),
        ({"closing": 10}, "the closing of an audit log must be"),
        ({"model": Person}, "the model of the audit log must be a declarative class with AuditMixin"),
        ({"model": AuditMixin}, "the model of the audit log must be a declarative class with AuditMixin"),
        ({"engine": "sqlite://"}, "engine must be a SQLAlchemy Engine or AsyncEngine"),
    ],
)
def test_a_wrong_option_is_refused(options: dict[str, Any], message: str) -> None:
    given: dict[str, Any] = {"engine": sa.create_engine("sqlite://"), "model": Activity} | options
    with pytest.raises(ConfigError, match=message):
        Audit(given.pop("engine"), given.pop("model"), **given)


def test_a_synchronous_log_needs_an_engine() -> None:
    with pytest.raises(ConfigError, match="synchronous=True needs an Engine"):
        Audit(create_async_engine("sqlite+aiosqlite://"), Activity, synchronous=True)


def test_without_a_path_there_is_no_page(make: Make) -> None:
    site = make()
    assert [page.path for page in audit(site).pages()] == ["/account/activity"]
    assert Audit(site.engine, Activity, path=None).pages() == []


def test_what_is_no_user_or_no_time_is_refused(make: Make) -> None:
    site = make()
    with pytest.raises(ConfigError, match="a user's key must be"):
        drive(audit(site).recent(1.5))
    with pytest.raises(ConfigError, match="limit must be a whole number"):
        drive(audit(site).recent(limit=0))
    with pytest.raises(ConfigError, match="older_than must be"):
        drive(audit(site).purge(datetime.now(UTC)))  # type: ignore[arg-type]


class TestConformance(ExtensionConformance):
    @pytest.fixture(autouse=True)
    def _engine(self, tmp_path: Path) -> Iterator[None]:
        with blocking_engine("sqlite", str(tmp_path), Activity) as self.engine:
            yield

    def make_extension(self) -> Extension[Any]:
        return Audit(self.engine, Activity)
