"""Abilities of backends: how they are asked for, and that a wrapper has those of what it wraps."""

from pathlib import Path

import pytest
from sqlalchemy import create_engine
from sqlalchemy.ext.asyncio import create_async_engine

from harness.small_backend import NearBackend, PlacedBackend, SmallBackend, SmallTransactional
from powauth import ConfigError
from powauth.backends.anywhere import AnywhereBackend, anywhere
from powauth.backends.base import (
    Backend,
    Change,
    CountsEpochs,
    Create,
    Delete,
    Mode,
    PerProcess,
    ReadsInPlace,
    Record,
    ServesCopies,
    Transactional,
    Update,
    WouldWaitError,
    drive,
    make_changes,
    reads_engine_in_place,
)
from powauth.backends.lmdb import LMDBBackend
from powauth.backends.memory import MemoryBackend
from powauth.backends.redis import RedisBackend
from powauth.backends.sql import SQLBackend, SQLiteBackend
from powauth.backends.wrapping import BackendWrapper

ABILITIES = (ReadsInPlace, ServesCopies, Transactional, CountsEpochs, PerProcess)
RECORD = Record(b"app:k", b"app:1", 0, 1_000, 9_000, b"value")


def abilities_of(backend: Backend) -> set[type]:
    return {each for each in ABILITIES if isinstance(backend, each)}


class Plain(BackendWrapper):
    """Passes everything on."""

    mode: Mode = "inline"

    def __init__(self, inner: Backend) -> None:
        self.inner = inner

    def here(self) -> Backend:
        return self.inner


def test_the_backends_say_what_they_can_do(tmp_path: Path) -> None:
    lmdb = LMDBBackend(tmp_path / "lmdb")
    assert abilities_of(MemoryBackend()) == {ReadsInPlace, CountsEpochs, PerProcess}
    assert abilities_of(lmdb) == {ReadsInPlace, Transactional, CountsEpochs}
    assert abilities_of(RedisBackend("redis://127.0.0.1")) == {ReadsInPlace, ServesCopies}
    assert abilities_of(SQLBackend("postgresql+psycopg://127.0.0.1:1/none")) == set()
    drive(lmdb.close())


def test_over_a_sqlite_file_for_threads_the_backend_reads_in_place(tmp_path: Path) -> None:
    url = f"{tmp_path}/app.db"
    for engine in (f"sqlite:///{url}", f"sqlite+pysqlite:///{url}", create_engine(f"sqlite:///{url}")):
        assert type(SQLBackend(engine)) is SQLiteBackend
    for driver in (f"sqlite+aiosqlite:///{url}", create_async_engine(f"sqlite+aiosqlite:///{url}")):
        assert type(SQLBackend(driver)) is SQLBackend
    with pytest.raises(ConfigError, match="use SQLBackend"):
        SQLiteBackend("postgresql+psycopg://127.0.0.1:1/none")


@pytest.mark.parametrize("kind", [SmallBackend, SmallTransactional, PlacedBackend, NearBackend, MemoryBackend])
def test_a_wrapper_has_the_abilities_of_what_it_wraps(kind: type[Backend]) -> None:
    inner = kind()
    wrapped = Plain(Plain(inner))
    assert isinstance(wrapped, Plain)
    assert abilities_of(wrapped) == abilities_of(inner)
    assert drive(make_changes(wrapped, [Create(RECORD)], 1_000)) == 1
    assert drive(wrapped.get(RECORD.key, 1_000)) == RECORD
    if isinstance(wrapped, ReadsInPlace):
        assert wrapped.get_at_once(RECORD.key, 1_000) == RECORD
    if isinstance(wrapped, ServesCopies):
        assert drive(wrapped.get_fresh(RECORD.key, 1_000)) == RECORD
    if isinstance(wrapped, CountsEpochs):
        assert drive(wrapped.latest_epoch(1_000)) == 0
    assert drive(wrapped.list(RECORD.owner, 1_000)) == [RECORD]
    assert drive(wrapped.delete_owner(RECORD.owner, 1_000)) == 1
    drive(wrapped.close())


def test_a_url_has_the_abilities_of_its_backend(tmp_path: Path) -> None:
    memory, sqlite = anywhere("memory://"), anywhere(f"sqlite:///{tmp_path}/app.db")
    assert isinstance(memory, AnywhereBackend)
    assert abilities_of(memory) == abilities_of(MemoryBackend())
    assert abilities_of(sqlite) == {ReadsInPlace}
    assert reads_engine_in_place(sqlite)
    assert not reads_engine_in_place(NearBackend())
    # Opened again by the next use, also by one in place.
    drive(memory.close())
    assert isinstance(memory, ReadsInPlace)
    assert memory.peek(RECORD.key, 1_000) is None


def test_a_get_that_an_inherited_peek_would_pass_by_is_refused() -> None:
    with pytest.raises(TypeError, match=r"Mine overrides get, .* override peek, too"):
        type("Mine", (MemoryBackend,), {"get": MemoryBackend.get})
    with pytest.raises(TypeError, match=r"Mine overrides get, .* override peek, too"):
        type("Mine", (Plain,), {"get": Plain.get})

    class Asked(MemoryBackend):
        gets = 0

        async def get(self, key: bytes, now: int) -> Record | None:
            self.gets += 1
            return await super().get(key, now)

        def peek(self, key: bytes, now: int) -> Record | None:
            raise WouldWaitError

    backend = anywhere(Asked())
    assert drive(backend.create(RECORD, None, 1_000))
    assert drive(backend.get(RECORD.key, 1_000)) == RECORD
    assert isinstance(backend, Asked)
    assert backend.gets == 1


def test_changes_are_made_one_by_one_up_to_the_first_that_fails() -> None:
    backend = MemoryBackend()
    changed = Record(RECORD.key, RECORD.owner, 1, 1_000, 9_000, b"changed")
    changes: list[Change] = [Create(RECORD), Update(changed, 0), Update(changed, 0), Delete(RECORD.key)]
    assert drive(make_changes(backend, changes, 1_000)) == 2
    assert drive(backend.get(RECORD.key, 1_000)) == changed
    assert drive(make_changes(backend, [Delete(RECORD.key), Create(RECORD)], 1_000)) == 2
