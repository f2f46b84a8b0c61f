"""The protocol of a users context: who the users are, and what proves it.

`UsersContext` is all that powauth knows of users: it authenticates, creates, updates, deletes and finds them, and takes
the snapshot that a session carries. `powauth.accounts.sqlalchemy.SQLAlchemyUsers` implements it over an app's own
model; anything else (LDAP, another service) can implement it in a page.
"""

import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Mapping
from typing import Generic, TypeVar

from powauth.backends.base import Mode

U = TypeVar("U")

MAX_LOGIN_KEY = 1024
"""Characters of a user id that tell it from others; more than any has."""


class UsersContext(ABC, Generic[U]):
    """Who the users are. ``U`` is the app's own user type.

    Parameters called ``params`` come from outside and are not trusted: any mapping, of anything. Methods raise
    `InvalidParams` for what a client can mend and `StoreUnavailable` if the database cannot be reached; no input makes
    them raise anything else.
    """

    mode: Mode
    user_id_field: str = "email"
    """The attribute, and the name in ``params``, that users name themselves by."""

    user_type: type[U]
    """The app's user type: anything else that `authenticate` may return is no user (ASVS 16.5.3)."""

    authenticates_current: bool = False
    """Whether `authenticate` answers with the user as the database had them at some moment of the call, as `reload`
    does, and never with a copy from before it. A sign-in need then not read the user once more."""

    immutable: bool = False
    """Whether nobody can change a user that `restore` made, nor anything it holds, as with a frozen dataclass of texts
    and numbers. One may then be handed to several requests, and threads, instead of another one to each."""

    @abstractmethod
    def key(self, user: U) -> str:
        """What names the user for ever: immutable, never given to another user, at most 255 bytes in UTF-8.

        All of a user's sessions hang on it, so it must be the primary key or the like, never an e-mail address.
        """

    @abstractmethod
    def fingerprint(self, user: U) -> bytes:
        """Changes whenever what proves the user changes: the password hash, the user id.

        Only called with users that `authenticate`, `create`, `update`, `get_by` or `reload` returned (not `restore`).
        """

    @abstractmethod
    def is_active(self, user: U) -> bool:
        """Whether the user may sign in and stay signed in; ``False`` for the locked and the disabled."""

    @abstractmethod
    def snapshot(self, user: U) -> bytes:
        """What a session keeps of the user, so that a request needs no query: never a hash or another secret."""

    @abstractmethod
    def restore(self, snapshot: bytes) -> U:
        """The user of a snapshot, as the app's own type, detached from any database session.

        Raises:
            ValueError: if the snapshot is none, or was taken of another model; the session then counts as absent.
        """

    @abstractmethod
    async def authenticate(self, params: Mapping[str, object]) -> U | None:
        """The active user whom ``params`` (user id and password) prove, or ``None``, whatever was wrong.

        Does the same work for an unknown, locked or password-less user as for a known one (ASVS 6.3.8).
        """

    def login_key(self, params: Mapping[str, object]) -> str | None:
        """The user id in ``params`` in its one form, whether or not there is such a user; ``None`` if it can be none.

        Failed sign-ins are counted under it, so all spellings that `authenticate` takes for one user must give one key;
        that two users share one does less harm. Pure, and cheap for any input. By default the `user_id_field` without
        blanks around it and in one case.
        """
        value = params.get(self.user_id_field)
        if not isinstance(value, str):
            return None
        return unicodedata.normalize("NFKC", value[:MAX_LOGIN_KEY].strip()).casefold()

    @abstractmethod
    async def create(self, params: Mapping[str, object]) -> U:
        """Register a user.

        Raises:
            InvalidParams: what is wrong, by field.
        """

    @abstractmethod
    async def update(self, user: U, params: Mapping[str, object], *, trusted: bool = False) -> U:
        """Change a user; the user as it now is, read back from the database.

        A user's own change needs ``current_password``, and reaches only the fields that a user may set. ``trusted``
        is for the app's own code: no current password, any field of the model.

        Raises:
            InvalidParams: what is wrong, by field; under ``current_password`` if that is; ``{"base": [...]}`` if the
                user no longer exists.
        """

    @abstractmethod
    async def delete(self, user: U, params: Mapping[str, object] | None = None) -> bool:
        """Delete a user; whether it still existed. With ``params``, their ``current_password`` must be right.

        Raises:
            InvalidParams: ``current_password`` is missing or wrong, and named so.
        """

    @abstractmethod
    async def get_by(self, **clauses: object) -> U | None:
        """Return the one user whose fields equal the clauses, or ``None``. The user id is normalised first.

        Empty text finds nobody.

        Raises:
            ValueError: if a clause is ``None``. A value that is missing would otherwise find a user who has none.
        """

    @abstractmethod
    async def reload(self, user: U) -> U | None:
        """The same user as the database has it now; ``None`` if it is gone, or its id was given to another."""

    @abstractmethod
    def change(self, params: Mapping[str, object], user: U | None = None) -> Mapping[str, list[str]]:
        """What is wrong with ``params`` for a new user, or for a change of ``user``, without touching the database."""

    async def close(self) -> None:
        """Let go of what the context opened itself."""
