"""The stores of factors: the suites over SQLite, PostgreSQL and MariaDB, sync and async, and over a dict."""

from collections.abc import Collection, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
import sqlalchemy as sa
from sqlalchemy.ext.asyncio import create_async_engine

from harness.users_databases import ASYNC, BLOCKING, Base, blocking_engine, table_name, url_of
from powauth import ConfigError
from powauth.backends.base import drive
from powauth.extensions.second_factor import (
    RecoveryCodeMixin,
    RecoveryCodes,
    RecoveryCodeStore,
    Totp,
    TotpMixin,
    TotpRecord,
    TotpStore,
)
from powauth.extensions.second_factor.tables import SQLRecoveryCodeStore, SQLTotpStore
from powauth.testing.factors import RecoveryCodeStoreConformance, TotpStoreConformance


class Authenticator(TotpMixin, Base):
    __tablename__ = table_name()


class Code(RecoveryCodeMixin, Base):
    __tablename__ = table_name()


class OnDatabase:
    """Gives each test a database."""

    @pytest.fixture(autouse=True, params=[*[(each, False) for each in BLOCKING], *[(each, True) for each in ASYNC]])
    def database(self, request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[None]:
        driver, self.is_async = request.param
        if self.is_async:
            self.url = url_of(driver, str(tmp_path))
            yield
        else:
            with blocking_engine(driver, str(tmp_path), Authenticator, Code) as engine:
                self.engine: Any = engine
                yield

    async def made(self) -> Any:
        if not self.is_async:
            return self.engine
        self.engine = create_async_engine(self.url)
        tables: Any = [Authenticator.__table__, Code.__table__]
        async with self.engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all, tables=tables)
        return self.engine

    async def close(self, store: Any) -> None:
        if self.is_async:
            tables: Any = [Authenticator.__table__, Code.__table__]
            async with self.engine.begin() as connection:
                await connection.run_sync(Base.metadata.drop_all, tables=tables)
            await self.engine.dispose()


class TestTotpTables(OnDatabase, TotpStoreConformance):
    async def opened(self) -> TotpStore:
        return SQLTotpStore(await self.made(), Authenticator)


@pytest.mark.parametrize("driver", BLOCKING)
def test_no_sign_in_finds_a_user_without_the_app_while_a_new_one_replaces_it(driver: str, tmp_path: Path) -> None:
    """Also if each statement commits by itself: the second factor would not be asked for."""
    with blocking_engine(driver, str(tmp_path), Authenticator) as engine:
        own = engine.execution_options(isolation_level="AUTOCOMMIT")
        store, reader, seen = SQLTotpStore(own, Authenticator), SQLTotpStore(engine, Authenticator), list[bool]()
        record = TotpRecord(id="first", label="Phone", seed=b"sealed", step=1, created_at=datetime.now(UTC))
        drive(store.put("mia", record))

        def look(connection: Any, cursor: Any, statement: str, *rest: object) -> None:
            if not statement.startswith("SELECT"):
                seen.append(drive(reader.get("mia")) is not None)

        sa.event.listen(own, "before_cursor_execute", look)
        drive(store.put("mia", msgspec.structs.replace(record, id="second")))
        sa.event.remove(own, "before_cursor_execute", look)
        assert seen
        assert all(seen)
        found = drive(store.get("mia"))
        assert found is not None
        assert found.id == "second"


class TestRecoveryCodeTables(OnDatabase, RecoveryCodeStoreConformance):
    async def opened(self) -> RecoveryCodeStore:
        return SQLRecoveryCodeStore(await self.made(), Code)


class DictTotp(TotpStore):
    """What an app may write itself."""

    def __init__(self) -> None:
        self.records: dict[str, TotpRecord] = {}

    async def get(self, user: str) -> TotpRecord | None:
        return self.records.get(user)

    async def put(self, user: str, record: TotpRecord) -> None:
        self.records[user] = record

    async def add(self, user: str, record: TotpRecord) -> bool:
        return self.records.setdefault(user, record) is record

    async def accept(self, user: str, id: str, step: int, at: datetime) -> bool:  # noqa: A002
        found = self.records.get(user)
        if found is None or found.id != id or found.step >= step:
            return False
        self.records[user] = msgspec.structs.replace(found, step=step, last_used_at=at)
        return True

    async def reseal(self, user: str, id: str, old: bytes, new: bytes) -> bool:  # noqa: A002
        found = self.records.get(user)
        if found is None or found.id != id or found.seed != old:
            return False
        self.records[user] = msgspec.structs.replace(found, seed=new)
        return True

    async def delete(self, user: str, id: str | None = None) -> bool:  # noqa: A002
        found = self.records.get(user)
        if found is None or id not in (None, found.id):
            return False
        del self.records[user]
        return True

    async def page(self, after: str | None, limit: int) -> Sequence[tuple[str, TotpRecord]]:
        return [each for each in sorted(self.records.items()) if after is None or each[0] > after][:limit]


class DictCodes(RecoveryCodeStore):
    def __init__(self) -> None:
        self.codes: dict[str, tuple[set[bytes], datetime]] = {}

    async def put(self, user: str, hashes: Collection[bytes], at: datetime) -> None:
        self.codes[user] = set(hashes), at

    async def take(self, user: str, hash: bytes) -> bool:  # noqa: A002
        hashes = self.codes.get(user, (set[bytes](), None))[0]
        found = hash in hashes
        hashes.discard(hash)
        return found

    async def left(self, user: str) -> tuple[int, datetime | None]:
        hashes, at = self.codes.get(user, (set[bytes](), None))
        return len(hashes), at if hashes else None

    async def delete(self, user: str) -> int:
        return len(self.codes.pop(user, (set[bytes](), None))[0])


class TestDictTotp(TotpStoreConformance):
    def make_store(self) -> TotpStore:
        return DictTotp()


class TestDictCodes(RecoveryCodeStoreConformance):
    def make_store(self) -> RecoveryCodeStore:
        return DictCodes()


class Careless(DictTotp):
    """Accepts a step without a comparison: better-auth #10387."""

    async def accept(self, user: str, id: str, step: int, at: datetime) -> bool:  # noqa: A002
        self.records[user] = msgspec.structs.replace(self.records[user], step=step, last_used_at=at)
        return True


def test_the_suite_finds_a_store_that_accepts_a_code_twice() -> None:
    class Tried(TotpStoreConformance):
        def make_store(self) -> TotpStore:
            return Careless()

    with pytest.raises(AssertionError, match="accepted again"):
        Tried().test_a_step_is_accepted_once_and_only_forwards()
    with pytest.raises(AssertionError, match="20 of 20"):
        Tried().test_of_parallel_uses_of_a_step_one_wins()


@pytest.mark.parametrize(("kind", "mixin"), [(Totp, "TotpMixin"), (RecoveryCodes, "RecoveryCodeMixin")])
def test_a_wrong_table_is_found_when_the_app_starts(kind: Any, mixin: str) -> None:
    engine, plain = sa.create_engine("sqlite://"), type("Plain", (), {})
    for model in (plain, None):
        with pytest.raises(ConfigError, match=f"a declarative class with {mixin}"):
            kind(engine, model)
    with pytest.raises(ConfigError, match="engine"):
        kind("sqlite://", Authenticator if kind is Totp else Code)
    with pytest.raises(ConfigError, match="omitted, because the first argument is a"):
        kind(DictTotp() if kind is Totp else DictCodes(), Authenticator)
