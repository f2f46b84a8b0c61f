"""Comparisons of identities with rows."""

import uuid
from typing import Any

import msgspec
import sqlalchemy as sa

from harness.users_databases import Base, cheap_hasher, table_name
from powauth.accounts.sqlalchemy import SQLAlchemyUsers, UserMixin

KEY = uuid.uuid4()


class Me(msgspec.Struct, frozen=True):
    id: uuid.UUID


class Boss(Me, frozen=True):
    pass


class Worker(UserMixin, Base):
    __tablename__ = table_name()


class Owner(UserMixin, Base):
    __tablename__ = table_name()


def test_an_identity_class_that_derives_from_another_one_is_compared_with_its_own_model() -> None:
    engine = sa.create_engine("sqlite://")
    SQLAlchemyUsers(engine, Worker, identity=Me, hasher=cheap_hasher())
    SQLAlchemyUsers(engine, Owner, identity=Boss, hasher=cheap_hasher())
    me: Any = Me(KEY)
    boss: Any = Boss(KEY)
    assert boss == Owner(id=KEY)
    other: Any = Boss(uuid.uuid4())
    assert other != Owner(id=KEY)
    assert me == Worker(id=KEY)
    assert boss != Worker(id=KEY)
    assert me != Owner(id=KEY)
    engine.dispose()
