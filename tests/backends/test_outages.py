"""Failures of engines: the log names the cause once in ten seconds, says what to do, and holds no secret."""

import asyncio
import logging
import os
import re
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import msgspec
import pytest
import redis
from scripts.ports import free_port
from sqlalchemy import create_engine, make_url, text
from sqlalchemy.ext.asyncio import create_async_engine

from harness import redis_servers
from harness.engines import ASYNC, NETWORKED, aiosqlite_ends, database, kind_of, unique_table
from harness.forks import BOTH, in_children
from powauth import _outages  # the log of outages has no public name: apps see its lines

# As above.
from powauth._outages import INTERVAL_SECONDS, MAX_CAUSES, Failure, OutageLog, report, unavailable
from powauth.backends import _lmdb_files  # to name a file system without locks
from powauth.backends.base import Backend, Record, drive, make_key, make_owner, shard_of
from powauth.backends.lmdb import LMDBBackend
from powauth.backends.redis import RedisBackend
from powauth.backends.sql import SQLBackend
from powauth.errors import ConfigError, StoreMissing, StoreUnavailable

pytestmark = pytest.mark.usefixtures("new_outage_log")

NOW = 1_900_000_000_000
OWNER = make_owner("credentials", "key-of-mia")
RECORD = Record(make_key("credentials", shard_of(OWNER) + b"public"), OWNER, 0, NOW, NOW + 1_800_000, b"the record")
PASSWORD = "pass#word/with?signs"


# The log itself


class Clock:
    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now


def lines_of(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.name == "powauth"]


def test_rep_06_a_cause_is_logged_once_in_ten_seconds(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    log = OutageLog(clock)
    down, full = Failure("the engine is down", "connection refused"), Failure("the engine is full")
    for clock.now in (0.0, 1.0, INTERVAL_SECONDS - 0.01):
        log.write(down, "OSError")
        log.write(full, "OSError")
    assert lines_of(caplog) == ["the engine is down [OSError: connection refused]", "the engine is full [OSError]"]
    caplog.clear()
    clock.now = INTERVAL_SECONDS
    log.write(down, "OSError")
    log.write(down, "Timeout")  # another cause
    clock.now = 3 * INTERVAL_SECONDS
    log.write(down, "OSError")
    assert lines_of(caplog) == [
        "the engine is down [OSError: connection refused] (2 more of these since the last line)",
        "the engine is down [Timeout: connection refused]",
        "the engine is down [OSError: connection refused]",
    ]
    assert {record.levelno for record in caplog.records} == {logging.ERROR}


def test_rep_06_words_of_the_driver_that_differ_each_time_are_one_cause(caplog: pytest.LogCaptureFixture) -> None:
    log = OutageLog(Clock())
    for number in range(100):
        log.write(Failure("a deadlock", f"process {number} waits"), "OperationalError 40P01")
    assert len(lines_of(caplog)) == 1


def test_rep_06_the_log_remembers_a_bounded_number_of_causes(caplog: pytest.LogCaptureFixture) -> None:
    clock = Clock()
    log = OutageLog(clock)
    for number in range(10 * MAX_CAUSES):
        log.write(Failure(f"cause {number}"), "OSError")
    assert len(log._seen) == MAX_CAUSES  # a bound of memory has no public face
    caplog.clear()
    log.write(Failure(f"cause {10 * MAX_CAUSES - 1}"), "OSError")
    assert lines_of(caplog) == []


@BOTH
def test_rep_01_a_child_waits_for_no_thread_of_its_parent_that_was_writing(fork: Callable[[], int]) -> None:
    entered, leave = threading.Event(), threading.Event()

    def clock() -> float:
        entered.set()
        leave.wait()
        return 0.0

    log = OutageLog(clock)
    down = Failure("the engine is down")
    writer = threading.Thread(target=log.write, args=(down, "OSError"))
    writer.start()
    entered.wait()

    def write(_: int) -> bool:
        leave.set()
        log.write(down, "OSError")
        return True

    try:
        assert in_children(write, fork) == [True]
    finally:
        leave.set()
        writer.join()


def test_rep_06_threads_that_meet_one_cause_at_once_log_it_once(caplog: pytest.LogCaptureFixture) -> None:
    log = OutageLog(Clock())
    together = threading.Barrier(8)

    def fail() -> None:
        together.wait()
        for _ in range(200):
            log.write(Failure("down"), "OSError")

    threads = [threading.Thread(target=fail) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert lines_of(caplog) == ["down [OSError]"]


def test_rep_06_a_log_that_cannot_be_written_changes_no_answer() -> None:
    class Broken(logging.Handler):
        def handle(self, record: logging.LogRecord) -> bool:
            raise OSError("no space left on device")

    handler = Broken()
    logging.getLogger("powauth").addHandler(handler)
    try:
        assert str(unavailable(Failure("down"))) == "down"
    finally:
        logging.getLogger("powauth").removeHandler(handler)


def test_rep_06_a_process_forked_while_the_log_was_busy_logs_too() -> None:
    log = OutageLog(Clock())
    with log._lock:  # as another thread holds it at the moment of a fork
        child = os.fork()
        if child == 0:
            log.write(Failure("down"), "OSError")
            os._exit(0)
        assert os.waitpid(child, 0)[1] == 0


def test_rep_06_errors_of_an_apps_own_backend_are_logged_by_class(caplog: pytest.LogCaptureFixture) -> None:
    error = StoreUnavailable("the cabinet is locked")
    error.__cause__ = LookupError("a secret")
    report(error)
    wrapped = StoreUnavailable("nobody can tell")
    wrapped.__cause__ = error
    report(wrapped)
    assert lines_of(caplog) == ["the cabinet is locked [LookupError]"]
    report(StoreUnavailable("no cause"))
    assert lines_of(caplog)[1:] == ["no cause [StoreUnavailable]"]


def test_rep_06_what_was_logged_at_its_origin_is_not_logged_again(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = Clock()
    monkeypatch.setattr(_outages, "outages", OutageLog(clock))
    error = unavailable(Failure("down"), OSError())
    clock.now = 2 * INTERVAL_SECONDS
    report(error)
    assert lines_of(caplog) == ["down [OSError]"]


# Engines


def failure_of(backend: Backend) -> StoreUnavailable:
    """What reading a record ends with."""

    async def read() -> None:
        try:
            await backend.get(RECORD.key, NOW)
        finally:
            await backend.close()

    run = asyncio.run if backend.mode == "async" else drive
    with pytest.raises(StoreUnavailable) as caught:
        run(read())
    return caught.value


def failure_of_engine(url: str, *, asynchronous: bool) -> StoreUnavailable:
    """`failure_of` a backend on an engine of the app's own."""
    if not asynchronous:
        engine = create_engine(url)
        error = failure_of(SQLBackend(engine))
        engine.dispose()
        return error

    async def read() -> StoreUnavailable:
        engine = create_async_engine(url)
        with pytest.raises(StoreUnavailable) as caught:
            await SQLBackend(engine).get(RECORD.key, NOW)
        await engine.dispose()
        await aiosqlite_ends()
        return caught.value

    return asyncio.run(read())


@contextmanager
def new_database(driver: str, folder: Path) -> Iterator[str]:
    """The URL of a database without any table."""
    where = database(kind_of(driver), folder)
    if where.kind == "sqlite":
        yield where.through(driver)
        return
    name = f"powauth_{uuid4().hex[:8]}"

    def order(statement: str) -> None:
        with where.engine() as engine, engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT").execute(text(statement))

    order(f"CREATE DATABASE {name}")
    try:
        yield make_url(where.through(driver)).set(database=name).render_as_string(hide_password=False)
    finally:
        order(f"DROP DATABASE {name}")


def check(error: StoreUnavailable, caplog: pytest.LogCaptureFixture, *words: str) -> None:
    """Both the error and its line of the log have the words, and neither has a secret."""
    (line,) = lines_of(caplog)
    for shown in (str(error), line):
        for word in words:
            assert word in shown
        for secret in (PASSWORD, "word", "key-of-mia", "credentials", "the record"):
            assert secret not in shown.replace("password", "").replace("powauth", "")
        assert shown.isprintable()
    assert all(record.exc_info is None for record in caplog.records)
    caplog.clear()


@pytest.mark.parametrize("driver", NETWORKED)
def test_rep_06_sql_a_server_that_is_not_there(driver: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    url = make_url(database(kind_of(driver), tmp_path).through(driver)).set(password=PASSWORD, host="127.0.0.1")
    away = url.set(port=free_port()).render_as_string(hide_password=False)
    check(failure_of(SQLBackend(away)), caplog, "the session database cannot be reached: check that the server runs")
    nowhere = url.set(host="no.such.invalid").render_as_string(hide_password=False)
    error = failure_of(SQLBackend(nowhere))
    assert "no.such.invalid" not in str(error), "of a URL that was read wrongly it is a part of the password"
    check(error, caplog, "has a host name that cannot be resolved", "'@', '/', '#' and '?'")


@pytest.mark.parametrize("driver", NETWORKED)
def test_rep_06_sql_a_database_that_does_not_exist(
    driver: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    url = make_url(database(kind_of(driver), tmp_path).through(driver)).set(database="nobody_has_made_it")
    error = failure_of(SQLBackend(url.render_as_string(hide_password=False)))
    assert isinstance(error, StoreMissing)
    check(error, caplog, "does not exist on the server: create it, or correct the URL", "nobody_has_made_it")


@pytest.mark.parametrize("own_engine", [False, True], ids=["url", "engine"])
@pytest.mark.parametrize("driver", ["sqlite", "aiosqlite", *NETWORKED])
def test_rep_06_sql_a_missing_table_is_named_with_the_command_that_creates_it(
    driver: str, own_engine: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with new_database(driver, tmp_path) as url:
        if own_engine:
            error = failure_of_engine(url, asynchronous=driver in ASYNC)
            way = "create powauth_sessions with SQLBackend.create_tables(), or with sessions_table() in a migration"
        else:
            error = failure_of(SQLBackend(url))
            way = (
                "create powauth_sessions with `powauth sessions --backend URL create-tables`, or with sessions_table()"
            )
        assert isinstance(error, StoreMissing)
        check(error, caplog, "the session database lacks a table", way)
        error = failure_of(SQLBackend(url, table="another"))
        check(error, caplog, "create another with SQLBackend.create_tables()")


def test_rep_06_sql_a_missing_table_is_named_over_psycopg2(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with new_database("psycopg2", tmp_path) as url:
        error = failure_of_engine(url, asynchronous=False)
        assert isinstance(error, StoreMissing)
        assert "psycopg2.errors.UndefinedTable 42P01" in lines_of(caplog)[0]
        check(error, caplog, "create powauth_sessions with SQLBackend.create_tables()")


@contextmanager
def user_of(driver: str, folder: Path) -> Iterator[str]:
    """The URL of a user of the server who has a password and may not do anything."""
    where = database(kind_of(driver), folder)
    name = f"powauth_{uuid4().hex[:8]}"
    if where.kind == "postgresql":
        make, drop, user = f"CREATE ROLE {name} LOGIN PASSWORD 'right'", f"DROP ROLE {name}", name
    else:
        user = f"{name}'@'%"
        make, drop = f"CREATE USER '{user}' IDENTIFIED BY 'right'", f"DROP USER '{user}'"
    with where.engine() as engine, engine.begin() as connection:
        connection.execute(text(make))
    try:
        url = make_url(where.through(driver)).set(username=name, password="right")
        yield url.render_as_string(hide_password=False)
    finally:
        with where.engine() as engine, engine.begin() as connection:
            connection.execute(text(drop))


@pytest.mark.parametrize("driver", NETWORKED)
def test_rep_06_sql_a_user_who_may_not(driver: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    where = database(kind_of(driver), tmp_path)
    table = unique_table()
    with where.engine() as engine:
        drive(SQLBackend(engine, table=table).create_tables())
    try:
        with user_of(driver, tmp_path) as url:
            error = failure_of(SQLBackend(url, table=table))
            check(error, caplog, "does not allow this user what powauth needs: SELECT, INSERT, UPDATE and DELETE")
            wrong = make_url(url).set(password=PASSWORD)
            if where.kind == "postgresql":  # which may trust whoever comes from here, but nobody whom it does not know
                wrong = wrong.set(username="nobody_of_that_name")
            error = failure_of(SQLBackend(wrong.render_as_string(hide_password=False), table=table))
            check(error, caplog, "refused the user name or the password of its URL")
    finally:
        where.drop(table, f"{table}_epochs")


@pytest.mark.parametrize("driver", ["sqlite", "aiosqlite"])
def test_rep_06_sqlite_files_that_cannot_be_used(driver: str, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    scheme = "sqlite+aiosqlite" if driver == "aiosqlite" else "sqlite"
    junk = tmp_path / "junk.db"
    junk.write_bytes(b"no database " * 1000)
    check(failure_of(SQLBackend(f"{scheme}:///{junk}")), caplog, "is not a SQLite file")
    folder = tmp_path / "folder"
    folder.mkdir()
    error = failure_of_engine(f"{scheme}:///{folder}", asynchronous=driver == "aiosqlite")
    check(error, caplog, "cannot be opened: check its path")


def test_rep_06_sql_a_pool_without_a_free_connection(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    engine = create_engine(f"sqlite:///{tmp_path}/x.db", pool_size=1, max_overflow=0, pool_timeout=0.01)
    with engine.connect():
        check(failure_of(SQLBackend(engine)), caplog, "no free connection in the pool")
    engine.dispose()


def test_rep_06_sql_the_words_of_an_unknown_error_are_not_repeated(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    where = database("postgresql", tmp_path)
    table = unique_table()
    with where.engine() as engine:
        backend = SQLBackend(engine, table=table)
        drive(backend.create_tables())
        try:
            with engine.begin() as connection:
                connection.execute(text(f"ALTER TABLE {table} ADD CHECK (version < 5)"))
            assert drive(backend.create(RECORD, None, NOW))
            changed = msgspec.structs.replace(RECORD, version=7)
            with pytest.raises(StoreUnavailable) as caught:
                drive(backend.update(changed, 0, NOW))
            assert "Failing row contains" in str(caught.value.__cause__), "what the driver says"
            check(caught.value, caplog, "the session database failed")
            assert caught.value.__cause__ is not None
        finally:
            where.drop(table, f"{table}_epochs")


def test_an_error_of_the_apps_own_engine_is_not_an_outage(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    def creator() -> object:
        raise LookupError("the app's vault has no such secret")

    backend = SQLBackend(create_engine(f"sqlite:///{tmp_path}/x.db", creator=creator))
    with pytest.raises(LookupError):
        drive(backend.get(RECORD.key, NOW))
    assert lines_of(caplog) == []


@pytest.mark.parametrize("driver", ["asyncpg", "asyncmy"])
def test_an_engine_of_another_event_loop_is_refused_with_the_reason(driver: str, tmp_path: Path) -> None:
    where = database(kind_of(driver), tmp_path)
    table = unique_table()
    with where.engine() as engine:
        drive(SQLBackend(engine, table=table).create_tables())
    try:
        backend = SQLBackend(where.through(driver), table=table)
        with asyncio.Runner() as first:
            assert first.run(backend.get(RECORD.key, NOW)) is None
            with asyncio.Runner() as second:
                for _ in range(2):
                    with pytest.raises(ConfigError, match="used on another event loop"):
                        second.run(backend.get(RECORD.key, NOW))
            assert first.run(backend.get(RECORD.key, NOW)) is None
            first.run(backend.close())
    finally:
        where.drop(table, f"{table}_epochs")


# Redis

both = pytest.mark.parametrize("asynchronous", [False, True], ids=["sync", "asyncio"])


@both
def test_rep_06_redis_a_server_that_is_not_there(asynchronous: bool, caplog: pytest.LogCaptureFixture) -> None:
    def at(host: str) -> RedisBackend:
        return RedisBackend(f"redis://:pass%23word@{host}/0", asynchronous=asynchronous)

    error = failure_of(at(f"127.0.0.1:{free_port()}"))
    check(error, caplog, "Redis cannot be reached: check that the server runs")
    error = failure_of(at("no.such.invalid"))
    assert "no.such.invalid" not in str(error)
    check(error, caplog, "has a host name that cannot be resolved")


@both
@redis_servers.needs_server
def test_rep_06_redis_what_a_server_refuses(
    asynchronous: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with redis_servers.own_server(tmp_path / "server") as server:

        def at(credentials: str = "", database: int = 0) -> RedisBackend:
            url = f"redis://{credentials}127.0.0.1:{server.port}/{database}"
            return RedisBackend(url, prefix="secretprefix", asynchronous=asynchronous)

        def write(backend: RedisBackend) -> StoreUnavailable:
            async def create() -> None:
                try:
                    await backend.create(RECORD, None, NOW)
                finally:
                    await backend.close()

            with pytest.raises(StoreUnavailable) as caught:
                asyncio.run(create()) if asynchronous else drive(create())
            return caught.value

        check(failure_of(at(database=99)), caplog, "has no database of the number in the URL")
        server.ask("ACL SETUSER", "app", "on", ">right", "~secretprefix:*", "+@connection", "+get")
        check(failure_of(at("app:pass%23word@")), caplog, "refused the user name or the password of its URL")
        check(write(at("app:right@")), caplog, "does not allow this user what powauth needs")
        server.ask("CONFIG SET", "maxmemory", "1")
        check(write(at()), caplog, "is full: raise its maxmemory")
        server.ask("CONFIG SET", "maxmemory", "0")
        server.ask("CONFIG SET", "min-replicas-to-write", "1")
        check(write(at()), caplog, "too few replicas")
        server.ask("CONFIG SET", "min-replicas-to-write", "0")
        server.ask("REPLICAOF", "127.0.0.1", str(free_port()))
        check(write(at()), caplog, "takes no writes: it is a replica")
        server.ask("REPLICAOF", "NO", "ONE")
        server.ask("CONFIG SET", "requirepass", "right")
        check(failure_of(at()), caplog, "wants a password: write it into the URL")


@both
@redis_servers.needs_server
def test_rep_06_redis_the_rights_of_the_docs_suffice(asynchronous: bool, tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "backends.md").read_text()
    (rule,) = re.findall(r"^ +(ACL SETUSER .*)$", page, re.MULTILINE)
    with redis_servers.own_server(tmp_path / "server") as server:
        server.ask(*rule.replace("PASSWORD", "right").split())
        for query in ("", "?near_cache=10"):
            url = f"redis://powauth:right@127.0.0.1:{server.port}/0{query}"
            backend = RedisBackend(url, asynchronous=asynchronous)

            async def every_verb(backend: RedisBackend = backend) -> None:
                epoch = await backend.epoch(OWNER, NOW, advance=True)
                assert await backend.create(RECORD, epoch, NOW)
                assert await backend.get(RECORD.key, NOW) == RECORD
                assert await backend.update(msgspec.structs.replace(RECORD, version=1), 0, NOW)
                assert len(await backend.list(OWNER, NOW)) == await backend.count("credentials", NOW) == 1
                assert await backend.delete(RECORD.key, NOW)
                assert await backend.create(RECORD, epoch, NOW)
                assert await backend.delete_owner(OWNER, NOW) == 1
                for number in range(1200):  # more than one command revokes
                    key = make_key("credentials", shard_of(OWNER) + b"%d" % number)
                    assert await backend.create(msgspec.structs.replace(RECORD, key=key), None, NOW)
                assert len(await backend.list(OWNER, NOW)) == 1200
                assert await backend.delete_owner(OWNER, NOW, keep=RECORD.key) == 1200
                await backend.purge(10, NOW)
                await backend.close()

            asyncio.run(every_verb()) if asynchronous else drive(every_verb())
        assert server.ask("ACL LOG") == []


@redis_servers.needs_server
def test_rep_06_redis_an_unknown_command_shows_no_arguments(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with redis_servers.own_server(tmp_path / "server", "--rename-command", "GET", "") as server:
        error = failure_of(RedisBackend(server.url))
        assert "with args" in str(error.__cause__), "what the server says"
        check(error, caplog, "lacks a command that powauth needs")


def test_an_error_of_the_apps_own_redis_client_is_not_an_outage(caplog: pytest.LogCaptureFixture) -> None:
    class Vault(redis.CredentialProvider):
        def get_credentials(self) -> tuple[str, str]:
            raise LookupError("the app's vault has no such secret")

    client = redis.Redis(port=6379, credential_provider=Vault(), socket_timeout=5)
    with pytest.raises(LookupError):
        drive(RedisBackend(client).get(RECORD.key, NOW))
    client.close()
    assert lines_of(caplog) == []


# LMDB


def test_rep_06_lmdb_a_full_store(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    backend = LMDBBackend(tmp_path / "db", map_size=1 << 20, max_map_size=1 << 20)

    async def fill() -> None:
        for number in range(1000):
            key = make_key("credentials", shard_of(OWNER) + b"%d" % number)
            await backend.create(msgspec.structs.replace(RECORD, key=key, value=b"the record " * 4000), None, NOW)

    with pytest.raises(StoreUnavailable) as caught:
        drive(fill())
    check(caught.value, caplog, "the LMDB store is full: purge it, or raise max_map_size")
    drive(backend.close())


def test_rep_06_lmdb_a_folder_that_became_unusable(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "db"
    backend = LMDBBackend(path)
    (path / _lmdb_files.DATA).chmod(0o666)
    child = os.fork()  # which opens the files anew
    if child == 0:
        failed = 1
        try:
            drive(backend.delete(RECORD.key, NOW))
        except StoreUnavailable as error:
            failed = 0 if "cannot be opened again" in str(error) and "chmod go-w" in str(error) else 2
        finally:
            os._exit(failed)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
    (path / _lmdb_files.DATA).chmod(0o600)
    drive(backend.close())


@pytest.mark.parametrize("make", [LMDBBackend, lambda path: SQLBackend(f"sqlite:///{path}.db")])
def test_rep_06_a_backend_that_was_closed_says_so(
    make: Callable[[Path], Backend], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    backend = make(tmp_path / "db")
    drive(backend.close())
    with pytest.raises(StoreUnavailable):
        drive(backend.delete(RECORD.key, NOW))
    assert "closed" in lines_of(caplog)[0]
