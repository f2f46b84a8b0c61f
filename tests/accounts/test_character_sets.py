"""REP-28: old tables of MariaDB whose columns cannot hold every character. Such input is no outage of the database."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import Mapped, Session, mapped_column

from harness.users_databases import PASSWORD, Base, blocking_engine, cheap_hasher, statements, table_name
from powauth.accounts.identifiers import EmailIdentifier, Identifier
from powauth.accounts.sqlalchemy import SQLAlchemyUsers
from powauth.backends.base import drive
from powauth.errors import InvalidParams, StoreUnavailable

HASHER = cheap_hasher()
TAKEN = {"email": ["has already been taken"]}


class AnyName:
    """User ids without a rule."""

    field = "email"

    def normalize(self, value: object) -> str:
        return str(value)


class Old:
    is_active = True
    id: Mapped[int] = mapped_column(primary_key=True)
    password_hash: Mapped[str | None] = mapped_column(sa.String(255))


def email_in(collation: str) -> Mapped[str]:
    return mapped_column(sa.String(200, collation=collation), unique=True)


class Latin1(Old, Base):
    __tablename__ = table_name()
    email: Mapped[str] = email_in("latin1_general_ci")


class UTF8MB3(Old, Base):
    __tablename__ = table_name()
    email: Mapped[str] = email_in("utf8mb3_general_ci")


class ASCII(Old, Base):
    __tablename__ = table_name()
    email: Mapped[str] = email_in("ascii_general_ci")


class Usual(Old, Base):
    """A column of the database's usual character set."""

    __tablename__ = table_name()
    email: Mapped[str] = mapped_column(sa.String(200), unique=True)


MODELS: dict[str, type[Any]] = {"latin1": Latin1, "utf8mb3": UTF8MB3, "ascii": ASCII}
OUTSIDE = {"latin1": "МИА@example.com", "utf8mb3": "mia😀@example.com", "ascii": "émil@example.com"}
"""A user id that the column cannot hold."""


@pytest.fixture(params=MODELS)
def old(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[sa.Engine, str]]:
    with blocking_engine("mariadb+pymysql", str(tmp_path), *MODELS.values()) as engine:
        yield engine, request.param


def users_of(engine: sa.Engine, name: str, identifier: Identifier | None = None) -> SQLAlchemyUsers[Any, Any]:
    return SQLAlchemyUsers(engine, MODELS[name], hasher=HASHER, identifier=identifier)


def add(engine: sa.Engine, name: str, email: str) -> int:
    with Session(engine) as session:
        row = MODELS[name](email=email, password_hash=HASHER.hash(PASSWORD))
        session.add(row)
        session.commit()
        key: int = row.id
        return key


@pytest.mark.parametrize("identifier", [None, AnyName(), EmailIdentifier(allow_international=True)])
def test_rep_28_a_user_id_that_the_column_cannot_hold_is_nobodys(
    old: tuple[sa.Engine, str], identifier: Identifier | None
) -> None:
    engine, name = old
    users = users_of(engine, name, identifier)
    params = {"email": OUTSIDE[name], "password": PASSWORD}
    assert drive(users.authenticate(params)) is None
    assert drive(users.find(OUTSIDE[name])) is None
    assert drive(users.get_by(email=OUTSIDE[name])) is None
    assert drive(users.throttle_key(params)) is not None
    with pytest.raises(InvalidParams):
        drive(users.create(params))


def test_rep_28_an_address_in_another_script_signs_in_by_its_encoded_form(old: tuple[sa.Engine, str]) -> None:
    engine, name = old
    users = users_of(engine, name)
    typed = "mia@почта.example"
    assert drive(users.create({"email": typed, "password": PASSWORD})).identity.email == "mia@xn--80a1acny.example"
    with statements(engine) as seen:
        found = drive(users.authenticate({"email": typed, "password": PASSWORD}))
        assert drive(users.authenticate({"email": "noa@почта.example", "password": PASSWORD})) is None
    assert found is not None
    assert len(seen) == (2 if name == "utf8mb3" else 4)
    with pytest.raises(InvalidParams) as refused:
        drive(users.create({"email": typed, "password": PASSWORD}))
    assert dict(refused.value.errors) == TAKEN


@pytest.mark.parametrize("name", ["latin1", "utf8mb3"])
def test_rep_28_nobody_registers_another_case_of_a_name_that_the_column_can_hold(name: str, tmp_path: Path) -> None:
    """The letter å has a second capital, the sign of Ångström, which latin1 lacks."""
    with blocking_engine("mariadb+pymysql", str(tmp_path), *MODELS.values()) as engine:
        add(engine, name, "ÅSA")
        with pytest.raises(InvalidParams) as refused:
            drive(users_of(engine, name, AnyName()).create({"email": "åsa", "password": PASSWORD}))
        assert dict(refused.value.errors) == TAKEN


@pytest.mark.parametrize("marker", ["lower(", "WHERE users_"])
def test_any_other_failure_of_the_comparison_is_an_outage(marker: str, tmp_path: Path) -> None:
    with blocking_engine("sqlite", str(tmp_path), Usual) as engine:
        users: SQLAlchemyUsers[Any, Any] = SQLAlchemyUsers(engine, Usual, hasher=HASHER)
        params = {"email": "mia@example.com", "password": PASSWORD}
        drive(users.create(params))
        if marker == "lower(":
            params |= {"email": "noa@example.com"}

        def fail(connection: object, cursor: object, statement: str, *rest: object) -> None:
            if statement.startswith("SELECT") and marker in " ".join(statement.split()):
                raise OperationalError(statement, {}, Exception("the database is away"))

        sa.event.listen(engine, "before_cursor_execute", fail)
        with pytest.raises(StoreUnavailable):
            drive(users.create(params))
        sa.event.remove(engine, "before_cursor_execute", fail)
