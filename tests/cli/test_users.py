"""``powauth users`` and ``powauth sessions`` with ``--app``, in this process, on real databases and stores."""

import importlib
import io
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import msgspec
import pytest

from harness.cli_apps import App, app_in, forget
from harness.support import FakeConnection, MemoryUsers
from powauth import RequestAuth
from powauth.backends.base import drive
from powauth.cli import Status
from powauth.cli.users import keys_of

PASSWORD = "seven red herons"
OTHER = "eleven grey geese"
MIA = "mia@example.com"

APPS = {
    "sqlite, lmdb": ("sqlite", "'lmdb:store'", False),
    "psycopg, redis": ("psycopg", "'redis://127.0.0.1:6379/0'", False),
    "pymysql, an engine": ("mariadb_pymysql", "SQLBackend(engine)", False),
    "aiosqlite, a URL": ("aiosqlite", "'sqlite:///{folder}/sessions.db'", False),
    "asyncpg, a URL": ("asyncpg", "'postgresql+asyncpg://root@127.0.0.1/test'", True),
    "sqlite, an engine for a loop": (
        "sqlite",
        "SQLBackend(create_async_engine('sqlite+aiosqlite:///{folder}/s.db', poolclass=NullPool))",
        True,
    ),
}


@pytest.fixture(autouse=True)
def _in_the_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.delenv("POWAUTH_BACKEND", raising=False)
    yield
    forget()


@pytest.fixture
def app(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[App]:
    with app_in(tmp_path, capsys) as made:
        yield made


def type_in(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    """Put something on stdin."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


def create(app: App, monkeypatch: pytest.MonkeyPatch, user: str = MIA, *more: str) -> tuple[int, str, str]:
    type_in(monkeypatch, f"{PASSWORD}\n".encode())
    return app.users("create", user, "--set", "name=Mia", "--password-stdin", *more)


def module_of_app() -> ModuleType:
    sys.path.insert(0, str(Path.cwd()))
    forget()
    return importlib.import_module("shop_app")


def sign_in(password: str = PASSWORD, user: str = MIA) -> bool:
    """Sign in through the app, as a request does."""
    auth = module_of_app().auth

    async def attempt() -> bool:
        try:
            return await RequestAuth(auth, FakeConnection()).sign_in(email=user, password=password) is not None
        finally:
            await auth.aclose()

    import asyncio

    return asyncio.run(attempt())


def rows(out: str) -> list[dict[str, Any]]:
    return [msgspec.json.decode(line) for line in out.splitlines()]


# --- each action, on each kind of app ---------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", APPS)
def test_the_life_of_a_user(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    driver, backend, extended = APPS[kind]
    with app_in(
        tmp_path, capsys, driver=driver, backend=backend.replace("{folder}", str(tmp_path)), extended=extended
    ) as app:
        if "engine" in kind or "URL" in kind:
            assert app.run("sessions", "create-tables")[:2] == (0, "the tables are there\n")
        status, out, _ = create(app, monkeypatch, "Mia@Example.com")
        assert status == 0
        key = out.removeprefix("created ").strip()
        (row,) = rows(app.users("list", "--json")[1])
        created_at = row.pop("created_at")
        assert row == {"key": key, "user_id": MIA, "active": True, "password": True}
        assert created_at.endswith("Z")

        def sessions() -> list[dict[str, Any]]:
            return rows(app.run("sessions", "list", "--user", key, "--json")[1])

        assert sign_in()
        assert [each["user"] for each in sessions()] == [key]
        assert app.users("deactivate", MIA)[:2] == (0, "deactivated\n")
        assert sessions() == []
        assert not sign_in()
        assert app.users("--json", "activate", "--key", key)[:2] == (0, '{"activated":1}\n')
        assert sign_in()
        type_in(monkeypatch, OTHER.encode())
        assert app.users("set-password", MIA, "--password-stdin")[:2] == (0, "changed\n")
        assert sessions() == []
        assert not sign_in()
        assert sign_in(OTHER)
        assert sign_in(OTHER)
        assert app.users("end-sessions", MIA)[:2] == (0, "2 ended\n")
        assert sign_in(OTHER)
        assert app.run("sessions", "revoke-user", key, "--json")[:2] == (0, '{"revoked":1}\n')
        for _ in range(3):
            assert not sign_in("wrong horse")
        assert app.users("unlock", MIA)[:2] == (0, "unlocked\n")
        assert app.users("unlock", "--key", key)[:2] == (0, "there were no failed sign-ins\n")


def test_extensions_hear_of_it_before_the_sessions_end(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with app_in(tmp_path, capsys, extended=True) as app:
        assert create(app, monkeypatch)[0] == 0
        assert [event.name for event in sys.modules["shop_app"].events] == ["registered"]
        assert app.users("deactivate", MIA)[0] == 0
        assert [why for _, why in sys.modules["shop_app"].Noting.told] == ["credentials changed"]
        assert app.users("end-sessions", MIA)[0] == 0
        assert [why for _, why in sys.modules["shop_app"].Noting.told] == ["all"]
        assert app.run("sessions", "revoke-user", "42")[0] == 0
        assert [key for key, _ in sys.modules["shop_app"].Noting.told] == [42, "42"]


def test_the_sessions_of_a_deleted_user_end_by_key(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    key = create(app, monkeypatch)[1].split()[1]
    assert sign_in()
    app.rows("DELETE FROM {users}")
    assert app.users("end-sessions", "--key", key)[:2] == (0, "1 ended\n")
    assert app.run("sessions", "count")[1] == "0\n"


@pytest.mark.parametrize("named", [["nobody@example.com"], ["--key", "42"]])
@pytest.mark.parametrize("action", ["activate", "deactivate", "set-password"])
def test_no_such_user(app: App, monkeypatch: pytest.MonkeyPatch, action: str, named: list[str]) -> None:
    type_in(monkeypatch, PASSWORD.encode())
    more = ["--password-stdin"] if action == "set-password" else []
    assert app.users(action, *named, *more) == (Status.NO_USER, "", "powauth: no such user\n")


def test_no_such_user_has_sessions_or_failures(app: App) -> None:
    assert app.users("end-sessions", "nobody@example.com")[0] == Status.NO_USER
    assert app.users("unlock", "--key", "42")[0] == Status.NO_USER
    assert app.users("unlock", "no user id")[:2] == (0, "there were no failed sign-ins\n")


def test_a_key_is_text_or_a_number_or_a_uuid() -> None:
    assert keys_of("007") == ["007"]
    assert keys_of("-7") == [-7, "-7"]
    assert keys_of(str(2**64 - 1)) == [2**64 - 1, str(2**64 - 1)]
    assert keys_of(str(-(2**63))) == [-(2**63), str(-(2**63))]
    for large in (2**64, -(2**63) - 1):
        assert keys_of(str(large)) == [str(large)]
    assert [type(key).__name__ for key in keys_of("1" * 32)] == ["UUID", "str"]


# --- listing ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("extended", [False, True])
def test_list_reads_page_by_page(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, extended: bool
) -> None:
    monkeypatch.setattr("powauth.cli.users.PAGE", 2)
    with app_in(tmp_path, capsys, extended=extended) as app:
        assert app.users("list")[1].split() == ["key", "user_id", "active", "password", "created_at"]
        for number in range(5):
            assert create(app, monkeypatch, f"mia{number}@example.com")[0] == 0
        app.rows("UPDATE {users} SET password_hash = NULL WHERE email = 'mia3@example.com'")
        every = rows(app.users("list", "--json")[1])
        assert [row["key"] for row in every] == sorted(row["key"] for row in every)
        assert {row["user_id"] for row in every} == {f"mia{number}@example.com" for number in range(5)}
        assert {row["user_id"] for row in every if not row["password"]} == {"mia3@example.com"}
        for limit, shown in (("4", 4), ("5", 5), ("0", 5)):
            _, out, err = app.users("list", "--limit", limit)
            assert len(out.splitlines()) == shown + 1
            assert ("only the first 4" in err) is (limit == "4")
        assert "$argon2id$" not in app.users("list", "--json")[1] + app.users("list")[1]


def test_a_user_id_cannot_control_the_terminal(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    create(app, monkeypatch)
    app.rows("UPDATE {users} SET email = :bad", bad="\x1b]0;evil\x07\x9b2J\u202emia\r\n")
    for arguments in (["list"], ["list", "--json"]):
        out = app.users(*arguments)[1]
        assert all(each.isprintable() for line in out.splitlines() for each in line)
        assert "\\u001b]0;evil\\u0007\\u009b2J\\u202emia\\r\\n" in out
    (row,) = rows(app.users("list", "--json")[1])
    assert row["user_id"] == "\x1b]0;evil\x07\x9b2J\u202emia\r\n"


def test_a_model_whose_is_active_is_a_property(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    active = "@property\n    def is_active(self):\n        return self.name == 'Mia'"
    with app_in(tmp_path, capsys, active=active) as app:
        assert create(app, monkeypatch)[0] == 0
        assert [row["active"] for row in rows(app.users("list", "--json")[1])] == [True]
        app.rows("UPDATE {users} SET name = 'Mo'")
        assert [row["active"] for row in rows(app.users("list", "--json")[1])] == [False]
        status, out, err = app.users("deactivate", MIA)
        assert (status, out) == (Status.CONFIGURATION, "")
        assert err == (
            "powauth: User has no column is_active that decides who may sign in: add is_active: Mapped[bool] = "
            "mapped_column(default=True), or do it in the app\n"
        )


def test_activate_says_that_a_lock_keeps_the_user_out(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def locked(text: str) -> str:
        return "from powauth.extensions.lock import LockMixin\n" + text.replace(
            "User(UserMixin", "User(LockMixin, UserMixin"
        )

    with app_in(tmp_path, capsys, change=locked) as app:
        assert create(app, monkeypatch)[0] == 0
        assert app.users("deactivate", MIA)[0] == 0
        app.rows("UPDATE {users} SET locked_at = CURRENT_TIMESTAMP")
        status, out, err = app.users("activate", MIA)
        assert (status, out) == (Status.CONFIGURATION, "")
        assert err == (
            "powauth: is_active is set, and the user still cannot sign in: is_active of the model, or a restriction "
            "such as a lock, keeps the user out\n"
        )


OWN_USERS = """
import sys
from harness.support import MemoryUsers, SECRET
from powauth import SessionAuth

users = MemoryUsers()
users.add("mia@example.com")
auth = SessionAuth(secret_key=SECRET, users=users, backend="lmdb:store")
"""


def test_a_users_context_of_your_own(tmp_path: Path, app: App) -> None:
    (tmp_path / "shop_app.py").write_text(OWN_USERS)
    status, _, err = app.users("list")
    assert status == Status.CONFIGURATION
    assert "MemoryUsers cannot list its users: let it implement powauth.accounts.listing.ListsUsers" in err
    status, out, err = app.users("deactivate", MIA)
    assert (status, out) == (Status.CONFIGURATION, "")
    assert "MemoryUsers has no column is_active" in err
    one = "users.rows = {'7': dataclasses.replace(next(iter(users.rows.values())), id='7')}\n"
    nameless = OWN_USERS.replace("users = ", "import dataclasses\nMemoryUsers.user_id_field = 'login'\nusers = ")
    try:
        (tmp_path / "shop_app.py").write_text(nameless.replace("auth = ", f"{one}auth = "))
        status, _, err = app.users("unlock", "--key", "7")
        assert status == Status.CONFIGURATION
        assert "the identity of this user has no login: give the user id instead of --key" in err
    finally:
        MemoryUsers.user_id_field = "email"


def test_every_user_id_is_taken_by_create_and_one_of_the_identity_by_unlock(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def named(text: str) -> str:
        several = text.replace("(sa.String(80))", "(sa.String(80), unique=True)").replace(
            'fields=["name", "age"]',
            'user_id_field=("email", "name"), identifier=ids, identity=Me, fields=["age"]',
        )
        assert several.count("unique=True") == several.count("identity=Me") == 1
        identity = "class Me(msgspec.Struct, frozen=True):\n    id: uuid.UUID\n    name: str\n"
        names = "from powauth.accounts.identifiers import UsernameIdentifier\nids = {'name': UsernameIdentifier()}\n"
        return f"import msgspec, uuid\n{names}{identity}{several}"

    with app_in(tmp_path, capsys, change=named) as app:
        status, out, err = create(app, monkeypatch)
        assert (status, err) == (0, "")
        key = out.removeprefix("created ").strip()
        for _ in range(3):
            assert not sign_in("wrong horse")
        assert app.users("unlock", "--key", key) == (0, "unlocked\n", "")
        assert app.users("unlock", "--key", key)[:2] == (0, "there were no failed sign-ins\n")


# --- creating ---------------------------------------------------------------------------------------------------------


def test_create_takes_what_a_registration_takes(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    status, out, _ = create(app, monkeypatch, MIA, "--set", "age:=42", "--json")
    assert status == 0
    assert msgspec.json.decode(out)["created"] == 1
    assert app.rows("SELECT name, age FROM {users}") == [("Mia", 42)]
    assert create(app, monkeypatch) == (Status.INVALID, "", "powauth: email: has already been taken\n")
    type_in(monkeypatch, b"password\n")
    status, _, err = app.users("create", "mo@example.com", "--set", "name=Mo", "--password-stdin")
    assert (status, err.startswith("powauth: password: is too easy to guess")) == (Status.INVALID, True)
    status, _, err = app.users("create", "no address")
    assert (status, err.splitlines()) == (
        Status.INVALID,
        ["powauth: email: has invalid format", "powauth: name: can't be blank"],
    )
    assert app.rows("SELECT COUNT(*) FROM {users}") == [(1,)]


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("password=geheim", "a password is no argument, which others could see: use --password-stdin, or the prompt"),
        ("is_active=no", "a registration does not take 'is_active': it takes email, name, age"),
        ("name", "--set is name=text, or name:=JSON"),
        ("=x", "--set is name=text, or name:=JSON"),
        (":=x", "--set is name=text, or name:=JSON"),
        ("age:=x", "--set age:=: JSON is malformed: invalid character (byte 0)"),
    ],
)
def test_create_refuses_other_fields(app: App, given: str, said: str) -> None:
    assert app.users("create", MIA, "--set", given) == (Status.USAGE, "", f"powauth: {said}\n")


class Terminal(io.TextIOWrapper):
    def isatty(self) -> bool:
        return True


def test_create_asks_for_what_is_missing(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", Terminal(io.BytesIO(b"mia@example.com\nMia\n")))
    monkeypatch.setattr("getpass.getpass", lambda prompt: PASSWORD)
    status, out, err = app.users("create")
    assert (status, out[:8], err) == (0, "created ", "email: name: ")
    assert app.rows("SELECT email, name, age FROM {users}") == [(MIA, "Mia", None)]


# --- passwords --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "the password is empty"),
        (b"\r\n", "the password is empty"),
        (b"two lines\nof it\n", "stdin must hold the password in one line, and nothing else"),
        (b"x" * 70_000, "stdin must hold the password in one line, and nothing else"),
        (b"\xff\n", "the password on stdin is not UTF-8"),
    ],
)
def test_what_is_no_password_on_stdin(app: App, monkeypatch: pytest.MonkeyPatch, data: bytes, said: str) -> None:
    type_in(monkeypatch, data)
    assert app.users("set-password", MIA, "--password-stdin") == (Status.USAGE, "", f"powauth: {said}\n")


def test_a_weak_password_is_refused_by_the_policy(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    create(app, monkeypatch)
    type_in(monkeypatch, b"short\n")
    said = "powauth: password: should be at least 8 characters\n"
    assert app.users("set-password", MIA, "--password-stdin") == (Status.INVALID, "", said)
    assert sign_in()


def test_two_different_passwords(app: App, monkeypatch: pytest.MonkeyPatch) -> None:
    typed = iter([PASSWORD, OTHER])
    monkeypatch.setattr("getpass.getpass", lambda prompt: next(typed))
    assert app.users("set-password", MIA) == (Status.USAGE, "", "powauth: the two passwords differ\n")


# --- sessions of an app, and apps in memory ---------------------------------------------------------------------------


def test_an_app_brings_its_backend_and_namespace(app: App) -> None:
    for more in (["--backend", "lmdb:other"], ["--namespace", "admins"]):
        status, _, err = app.run("sessions", *more, "count")
        assert (status, "leave --backend and --namespace out" in err) == (Status.USAGE, True)
    assert app.run("sessions", "purge")[:2] == (0, "0 removed\n")
    status, _, err = app.run("sessions", "create-tables")
    assert (status, "create-tables is for SQL" in err) == (Status.CONFIGURATION, True)


def test_the_namespace_has_the_name_of_the_cookie(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(text: str) -> str:
        return text.replace("on_event=", "session_key='admin', on_event=")

    with app_in(tmp_path, capsys, change=change) as app:
        create(app, monkeypatch)
        assert sign_in()
        assert app.run("sessions", "count")[1] == "1\n"


def test_sessions_in_memory_are_out_of_reach(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with app_in(tmp_path, capsys, backend="'memory://'") as app:
        assert app.run("sessions", "count")[0] == Status.CONFIGURATION
        create(app, monkeypatch)
        note = "the sessions live in the memory of the app's processes: restart the app to end them\n"
        assert app.users("deactivate", MIA) == (0, "deactivated\n", note)
        assert app.users("list")[2] == ""


def test_users_need_an_app(capsys: pytest.CaptureFixture[str]) -> None:
    from powauth.cli import main

    assert main(["users", "list"]) == Status.USAGE
    assert capsys.readouterr().err == "powauth: give --app package.module:auth\n"


def test_an_account_is_created_without_a_request(app: App) -> None:
    auth = module_of_app().auth
    identity = drive(auth.create_account({"email": MIA, "password": PASSWORD}, name="Mia"))
    assert identity.email == MIA
    drive(auth.aclose())
