"""The text by which the tables of extensions name a user: no database and no collation confuses two keys."""

import unicodedata
import uuid
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, get_args

import pytest
import sqlalchemy as sa
from sqlalchemy.dialects import mysql, postgresql, sqlite
from sqlalchemy.orm import Mapped, mapped_column

from harness.keys_support import ask
from harness.support import SECRET, MemoryUsers
from harness.users_databases import BLOCKING, Base, blocking_engine, table_name
from powauth import ConfigError, Event, RequestAuth, SessionAuth
from powauth.accounts.identity import Key
from powauth.accounts.sqlalchemy import SQLAlchemyUsers, UserMixin, exact_string, user_key_string
from powauth.accounts.user_keys import MAX_USER_KEY_CHARS, user_key_in, user_key_text
from powauth.backends.base import drive
from powauth.backends.memory import MemoryBackend
from powauth.extensions.api_keys import ApiKeyMixin, ApiKeys
from powauth.extensions.audit import Audit, AuditMixin
from powauth.extensions.passkeys import PasskeyMixin
from powauth.extensions.passkeys.ceremonies import NewCredential
from powauth.extensions.passkeys.table import PasskeyTable
from powauth.extensions.second_factor import RecoveryCodeMixin, TotpMixin, TotpRecord
from powauth.extensions.second_factor.tables import SQLRecoveryCodeStore, SQLTotpStore

AT = datetime(2030, 1, 2, 3, 4, 5, 678901, tzinfo=UTC)
UUID = uuid.UUID("7d9f3c1a-0b2e-4f6a-8c5d-e1a2b3c4d5e6")

INTS = [0, 1, -1, 2**63 - 1, -(2**63), 2**64 - 1]
UUIDS = [uuid.UUID(int=0), uuid.UUID(int=1), uuid.UUID(int=2**128 - 1), UUID]
PLAIN = [
    "1",
    "i1",
    "-1",
    "s1",
    "u",
    UUID.hex,
    str(UUID),
    "ann",
    "Ann",
    "aNN",
    "01ARZ3NDEKTSV4RRFFQ69G5FAV",
    "auth0|5f7c",
    "0",
]
ODD = [
    "^ann",
    "ann ",
    " ann",
    "\u00e4nn",
    "a\u0308nn",
    "\u0131",
    "\u0130",
    "\u212a",
    "k",
    "stra\u00dfe",
    "strasse",
    "a\0b",
    "%",
    "_",
    "'",
]
LONG = ["x" * 255, "X" * 255, "\u00e9" * 127, "\U0001f511" * 63]
TEXTS = [*PLAIN, *ODD, *LONG, user_key_text("\u00e4nn")]
KEYS: list[Key] = [*INTS, *UUIDS, *TEXTS]


class Named(Base):
    __tablename__ = table_name()
    id: Mapped[int] = mapped_column(primary_key=True)
    user_key: Mapped[str] = mapped_column(user_key_string(), unique=True)


class PasskeyRow(PasskeyMixin, Base):
    __tablename__ = table_name()


class Authenticator(TotpMixin, Base):
    __tablename__ = table_name()


class Code(RecoveryCodeMixin, Base):
    __tablename__ = table_name()


class ApiKey(ApiKeyMixin, Base):
    __tablename__ = table_name()


class Activity(AuditMixin, Base):
    __tablename__ = table_name()


TABLES = [PasskeyRow, Authenticator, Code, ApiKey, Activity]


class Numbered(UserMixin, Base):
    __tablename__ = table_name()
    id: Mapped[int] = mapped_column(primary_key=True)  # type: ignore[assignment]


class Texted(UserMixin, Base):
    __tablename__ = table_name()
    id: Mapped[str] = mapped_column(exact_string(64), primary_key=True)  # type: ignore[assignment]


class Unique(UserMixin, Base):
    __tablename__ = table_name()


@pytest.fixture(params=BLOCKING)
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[sa.Engine]:
    with blocking_engine(request.param, str(tmp_path), Named, *TABLES, Numbered, Texted, Unique) as engine:
        yield engine


# --- the text ---------------------------------------------------------------------------------------------------------


def test_the_samples_have_every_type_of_a_key() -> None:
    assert {type(key) for key in KEYS} == set(get_args(Key))


@pytest.mark.parametrize("key", KEYS)
def test_a_text_leads_back_to_the_key_and_its_type(key: Key) -> None:
    text = user_key_text(key)
    assert user_key_in(text) == key
    assert type(user_key_in(text)) is type(key)
    assert 2 <= len(text) <= MAX_USER_KEY_CHARS == 511
    assert text.isascii()
    assert text.isprintable()
    assert text == text.lower()
    assert not {*" '\"\\%"} & {*text}


def test_no_comparison_without_case_accents_or_spaces_confuses_two_keys() -> None:
    folded = {unicodedata.normalize("NFKD", user_key_text(key)).casefold().strip() for key in KEYS}
    assert len(folded) == len(KEYS) == len(set(KEYS))


def test_a_text_of_a_subclass_is_that_of_the_key() -> None:
    class Loud(str):
        __slots__ = ()

        def __str__(self) -> str:
            return "another"

    class Number(int):
        def __str__(self) -> str:
            return "another"

    assert [user_key_text(key) for key in (Loud("Ann"), Number(7))] == ["s^ann", "i7"]


@pytest.mark.parametrize("wrong", [None, True, 1.5, b"1234567890123456", "", "x" * 256, "\ud800", 2**64])
def test_what_is_no_key_has_no_text(wrong: Any) -> None:
    with pytest.raises(ConfigError, match="a user's key must be"):
        user_key_text(wrong)


# --- the column -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("model", TABLES)
def test_all_tables_have_one_type_of_column(model: Any) -> None:
    columns = {column.name: column for column in model.__table__.columns}
    assert "user_key" in columns
    for name in {"user_key", "actor"} & {*columns}:
        for dialect in (sqlite, postgresql, mysql):
            kinds = {each.compile(dialect=dialect.dialect()) for each in (columns[name].type, user_key_string())}
            assert len(kinds) == 1


def test_every_database_finds_the_row_of_a_key_alone(engine: sa.Engine) -> None:
    with engine.begin() as connection:
        connection.execute(sa.insert(Named), [{"user_key": user_key_text(key)} for key in KEYS])
        for key in KEYS:
            query = sa.select(Named.user_key).where(Named.user_key == user_key_text(key))
            assert [user_key_in(text) for text in connection.scalars(query)] == [key]


def test_mariadb_confuses_no_keys_whatever_the_collation(engine: sa.Engine) -> None:
    """A migration that somebody wrote by hand may leave the collation out, and the server's own ignores case."""
    if engine.dialect.name not in ("mysql", "mariadb"):
        pytest.skip("a test of MariaDB's collations")
    signs = [*"abcdefghijklmnopqrstuvwxyz0123456789._:@|^-"]
    texts = [*dict.fromkeys([*map(user_key_text, KEYS), *(f"s{sign}" for sign in signs)])]
    odd: list[Key] = [*INTS, *UUIDS, *ODD]
    others = [user_key_text(key) for key in odd]
    confused = set()
    with engine.begin() as connection:
        rows = connection.exec_driver_sql("SHOW COLLATION WHERE Charset = 'utf8mb4' OR Charset IS NULL").all()
        names = [row[0] if row[1] else f"utf8mb4_{row[0]}" for row in rows]
        assert len(names) > 20

        def distinct(some: list[str], collation: str) -> int:
            values = " UNION ".join(f"SELECT '{text}' COLLATE {collation} AS t" for text in some)
            count: int = connection.exec_driver_sql(f"SELECT count(*) FROM ({values}) AS u").scalar_one()
            return count

        for name in names:
            if distinct(texts, name) != len(texts):
                confused.add(name)
                assert distinct(others, name) == len(others)
    # Lithuanian has one letter for i and y, and Latin one for i and j, and for u and v. Only text keys can have them.
    assert {name for name in confused if not {"lithuanian", "roman"} & {*name.split("_")}} == set()


def expressions(column: str, dialect: str) -> dict[type, str]:
    """The expressions of docs/users.md: from an int, from a UUID, and from a text of small letters and digits."""
    return {
        "sqlite": {int: f"'i' || {column}", uuid.UUID: f"'u' || {column}", str: f"'s' || {column}"},
        "postgresql": {
            int: f"'i' || {column}",
            uuid.UUID: f"'u' || replace({column}::text, '-', '')",
            str: f"'s' || lower(regexp_replace({column}, '([A-Z])', '^\\1', 'g'))",
        },
        "mysql": {
            int: f"concat('i', {column})",
            uuid.UUID: f"concat('u', replace({column}, '-', ''))",
            str: f"concat('s', lower(regexp_replace({column}, '(?-i)([A-Z])', '^\\\\1')))",
        },
    }[dialect]


def test_sql_computes_the_text(engine: sa.Engine) -> None:
    dialect = "mysql" if engine.dialect.name in ("mysql", "mariadb") else engine.dialect.name
    texts = ["ann", "1", "auth0|5f7c", str(UUID)] + (
        ["Ann", "01ARZ3NDEKTSV4RRFFQ69G5FAV"] if dialect != "sqlite" else []
    )
    rows: dict[Any, list[Any]] = {Numbered: [1, 2**31 - 1], Texted: texts, Unique: UUIDS}
    with engine.begin() as connection:
        for model, keys in rows.items():
            values = [{"id": key, "email": f"{number}@example.org"} for number, key in enumerate(keys)]
            connection.execute(sa.insert(model), values)
            text = expressions("id", dialect)[type(keys[0])]
            query = f"SELECT {text} FROM {model.__tablename__}"
            found = connection.exec_driver_sql(query.replace("%", "%%")).scalars().all()
            assert sorted(found) == sorted(map(user_key_text, keys))


def test_a_text_that_is_not_plain_is_the_hexadecimal_digits_of_its_utf_8(engine: sa.Engine) -> None:
    """Every database can compute them, too."""
    encoded = {
        "sqlite": "'x' || lower(hex(id))",
        "postgresql": "'x' || encode(convert_to(id, 'UTF8'), 'hex')",
        "mysql": "concat('x', lower(hex(id)))",
    }
    dialect = "mysql" if engine.dialect.name in ("mysql", "mariadb") else engine.dialect.name
    with engine.begin() as connection:
        if dialect == "mysql":
            connection.exec_driver_sql(f"ALTER TABLE {Texted.__tablename__} CONVERT TO CHARACTER SET utf8mb4")
        keys = ["\u00e4nn", "\U0001f511 key", "stra\u00dfe"]
        connection.execute(sa.insert(Texted), [{"id": key, "email": f"{n}@example.org"} for n, key in enumerate(keys)])
        query = f"SELECT {encoded[dialect]} FROM {Texted.__tablename__}"
        assert sorted(connection.exec_driver_sql(query).scalars()) == sorted(map(user_key_text, keys))


# --- the tables -------------------------------------------------------------------------------------------------------


def test_passkeys_of_every_key(engine: sa.Engine) -> None:
    table = PasskeyTable(engine, PasskeyRow)

    async def scenario() -> None:
        for number, key in enumerate(KEYS):
            new = NewCredential(
                credential_id=bytes([number]), public_key=b"key", sign_count=0, backed_up=False, transports=()
            )
            assert await table.add(key, AT, bytes(32), new, "A passkey", AT) is not None
        for number, key in enumerate(KEYS):
            (found,) = await table.of_user(key)
            assert (found.credential_id, found.key, type(found.key)) == (bytes([number]), key, type(key))
        for key in KEYS:
            assert await table.remove_all(key) == 1

    drive(scenario())


def test_authenticator_apps_and_recovery_codes_of_every_key(engine: sa.Engine) -> None:
    apps, codes = SQLTotpStore(engine, Authenticator), SQLRecoveryCodeStore(engine, Code)

    async def scenario() -> None:
        for number, key in enumerate(KEYS):
            text = user_key_text(key)
            await apps.put(text, TotpRecord(id=str(number), label="An app", seed=b"seed", step=1, created_at=AT))
            await codes.put(text, [bytes([number]) * 32], AT)
        for number, key in enumerate(KEYS):
            text = user_key_text(key)
            record = await apps.get(text)
            assert record is not None
            assert record.id == str(number)
            assert (await codes.left(text))[0] == 1
            assert await codes.take(text, bytes([number]) * 32)
        seen: list[str] = []
        while page := await apps.page(seen[-1] if seen else None, 7):
            seen += [text for text, _ in page]
        assert sorted(seen) == sorted(map(user_key_text, KEYS))

    drive(scenario())


def test_entries_of_the_audit_log_of_every_key(engine: sa.Engine) -> None:
    auth: SessionAuth[Any, Any] = SessionAuth(
        secret_key=SECRET,
        users=MemoryUsers(),
        backend=MemoryBackend(),
        extensions=[Audit(engine, Activity, synchronous=True)],
    )
    audit = auth.extension(Audit)
    for number, key in enumerate(KEYS):
        audit.on_event(Event(name="updated", at=AT, user_key=key, actor=KEYS[number - 1], detail=str(number)))
    for number, key in enumerate(KEYS):
        (entry,) = drive(audit.recent(key))
        assert (entry.detail, entry.user_key) == (str(number), user_key_text(key))
        assert entry.actor == user_key_text(KEYS[number - 1])


def test_users_of_three_models_share_the_table_of_api_keys(engine: sa.Engine) -> None:
    """Two of them have the keys 1 and "1"."""
    keys: dict[Any, list[Any]] = {Numbered: [1, 2], Texted: ["1", "i1", "Ann", "ann", "\u00e4nn"], Unique: UUIDS[1:]}
    made: list[tuple[SessionAuth[Any, Any], Any, str]] = []
    for model, own in keys.items():
        with engine.begin() as connection:
            values = [{"id": key, "email": f"{number}@example.org"} for number, key in enumerate(own)]
            connection.execute(sa.insert(model), values)
        users: SQLAlchemyUsers[Any, Any] = SQLAlchemyUsers(engine, model)
        users.table_name = "people"  # no two of them have one key, so they may share the table
        auth: SessionAuth[Any, Any] = SessionAuth(
            secret_key=SECRET,
            users=users,
            backend=MemoryBackend(),
            extensions=[ApiKeys(engine, ApiKey)],
            throttle=None,
        )
        for key in own:
            bound = RequestAuth(auth, ask())
            drive(bound.sign_in_user(key))
            made.append((auth, key, drive(auth.extension(ApiKeys).create(bound, "a program")).key))
    for auth, key, text in made:
        request = ask(text)
        drive(auth.call(request))
        assert (auth.current_key(request), type(auth.current_key(request))) == (key, type(key))
        assert [each.id for each in drive(auth.extension(ApiKeys).keys_of(key))] == [text[7:17]]
    assert all(drive(auth.extension(ApiKeys).end_all(key)) == 1 for auth, key, _ in made)
    assert len({user_key_text(key) for _, key, _ in made}) == len(made)
