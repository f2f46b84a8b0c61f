"""Alembic takes the users' and the sessions' tables over, with the ``env.py`` of the docs."""

import importlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config
from scripts.page_programs import ROOT

from harness.engines import DRIVERS, SYNC, Database, database, unique_table
from powauth.accounts.migrations import render_item
from powauth.accounts.sqlalchemy import UTCDateTime

ONE_METADATA = """
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from powauth.accounts.sqlalchemy import UserMixin
from powauth.backends.sql import sessions_table
from powauth.extensions.api_keys import ApiKeyMixin
from powauth.extensions.passkeys import PasskeyMixin
from powauth.extensions.second_factor import RecoveryCodeMixin, TotpMixin

class Base(DeclarativeBase):
    pass

class User(UserMixin, Base):
    __tablename__ = "users"
    is_active: Mapped[bool] = mapped_column(default=True)

class Passkey(PasskeyMixin, Base):
    __tablename__ = "passkeys"

class Authenticator(TotpMixin, Base):
    __tablename__ = "authenticators"

class RecoveryCode(RecoveryCodeMixin, Base):
    __tablename__ = "recovery_codes"

class ApiKey(ApiKeyMixin, Base):
    __tablename__ = "api_keys"

sessions_table(Base.metadata)
target_metadata = Base.metadata
"""

SEVERAL_METADATA = ONE_METADATA.replace(
    "sessions_table(Base.metadata)\ntarget_metadata = Base.metadata",
    "from sqlalchemy import MetaData\nsessions = MetaData()\nsessions_table(sessions)\n"
    "target_metadata = [Base.metadata, sessions]",
)

TABLES = {
    *("users", "passkeys", "authenticators", "recovery_codes", "api_keys"),
    *("powauth_sessions", "powauth_sessions_epochs"),
}


@pytest.fixture(params=list(SYNC))
def empty(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Database]:
    """A database without tables."""
    where = database(request.param, tmp_path)
    if request.param == "sqlite":
        yield where
        return
    name = unique_table()
    with where.engine() as engine, engine.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").execute(sa.text(f"CREATE DATABASE {name}"))
    try:
        yield Database(where.kind, where.server.set(database=name))
    finally:
        with where.engine() as engine, engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT").execute(sa.text(f"DROP DATABASE {name}"))


class Project:
    """An app with models and migrations, whose ``env.py`` has the lines of the docs."""

    def __init__(self, folder: Path, models: str, where: Database) -> None:
        self.folder = folder
        (folder / "models_of_app.py").write_text(models)
        self.config = Config(folder / "alembic.ini")
        command.init(self.config, str(folder / "migrations"))
        self.url = where.server.set(drivername=DRIVERS[SYNC[where.kind]]).render_as_string(hide_password=False)
        page = (ROOT / "docs" / "operating.md").read_text()
        (lines,) = re.findall(r"^## Migrations.*?\n\n((?:    [^\n]*\n|\n)+)", page, re.MULTILINE | re.DOTALL)
        text = re.sub("^    ", "", lines, flags=re.MULTILINE).replace("shop.models", "models_of_app")
        assert "render_item" in text
        (folder / "migrations" / "env.py").write_text(text)

    def run(self, step: str, *arguments: str, **options: object) -> None:
        self.config.set_main_option("sqlalchemy.url", self.url.replace("%", "%%"))
        getattr(command, step)(self.config, *arguments, **options)

    def autogenerate(self, message: str) -> str:
        """The text of the migration that autogenerate writes."""
        self.run("revision", message=message, autogenerate=True)
        (path,) = (self.folder / "migrations" / "versions").glob(f"*_{message}.py")
        return path.read_text()


@pytest.fixture
def imports_from(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("models_of_app", None)


@pytest.mark.parametrize("models", [ONE_METADATA, SEVERAL_METADATA], ids=["one metadata", "several"])
def test_rep_32_autogenerate_imports_what_it_names_and_a_second_one_finds_nothing(
    imports_from: Path, empty: Database, models: str
) -> None:
    project = Project(imports_from, models, empty)
    text = project.autogenerate("first")
    assert "from powauth.accounts.sqlalchemy import UTCDateTime" in text
    assert not re.search(r"powauth(\.\w+)*\._", text), "no private name"
    project.run("upgrade", "head")
    with empty.engine() as engine:
        assert set(sa.inspect(engine).get_table_names()) == TABLES | {"alembic_version"}
    again = project.autogenerate("second")
    assert re.search(r"def upgrade\(\) -> None:.*\n    pass\n", again, re.DOTALL)
    assert "op." not in again.partition("def upgrade")[2]
    project.run("upgrade", "head")
    project.run("check")
    project.run("downgrade", "base")


def test_rep_32_types_have_names_that_can_be_imported() -> None:
    module: ModuleType = importlib.import_module(UTCDateTime.__module__)
    assert UTCDateTime.__module__ == "powauth.accounts.sqlalchemy"
    assert getattr(module, UTCDateTime.__name__) is UTCDateTime
    assert eval(repr(UTCDateTime()), vars(module)).cache_ok


def test_other_items_are_left_to_alembic_and_to_the_app() -> None:
    class Context:
        imports: set[str] = set()  # noqa: RUF012 - as Alembic's

    class Own(UTCDateTime):
        cache_ok = True

    for kind, item in (("type", sa.String()), ("type", Own()), ("server_default", UTCDateTime())):
        assert render_item(kind, item, Context()) is False
    assert Context.imports == set()
    assert render_item("type", UTCDateTime(), Context()) == "UTCDateTime()"
    assert Context.imports == {"from powauth.accounts.sqlalchemy import UTCDateTime"}
