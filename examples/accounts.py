"""The users and the authenticator that the other programs of this folder share."""

import os
from uuid import UUID

import msgspec
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase

from powauth import CookieCarrier, SessionAuth
from powauth.accounts.sqlalchemy import SQLAlchemyUsers, UserMixin


class Base(DeclarativeBase): ...


class User(UserMixin, Base):
    __tablename__ = "users"


class Me(msgspec.Struct, frozen=True):
    """The part of a user that requests see."""

    id: UUID
    email: str


engine = create_engine("sqlite:///users.sqlite3")
Base.metadata.create_all(engine)
auth = SessionAuth(
    secret_key=os.environ["SECRET_KEY"],  # python -c 'import secrets; print(secrets.token_urlsafe(48))'
    users=SQLAlchemyUsers(engine, User, identity=Me),
    backend="lmdb:sessions",
    carrier=CookieCarrier(insecure_http=True),  # remove this when you serve https
)
