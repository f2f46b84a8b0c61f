"""The users of the typed programs: as in an app of somebody who installed powauth."""

import secrets
from uuid import UUID

import msgspec
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from powauth import SessionAuth
from powauth.accounts.sqlalchemy import SQLAlchemyUsers, UserMixin


class Base(DeclarativeBase): ...


class User(UserMixin, Base):
    __tablename__ = "users"
    nick: Mapped[str] = mapped_column(default="")


class Me(msgspec.Struct, frozen=True):
    id: UUID
    email: str
    nick: str


engine = create_engine("sqlite://")
users = SQLAlchemyUsers(engine, User, identity=Me)
auth = SessionAuth(secret_key=secrets.token_urlsafe(48), users=users, backend="memory://")
