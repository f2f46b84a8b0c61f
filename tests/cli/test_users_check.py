"""``powauth users check``, on real databases."""

import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

from harness.cli_apps import App, app_in, forget
from powauth.backends.base import drive
from powauth.cli import Status

KINDS = ["sqlite", "psycopg", "mariadb_pymysql", "aiosqlite", "asyncpg", "asyncmy"]

EMPTY = "0 users, 0 without a password, 0 inactive\n0 problems, 0 users cannot sign in because of them\n"

HASH = f"$argon2id$v=19$m=64,t=1,p=1$c2FsdHNhbHRzYWx0c2FsdA${'A' * 43}"

OF_ACTIVE = {"sqlite": "1", "postgresql": "true", "mysql": "1", "mariadb": "1"}


@pytest.fixture(autouse=True)
def _in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    yield
    forget()


def insert(app: App, *emails: str, password_hash: str | None = HASH) -> None:
    for email in emails:
        number = app.rows("SELECT COUNT(*) FROM {users}")[0][0]
        active = OF_ACTIVE[app.server.get_backend_name()]
        app.rows(
            "INSERT INTO {users} (id, email, password_hash, name, is_active, created_at, updated_at) "
            f"VALUES ('{number:032x}', :email, :hash, 'Mia', {active}, '2026-01-01', '2026-01-01')",
            email=email,
            hash=password_hash,
        )


def rows(out: str) -> list[dict[str, Any]]:
    return [msgspec.json.decode(line) for line in out.splitlines()]


@pytest.mark.parametrize("driver", KINDS)
def test_check_names_each_problem(driver: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with app_in(tmp_path, capsys, driver=driver) as app:
        assert app.users("check") == (0, EMPTY, "")
        insert(app, "mia@example.com", "Ann@Example.com", "ann@example.com", "Bob@example.com", "no address")
        insert(app, "zoe@example.com", password_hash=None)
        status, out, err = app.users("check", "--json")
        *found, last = rows(out)
        assert (status, err) == (Status.FOUND, "")
        assert {(row["problem"], row["user_id"], row["detail"]) for row in found} == {
            ("collides", "Ann@Example.com", f"email: with {2:032x}"),
            ("not normalised", "Ann@Example.com", "email: signs in only as it is stored, and not as ann@example.com"),
            ("collides", "ann@example.com", f"email: with {1:032x}"),
            ("not normalised", "Bob@example.com", "email: signs in only as it is stored, and not as bob@example.com"),
        }
        assert last == {
            "problems": 4, "users": 6, "without_password": 1, "inactive": 0, "cannot_sign_in": 0,
            "hashes": {"Argon2id": 5},
        }  # fmt: skip
        status, out, _ = app.users("check")
        lines = out.splitlines()
        assert lines[0].split() == ["problem", "key", "user_id", "detail"]
        assert lines[-3:] == [
            "6 users, 1 without a password, 0 inactive",
            "hashes: 5 Argon2id",
            "4 problems, 0 users cannot sign in because of them",
        ]
        assert len(lines) == 8


def test_a_user_id_that_a_registration_would_refuse(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with app_in(tmp_path, capsys) as app:
        app.users("check")
        insert(app, "Root@Localhost")
        (row, _) = rows(app.users("check", "--json")[1])
        assert (row["problem"], row["detail"]) == (
            "refused",
            "email: signs in as it is stored; a registration would refuse it",
        )


@pytest.mark.parametrize("text", ["\n", "mia\0@example.com"])
def test_a_user_id_that_no_sign_in_finds(text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with app_in(tmp_path, capsys) as app:
        app.users("check")
        insert(app, text)
        row, last = rows(app.users("check", "--json")[1])
        assert (row["problem"], row["user_id"]) == ("not found", text)
        assert last["cannot_sign_in"] == 1


@pytest.mark.parametrize("text", ["", "!", "!abc"])
def test_a_user_whom_the_old_library_gave_no_password_is_no_problem(
    text: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with app_in(tmp_path, capsys) as app:
        app.users("check")
        insert(app, "mia@example.com", password_hash=text)
        status, out, _ = app.users("check", "--json")
        (last,) = rows(out)
        assert (status, last["without_password"], last["hashes"]) == (Status.DONE, 1, {})


@pytest.mark.parametrize(
    ("text", "hash_format"), [("$2b$12$abcdefghijklmnopqrstuv", "Bcrypt"), ("plain text", "unknown")]
)
def test_a_hash_that_no_format_reads_is_found_and_not_printed(
    text: str, hash_format: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with app_in(tmp_path, capsys) as app:
        app.users("check")
        insert(app, "mia@example.com", password_hash=text)
        insert(app, "zoe@example.com")
        status, out, _ = app.users("check", "--json")
        (row, last) = rows(out)
        assert status == Status.FOUND
        assert (row["problem"], row["user_id"]) == ("unreadable hash", "mia@example.com")
        assert text not in out
        assert ("existing=[Bcrypt()]" in row["detail"]) is (hash_format == "Bcrypt")
        assert (last["cannot_sign_in"], last["hashes"]) == (1, {hash_format: 1, "Argon2id": 1})
        assert "unreadable hash" in app.users("check")[1]


@pytest.mark.parametrize("driver", ["sqlite", "psycopg", "mariadb_pymysql"])
def test_the_database_must_refuse_a_second_user_id(
    driver: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with app_in(tmp_path, capsys, driver=driver) as app:
        forget()
        module = tmp_path / "shop_app.py"
        text = module.read_text()
        module.write_text(
            text.replace("class Noting", "User.__table__.constraints = {User.__table__.primary_key}\n\n\nclass Noting")
        )
        plain = {"problem": "not unique", "key": None, "user_id": None,
                 "detail": "the database has no unique index of email: create one"}  # fmt: skip
        _, out, err = app.users("check", "--json")
        assert (rows(out)[0], err) == (plain, "")
        module.write_text(text)
        for columns, enough in {"email, name": False, "email": True}.items():
            app.rows(f"CREATE UNIQUE INDEX one_{app.table} ON {{users}} ({columns})")
            status, _, _ = app.users("check")
            assert status == (Status.DONE if enough else Status.FOUND)
            on = f" ON {app.table}" if driver == "mariadb_pymysql" else ""
            app.rows(f"DROP INDEX one_{app.table}{on}")
        if driver == "psycopg":
            for index, enough in {"(email) WHERE is_active": False, "(lower(email))": True}.items():
                app.rows(f"CREATE UNIQUE INDEX one_{app.table} ON {{users}} {index}")
                assert app.users("check")[0] == (Status.DONE if enough else Status.FOUND)
                app.rows(f"DROP INDEX one_{app.table}")


def test_progress_is_for_terminals(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("powauth.cli.checking.PROGRESS_STEP", 1)
    with app_in(tmp_path, capsys) as app:
        app.users("check")
        insert(app, "mia@example.com", "Zoe@example.com")
        assert app.users("check")[2] == ""
        monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
        clear = "\r\x1b[K"
        assert app.users("check")[2] == f"{clear}reading the user ids{clear}{clear}{clear}1 users{clear}2 users{clear}"


OWN_USERS = """
from harness.support import SECRET, MemoryUsers
from powauth import SessionAuth
from powauth.accounts.listing import Listed, ListsUsers


class Own(MemoryUsers, ListsUsers):
    async def list_users(self, after=None, limit=500):
        return [Listed(key=1, user_id="mia@example.com", active=True, has_password=False)]


auth = SessionAuth(secret_key=SECRET, users=Own(), backend="lmdb:store")
"""


def test_a_users_context_of_your_own_has_only_to_list_its_users(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with app_in(tmp_path, capsys) as app:
        (tmp_path / "shop_app.py").write_text(OWN_USERS)
        assert app.users("check") == (0, EMPTY.replace("0 users, 0 without", "1 users, 1 without"), "")


def test_no_user_follows_a_key_that_no_user_can_have(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with app_in(tmp_path, capsys) as app:
        app.users("check")
        insert(app, "mia@example.com")
        users = sys.modules["shop_app"].auth.users
        assert [user.user_id for user in drive(users.list_users())] == ["mia@example.com"]
        assert drive(users.list_users("no UUID")) == []
