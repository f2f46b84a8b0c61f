"""A package that cannot be imported: the error names that package and no other, and the extra that installs it."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from scripts import extras_alone

import powauth
from powauth import ConfigError, MissingExtra
from powauth._extras import explained, is_missing, needs  # packages that are missing, which are installed here

SOURCE = Path(powauth.__file__).parent
EXTRAS: dict[str, list[str]] = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"][
    "optional-dependencies"
]

ABSENT = """
import sys
class Absent:
    def find_spec(self, name, path=None, target=None):
        if name == {package!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Absent())
"""
GUARDED = """
from scripts import extras_alone
from powauth.errors import MissingExtra
try:
    import {module}
except MissingExtra as error:
    print(error.extra, error, sep="|")
"""

PARTS = [
    ("powauth.accounts.bcrypt_schemes", "bcrypt", "bcrypt"),
    ("powauth.accounts.identifiers", "email_validator", "users"),
    ("powauth.accounts.passwords", "argon2", "users"),
    ("powauth.accounts.schemes", "argon2", "users"),
    ("powauth.accounts.sqlalchemy", "sqlalchemy", "users"),
    ("powauth.accounts.user_tables", "sqlalchemy", "users"),
    ("powauth.extensions.confirm_email.columns", "sqlalchemy", "users"),
    ("powauth.backends.lmdb", "lmdb", "lmdb"),
    ("powauth.backends._redis_clients", "redis", "redis"),
    ("powauth.backends.sql", "sqlalchemy", "users"),
    ("powauth.extensions.api_keys._table", "sqlalchemy", "users"),
    ("powauth.extensions.audit._table", "sqlalchemy", "users"),
    ("powauth.extensions.letters", "jinja2", "pages"),
    ("powauth.extensions.lock", "sqlalchemy", "users"),
    ("powauth.extensions.passkeys.answers", "fido2", "passkeys"),
    ("powauth.extensions.passkeys.ceremonies", "fido2", "passkeys"),
    ("powauth.extensions.passkeys.table", "sqlalchemy", "users"),
    ("powauth.extensions.second_factor.tables", "sqlalchemy", "users"),
    ("powauth.integrations.fastapi", "fastapi", "fastapi"),
    ("powauth.integrations.flask", "flask", "flask"),
    ("powauth.integrations.litestar", "litestar", "litestar"),
    ("powauth.integrations.signals", "blinker", "events"),
    ("powauth.integrations.starlette", "starlette", "starlette"),
    ("powauth.pages.fastapi", "fastapi", "fastapi"),
    ("powauth.pages.flask", "flask", "flask"),
    ("powauth.pages.litestar", "litestar", "litestar"),
    ("powauth.pages.rendering", "jinja2", "pages"),
    ("powauth.pages.starlette", "starlette", "starlette"),
]

MADE = [
    ("powauth.extensions.sealing", "Sealer(Keyring('k7#Vq2!mZ9$wL4xT8&bN1cR6@hJ3dF5g'), 'seed')", "cryptography"),
    ("powauth.extensions.second_factor.totp", "Totp(None)", "cryptography"),
    ("powauth.extensions.second_factor.totp", "Totp(None)", "pyotp"),
    ("powauth.extensions.second_factor.totp", "Totp(None)", "segno"),
]
"""What needs the extra ``totp`` when it is made: its module is also for apps that use only other factors."""


def run(code: str, *, path: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a program in a process of its own, with ``path`` in front of the installed packages."""
    if path is not None:
        code = f"import sys; sys.path.insert(0, {str(path)!r})\n{code}"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)


@pytest.mark.parametrize(("module", "package", "extra"), PARTS)
def test_a_missing_package_names_itself_and_its_extra(module: str, package: str, extra: str) -> None:
    done = run(ABSENT.format(package=package) + GUARDED.format(module=module))
    named, _, message = done.stdout.strip().partition("|")
    assert named == extra
    assert f"needs the package {package}: pip install 'powauth[{extra}]'" in message
    assert extra in EXTRAS


def test_every_block_of_optional_imports_is_tried_above() -> None:
    found = {
        ".".join(["powauth", *path.relative_to(SOURCE).with_suffix("").parts])
        for path in SOURCE.rglob("*.py")
        if "with needs(" in path.read_text() and path.name != "_extras.py"
    }
    reached = {
        "powauth.backends._lmdb_engine": "powauth.backends.lmdb",
        "powauth.backends._sql_connections": "powauth.backends.sql",
        "powauth.backends._sql_engine": "powauth.backends.sql",
        "powauth.backends._sql_errors": "powauth.backends.sql",
        "powauth.backends._sql_statements": "powauth.backends.sql",
        "powauth.backends._sql_turns": "powauth.backends.sql",
        "powauth.integrations._flask_requests": "powauth.integrations.flask",
        "powauth.integrations._pydantic": "powauth.integrations.fastapi",
    }
    tried = {module for module, _, _ in PARTS} | {module for module, _, _ in MADE}
    assert {reached.get(name, name) for name in found} == tried


@pytest.mark.parametrize(("module", "made", "package"), MADE)
def test_a_factor_names_a_missing_package_when_it_is_made(module: str, made: str, package: str) -> None:
    code = f"""
from powauth.errors import MissingExtra
from powauth.sessions.keyring import Keyring
from {module} import {made.partition("(")[0]}
try:
    {made}
except MissingExtra as error:
    print(error.extra, error, sep="|")
"""
    done = run(ABSENT.format(package=package) + code)
    named, _, message = done.stdout.strip().partition("|")
    assert named == "totp"
    assert f"needs the package {package}: pip install 'powauth[totp]'" in message


def test_rep_01_users_start_without_greenlet_if_they_are_installed_by_their_extra() -> None:
    """SQLAlchemy 2.1 installs greenlet only with its own extra, ``asyncio``."""
    assert any(line.startswith("sqlalchemy[asyncio]") for line in EXTRAS["users"])


def test_rep_01_greenlet_is_named_where_greenlet_is_missing(tmp_path: Path) -> None:
    (tmp_path / "sqlalchemy").mkdir()
    (tmp_path / "sqlalchemy" / "__init__.py").write_text(
        "try:\n    import greenlet\n"
        "except ImportError as error:\n    raise ImportError('the asyncio module needs greenlet') from error\n"
    )
    code = ABSENT.format(package="greenlet") + GUARDED.format(module="powauth.accounts.sqlalchemy")
    done = run(code, path=tmp_path)
    assert done.stdout.strip() == "users|SQLAlchemyUsers needs the package greenlet: pip install 'powauth[users]'"


def test_rep_01_a_package_that_another_one_misses_is_not_blamed_on_the_extra(tmp_path: Path) -> None:
    (tmp_path / "lmdb.py").write_text("import a_package_that_nobody_has\n")
    message = _failure(tmp_path, "backends.lmdb")
    assert "LMDBBackend needs lmdb, and importing it failed: No module named 'a_package_that_nobody_has'" in message
    assert "pip install" not in message


def _failure(path: Path, module: str) -> str:
    code = f"from powauth import ConfigError\ntry:\n    import powauth.{module}\n"
    code += "except ConfigError as error:\n    assert type(error) is ConfigError\n    print(error)\n"
    return run(code, path=path).stdout


def test_rep_01_a_release_that_lacks_a_name_is_called_by_its_version(tmp_path: Path) -> None:
    (tmp_path / "argon2").mkdir()
    (tmp_path / "argon2" / "__init__.py").write_text("")
    message = _failure(tmp_path, "accounts.passwords")
    assert message.startswith("PasswordHasher cannot use argon2")
    assert "No module named 'argon2.exceptions'" in message
    assert "Install a release that powauth supports: pip install -U 'powauth[users]'" in message


def test_a_name_that_a_release_lacks_keeps_the_version_and_the_cause() -> None:
    cause = ImportError("cannot import name 'x' from 'msgspec'", name="msgspec")
    message = str(explained(cause, "extra", "The part", "msgspec"))
    assert message.startswith("The part cannot use msgspec 0.")
    with pytest.raises(ConfigError) as caught, needs("extra", "The part", "msgspec"):
        raise cause
    assert caught.value.__cause__ is cause


def test_a_library_that_cannot_be_loaded_blames_nobody() -> None:
    error = explained(ImportError("libpq.so.5: cannot open shared object file"), "postgresql", "psycopg", "psycopg")
    assert not isinstance(error, MissingExtra)
    assert str(error) == "psycopg needs psycopg, and importing it failed: libpq.so.5: cannot open shared object file"


def test_a_ring_of_causes_ends() -> None:
    first, second = ImportError("first"), ImportError("second")
    first.__cause__, second.__cause__ = second, first
    assert "first" in str(explained(first, "extra", "The part", "package"))


def test_errors_of_other_kinds_pass() -> None:
    with pytest.raises(ZeroDivisionError), needs("extra", "The part", "package"):
        raise ZeroDivisionError


def test_only_a_missing_package_is_missing() -> None:
    assert is_missing(ModuleNotFoundError("", name="anyio"), "anyio")
    assert not is_missing(ModuleNotFoundError("", name="sniffio"), "anyio")
    assert not is_missing(ModuleNotFoundError("", name="anyio.from_thread"), "anyio")
    assert not is_missing(ImportError("", name="anyio"), "anyio")


def test_each_import_error_that_is_caught_goes_through_the_helper() -> None:
    """Whoever catches an ``ImportError`` asks which package it is about."""
    bare = []
    for path in SOURCE.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ExceptHandler) or node.type is None:
                continue
            kinds = {each.id for each in ast.walk(node.type) if isinstance(each, ast.Name)}
            calls = {ast.unparse(each.func) for each in ast.walk(node) if isinstance(each, ast.Call)}
            if kinds & {"ImportError", "ModuleNotFoundError"} and not calls & {"is_missing", "explained"}:
                if path.name == "_forks.py":  # a part of Python that a build may lack; no package installs it
                    continue
                bare.append((path.name, node.lineno))
    assert bare == []


def test_an_extra_is_fine_where_no_server_of_its_kind_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = Path(sys.executable).parent
    monkeypatch.setitem(extras_alone.STORES, "redis", ["redis://127.0.0.1:1/0"])
    assert list(extras_alone.check_extra("redis", place, tmp_path)) == [
        ("powauth sessions --backend redis: count", "the driver is there, and no server answers")
    ]
    monkeypatch.setitem(extras_alone.STORES, "redis", ["redis://127.0.0.1:1/no-number"])
    ((_, outcome),) = extras_alone.check_extra("redis", place, tmp_path)
    assert outcome.startswith("FAILED: exit status 5: ")
