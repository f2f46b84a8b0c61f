"""The protocol of a users context, which finds, authenticates and changes users.

powauth knows users only through `UsersContext`. `powauth.accounts.sqlalchemy.SQLAlchemyUsers` implements it over an
app's own table. Another directory or service can implement it in a page of code.

No method returns a row of the app's table: powauth works with `Account` values. Rows come only from `Rows`, in a
database session of the app.
"""

import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable, Collection, Mapping, Sequence
from typing import Any, Generic, TypeVar, cast

import msgspec

from powauth.accounts.changes import ChangeListener
from powauth.accounts.fields import FormField
from powauth.accounts.identity import I, Key, stored_key
from powauth.backends.base import Mode
from powauth.errors import ConfigError

T = TypeVar("T")

U = TypeVar("U")
"""The class of the app's rows."""

Params = Mapping[str, object]
"""Parameters of a call that come from a client, such as the fields of a form. Neither names nor values are trusted."""

MAX_LOGIN_KEY = 1024
"""Characters of a user id that the default `UsersContext.login_key` uses. No user id is longer."""


class Rehash(msgspec.Struct, frozen=True):
    """A stronger hash of the password that was just verified. It is not written yet.

    powauth first lets the user's sessions accept ``proof``, and then writes the hash.

    Attributes:
        proof: the account's proof after the hash is written.
        write: writes the hash, and returns whether the account still had the old one.
    """

    proof: bytes
    write: Callable[[], Awaitable[bool]]

    __repr__ = object.__repr__  # error reporters record what local variables look like


class Account(msgspec.Struct, Generic[I], frozen=True, kw_only=True):
    """A user as the users context has just read it.

    Attributes:
        key: the user's primary key.
        identity: the part of the user that requests see.
        proof: bytes that change whenever the password or a user id changes, such as a hash of all of them. powauth
            stores a keyed hash of the proof and the key. ``active`` is no part of it: powauth checks that as well,
            whenever it compares a proof.
        active: whether the user may sign in and stay signed in. Locked and disabled users may not.
        rehash: a stronger hash of the password. Only `UsersContext.authenticate` returns one.
    """

    key: Key
    identity: I
    proof: bytes
    active: bool = True
    rehash: Rehash | None = None

    def __repr__(self) -> str:  # without the proof: error reporters record what local variables look like
        return f"<Account {self.key!r}{'' if self.active else ', not active'}>"


class Standing(msgspec.Struct, frozen=True):
    """The part of a user that decides whether a session may continue.

    Attributes:
        key: the user's primary key.
        proof: see `Account`.
        active: see `Account`.
    """

    key: Key
    proof: bytes
    active: bool

    __repr__ = object.__repr__  # error reporters record what local variables look like


class Rows(ABC, Generic[U]):
    """Reads rows of the app's table in database sessions of the app. ``db`` is such a session.

    A session is a plain one, such as SQLAlchemy's ``Session``, or an asynchronous one. Work in a session is a function
    of a plain session.
    """

    mode: Mode
    """The mode of `standing`."""

    @abstractmethod
    def source(self, given: object) -> Callable[[], object]:
        """Return a function that returns the session of the current request. The app gave ``given``.

        Raises:
            ConfigError: if ``given`` would open a new session at each call, or share one session between requests.
        """

    @abstractmethod
    def plain(self, db: object) -> object | None:
        """Return the plain session behind ``db``; ``None`` if ``db`` is asynchronous.

        Raises:
            ConfigError: if ``db`` is no database session.
        """

    @abstractmethod
    async def run(self, db: object, work: Callable[[Any], T]) -> T:
        """Return the result of work in an asynchronous session."""

    @abstractmethod
    def name(self, session: Any) -> int:
        """Return a number that identifies a plain session."""

    @abstractmethod
    def holds(self, session: Any, row: U) -> bool:
        """Return whether a row still belongs to a session and exists. An expired row is read from the database."""

    @abstractmethod
    def read(self, session: Any, key: Key, *, again: bool = False) -> tuple[U, Standing] | None:
        """Return a row and its standing, by values that the session has not changed; ``None`` if there is no row.

        This takes one SELECT, and none if the session holds the row. It writes no change that is pending. With
        ``again``, it reads the standing from the database: the row in the session may be older.
        """

    @abstractmethod
    async def standing(self, key: Key) -> Standing | None:
        """Return the standing of a user, read without filters of the app; ``None`` if there is no such user.

        Raises:
            StoreUnavailable: if the users cannot be reached.
        """


class UsersContext(ABC, Generic[U, I]):
    """Finds, authenticates and changes users. ``U`` is the class of the app's rows, ``I`` the class of identities.

    Parameters called ``params`` come from outside and are not trusted. They may be any mapping with any values. Methods
    raise `InvalidParams` for errors that a client can correct, and `StoreUnavailable` if the users cannot be reached.
    No input makes them raise anything else.

    A returned account was read from the users' database during the call. It is never an older copy.
    """

    mode: Mode

    identity: type[I]
    """The class of identities: a frozen `msgspec.Struct`."""

    user_id_field: str = "email"
    """The name in ``params`` of the user id, which users type to sign in."""

    other_user_id_fields: Sequence[str] = ()
    """Further names in ``params`` under which a sign-in may give a user id, such as ``"username"``."""

    fields: Sequence[str] = ()
    """The other names in ``params`` that users may set themselves, besides the user id and the password."""

    model: type[U] | None = None
    """The class of the app's rows, if they are rows of a table of the app."""

    columns: Collection[str] = ()
    """The names of the values that `read` returns."""

    table_name: str | None = None
    """A name of the users that this context knows: the table of their rows, with its schema. Contexts with two names
    have different users, whose keys may be equal. ``None`` if that is not known."""

    row_reader: Rows[U] | None = None
    """Reads the users' rows, if they are rows of a table of the app."""

    @abstractmethod
    async def authenticate(self, params: Params) -> Account[I] | None:
        """Return the active account that ``params`` (user id and password) prove; ``None`` for any failure.

        Do the same work for an unknown, a locked or a password-less user as for a known one (ASVS 6.3.8).
        """

    @abstractmethod
    async def create(self, params: Params) -> Account[I]:
        """Register a user.

        Raises:
            InvalidParams: what is wrong, by field.
        """

    @abstractmethod
    async def update(
        self, key: Key, params: Params, *, trusted: bool = False, proof: bytes | None = None
    ) -> Account[I]:
        """Change a user, and return the account as it is now.

        A user's own change needs ``current_password``, and sets only the fields that a user may set. ``trusted`` is
        for the app's own code: it needs no current password and sets any field of the model.

        With ``proof``, change the user only if the account is active and still has this proof. Compare and write in
        one step: no other change may come between. A link in a mail is checked first and used later, and what
        somebody changed meanwhile must stand.

        Raises:
            InvalidParams: what is wrong, by field. A wrong current password is under ``current_password``. If the user
                no longer exists, the error is ``{"base": [...]}``.
            Overtaken: if the account has another proof, or is not active. It is an `InvalidParams`.
        """

    async def set_first_password(self, key: Key, params: Params) -> Account[I] | None:
        """Change a user who has no password yet, and return the account as it is now.

        powauth calls it instead of `update` if the user has just signed in, and gives a ``password`` without a
        ``current_password``. Return ``None`` if the user has a password. powauth then calls `update`, which demands it.
        Check this and write the password in one step, so that a second request cannot replace the first password.

        By default it returns ``None``: the context has no users without a password.

        Raises:
            InvalidParams: as `update` does.
        """
        del key, params
        return None

    async def has_password(self, key: Key) -> bool:
        """Return whether a user has a password to sign in with. It is false if there is no such user.

        An extension asks before it removes another way to sign in, which may be the user's last. By default it returns
        ``True``: the context has no users without a password.

        Raises:
            StoreUnavailable: if the users cannot be reached.
        """
        del key
        return True

    @abstractmethod
    async def delete(self, key: Key, params: Params | None = None) -> bool:
        """Delete a user, and return whether the user still existed.

        If ``params`` are given, their ``current_password`` must be right.

        Raises:
            InvalidParams: if ``current_password`` is missing or wrong; the error is under that name.
        """

    @abstractmethod
    async def get(self, key: Key) -> Account[I] | None:
        """Return the account with this key, active or not; ``None`` if there is none."""

    @abstractmethod
    async def find(self, user_id: object) -> Account[I] | None:
        """Return the account with this user id, active or not; ``None`` if there is none. A blank id finds nobody."""

    async def read(self, key: Key, names: Sequence[str]) -> tuple[Account[I], Mapping[str, Any]] | None:
        """Return the account with this key and further values of the user by name; ``None`` if there is no account.

        Extensions that have columns of their own read them so. By default a context has no further values.

        Raises:
            ConfigError: if there are no values of these names.
        """
        del key
        raise ConfigError(f"{type(self).__name__} has no {', '.join(names)}: override read, or use SQLAlchemyUsers")

    @abstractmethod
    def validate(self, params: Params, identity: I | None = None) -> Mapping[str, list[str]]:
        """Return what is wrong with ``params``, by field, without using the database.

        With ``identity``, ``params`` are a change of that user. Otherwise they are a registration.
        """

    def registration_fields(self) -> Sequence[FormField]:
        """Return the fields of a form to register, without the password. `powauth.pages` shows this form.

        By default these are the user ids. The first is required, and the others are optional.

        Raises:
            ConfigError: if no registration with these fields can ever succeed. The message says what to do.
        """
        return [
            FormField(name=name, kind="email" if name == "email" else "text", required=name == self.user_id_field)
            for name in (self.user_id_field, *self.other_user_id_fields)
        ]

    def login_key(self, params: Params) -> str | None:
        """Return the user id in ``params`` in one form, whether or not the user exists; ``None`` if it is no user id.

        powauth counts failed sign-ins under it. All spellings that `authenticate` accepts for one user must give one
        key. It does less harm if two users share a key. The method must be pure, and cheap for any input. By default
        the key is the `user_id_field`, trimmed, in NFKC and with its case folded.
        """
        value = params.get(self.user_id_field)
        if not isinstance(value, str):
            return None
        return unicodedata.normalize("NFKC", value[:MAX_LOGIN_KEY].strip()).casefold()

    async def throttle_key(self, params: Params) -> str | None:
        """Return the key under which powauth counts a failed sign-in; ``None`` counts it for no account.

        By default this is `login_key`. Override it if a user can sign in with several ids, such as an e-mail address
        and a user name: all of them must give one key, so the user must be looked up. Give an unknown user a key, too.

        Raises:
            StoreUnavailable: if the users cannot be reached.
        """
        return self.login_key(params)

    def key_of(self, subject: object) -> Key | None:
        """Return the key of an identity, a row or an account; ``None`` if ``subject`` is none of these.

        The default supports accounts, and identities whose key is in ``id``.
        """
        if isinstance(subject, Account):
            return subject.key
        if isinstance(subject, self.identity):
            key: Key | None = getattr(subject, "id", None)
            return key
        return None

    def add_listener(self, listener: ChangeListener) -> None:
        """Take an authenticator that uses this context. Each authenticator calls this once, when it is made.

        A context that notices changes by the app's own code tells its listeners of them. The default notices none. A
        context that wraps another one passes the listener on.
        """
        del listener

    async def close(self) -> None:
        """Close the resources that the context opened itself."""


def key_of_user(users: UsersContext[Any, Any], user: object) -> Key:
    """Return the key of a user: of an identity, a row, an account, or the key itself.

    Raises:
        ConfigError: if ``user`` is none of these.
    """
    key = users.key_of(user)
    if key is None:
        key = cast("Key", user)
        stored_key(key)  # raises if it is no key
    return key
