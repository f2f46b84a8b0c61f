"""Restrictions of a model: conditions besides ``is_active``, for extensions and for apps."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar

import pytest
from sqlalchemy.orm import Mapped, mapped_column

from harness.users_databases import PASSWORD, Base, blocking_engine, cheap_hasher, table_name
from powauth import ConfigError
from powauth.accounts.restrictions import Restriction, restrictions_of
from powauth.accounts.sqlalchemy import SQLAlchemyUsers, UserMixin, UTCDateTime
from powauth.backends.base import drive

NOW = datetime(2030, 1, 1, tzinfo=UTC)


def is_paid(values: Mapping[str, Any], now: datetime) -> bool:
    assert set(values) == {"paid_until"}
    return values["paid_until"] is None or now < values["paid_until"]


class PaidMixin:
    paid_until: Mapped[datetime | None] = mapped_column(UTCDateTime())
    paid: ClassVar = Restriction(("paid_until",), is_paid)


class VerdictMixin:
    verdict: Mapped[str | None] = mapped_column()
    innocent: ClassVar = Restriction(("verdict",), lambda values, now: values["verdict"])


class Member(PaidMixin, VerdictMixin, UserMixin, Base):
    __tablename__ = table_name()


class Owner(PaidMixin, UserMixin, Base):
    """``is_active`` is a property, so accounts need the row."""

    __tablename__ = table_name()

    @property
    def is_active(self) -> bool:
        return self.email.startswith("a")


class Wrong(UserMixin, Base):
    __tablename__ = table_name()
    broken: ClassVar = Restriction(("no_such_column",), is_paid)


def test_restrictions_of_all_mixins_count() -> None:
    assert {each.columns for each in restrictions_of(Member)} == {("paid_until",), ("verdict",)}


@pytest.mark.parametrize("verdict", [None, "", "guilty"])
def test_only_true_allows(verdict: str | None, tmp_path: Path) -> None:
    """A function that returns another truthy value allows nobody (CVE-2022-24880)."""
    with blocking_engine("sqlite", str(tmp_path), Member) as engine:
        users: SQLAlchemyUsers[Member, Any] = SQLAlchemyUsers(engine, Member, hasher=cheap_hasher())
        account = drive(users.create({"email": "ada@example.org", "password": PASSWORD}))
        drive(users.update(account.key, {"verdict": verdict}, trusted=True))
        found = drive(users.get(account.key))
        assert found is not None
        assert found.active is False


@pytest.mark.parametrize(("email", "active"), [("ada@example.org", True), ("bob@example.org", False)])
def test_a_property_and_a_restriction_must_both_allow(email: str, active: bool, tmp_path: Path) -> None:
    with blocking_engine("sqlite", str(tmp_path), Owner) as engine:
        users: SQLAlchemyUsers[Owner, Any] = SQLAlchemyUsers(engine, Owner, hasher=cheap_hasher(), clock=lambda: NOW)
        key = drive(users.create({"email": email, "password": PASSWORD})).key
        reader = users.row_reader
        assert reader is not None

        def states() -> set[bool]:
            account, standing = drive(users.get(key)), drive(reader.standing(key))
            assert account is not None
            assert standing is not None
            return {account.active, standing.active, *(user.active for user in drive(users.list_users()))}

        assert states() == {active}
        drive(users.update(key, {"paid_until": NOW}, trusted=True))
        assert states() == {False}


def test_a_restriction_on_a_column_that_is_not_there_is_refused(tmp_path: Path) -> None:
    message = "Wrong has no column 'no_such_column', on which a restriction"
    with blocking_engine("sqlite", str(tmp_path), Wrong) as engine, pytest.raises(ConfigError, match=message):
        SQLAlchemyUsers(engine, Wrong)
