"""A users context in a dict, made of small parts. A mutant replaces one of the parts."""

import hashlib
import secrets
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec

from powauth.accounts.base import Account, Rehash, UsersContext
from powauth.accounts.identity import Key
from powauth.backends.base import Mode
from powauth.errors import InvalidParams, Overtaken, StoreUnavailable

BLANK = ["can't be blank"]
TAKEN = ["has already been taken"]
WRONG = {"current_password": ["is wrong"]}
GONE = {"base": ["the user no longer exists"]}

ROUNDS = 2
WEAK_ROUNDS = 1
MAX_LENGTH = 300


@dataclass(frozen=True)
class Row:
    """A stored user."""

    key: int
    email: str
    password_hash: str | None = field(default=None, repr=False)
    locked: bool = False
    role: str = "user"


class Me(msgspec.Struct, frozen=True, kw_only=True):
    id: int
    email: str
    role: str


class Store:
    """What the contexts of one test share, as processes share a database."""

    def __init__(self) -> None:
        self.rows: dict[int, Row] = {}
        self.last_key = 0
        self.broken = False
        self.work = 0
        self._lock = threading.RLock()

    @contextmanager
    def locked(self) -> Iterator[dict[int, Row]]:
        """The rows, to nobody else meanwhile.

        Raises:
            OSError: the store is broken.
        """
        with self._lock:
            if self.broken:
                raise OSError("the file is gone")
            yield self.rows

    def next_key(self) -> int:
        with self._lock:
            self.last_key += 1
            return self.last_key


def derived(password: str, salt: str, rounds: int) -> str:
    # PBKDF2 pads a short password with zeros, so it takes "x" and "x\0" for one.
    digest = hashlib.sha256(password.encode()).digest()
    return hashlib.pbkdf2_hmac("sha256", digest, salt.encode(), rounds).hex()


class SmallUsers(UsersContext[Row, Me]):
    """Right in all that the suite asks."""

    mode: Mode = "inline"
    identity = Me

    def __init__(self, store: Store) -> None:
        self.store = store

    # Parts

    @contextmanager
    def rows(self) -> Iterator[dict[int, Row]]:
        try:
            with self.store.locked() as rows:
                yield rows
        except OSError as error:
            raise StoreUnavailable("the users cannot be reached") from error

    def normalized(self, value: object) -> str:
        if not isinstance(value, str) or len(value) > MAX_LENGTH:
            raise ValueError("is invalid")
        text = value.strip(" \t").lower()
        if not text:
            raise ValueError("can't be blank")
        if not text.isascii() or not text.isprintable() or " " in text or text.count("@") != 1 or "%" in text:
            raise ValueError("has invalid format")
        return text

    def password_errors(self, password: object) -> list[str]:
        if password is None or password == "":
            return BLANK
        if not isinstance(password, str) or not 8 <= len(password) <= MAX_LENGTH:
            return ["is invalid"]
        try:
            password.encode()
        except UnicodeEncodeError:
            return ["is invalid"]
        return []

    def hashed(self, password: str, rounds: int = ROUNDS) -> str:
        self.store.work += rounds
        salt = secrets.token_hex(8)
        return f"{rounds}${salt}${derived(password, salt, rounds)}"

    def verified(self, stored: str | None, password: object) -> bool:
        """Whether a hash is a password's, after the same work for everything."""
        rounds, salt, tag = (stored or f"{ROUNDS}$salt$none").split("$")
        usable = isinstance(password, str) and not self.password_errors(password)
        self.store.work += ROUNDS
        found = derived(str(password) if usable else "", salt, int(rounds))
        return stored is not None and usable and secrets.compare_digest(found, tag)

    def proof(self, row: Row) -> bytes:
        return hashlib.sha256(msgspec.msgpack.encode((row.email, row.password_hash))).digest()

    def identity_of(self, row: Row) -> Any:
        return Me(id=row.key, email=row.email, role=row.role)

    def is_active(self, row: Row) -> bool:
        return not row.locked

    def account(self, row: Row) -> Account[Me]:
        return Account(key=row.key, identity=self.identity_of(row), proof=self.proof(row), active=self.is_active(row))

    def row(self, key: Key) -> Row | None:
        with self.rows() as rows:
            return rows.get(key) if type(key) is int else None

    def row_by_email(self, email: str) -> Row | None:
        with self.rows() as rows:
            return next((row for row in rows.values() if row.email == email), None)

    def check_proof(self, row: Row, proof: bytes | None) -> None:
        if proof is not None and not (self.is_active(row) and self.proof(row) == proof):
            raise Overtaken

    def put(self, row: Row, *, new: bool) -> bool:
        """Write a row, unless its e-mail address is another's, or it is gone."""
        with self.rows() as rows:
            if not new and row.key not in rows:
                raise InvalidParams(GONE)
            if any(other.email == row.email and other.key != row.key for other in rows.values()):
                return False
            rows[row.key] = row
            return True

    def new_row(self, params: Mapping[str, object], email: str, password: str) -> Row:
        del params
        return Row(self.store.next_key(), email, self.hashed(password))

    def own_changes(self, params: Mapping[str, object]) -> dict[str, Any]:
        """What a change of one's own sets, besides the e-mail address and the password."""
        del params
        return {}

    def trusted_changes(self, params: Mapping[str, object]) -> dict[str, Any]:
        return {name: params[name] for name in ("locked", "role", "password_hash") if name in params}

    def errors(self, params: Mapping[str, object], *, changing: bool) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        if not changing or self.user_id_field in params:
            try:
                self.normalized(params.get(self.user_id_field))
            except ValueError as error:
                found[self.user_id_field] = [str(error)]
        if not changing or params.get("password", "") != "":
            messages = self.password_errors(params.get("password"))
            if messages:
                found["password"] = messages
        return found

    def prove(self, row: Row, params: Mapping[str, object]) -> None:
        if not self.verified(row.password_hash, params.get("current_password")):
            raise InvalidParams(WRONG)

    # The protocol

    async def authenticate(self, params: Mapping[str, object]) -> Account[Me] | None:
        email = self.login_key(params)
        row = None if email is None else self.row_by_email(email)
        correct = self.verified(None if row is None else row.password_hash, params.get("password"))
        if row is None or not correct or not self.is_active(row):
            return None
        account = self.account(row)
        if self.needs_rehash(row):
            return msgspec.structs.replace(account, rehash=self.rehash(row, str(params["password"])))
        return account

    def needs_rehash(self, row: Row) -> bool:
        return row.password_hash is not None and row.password_hash.startswith(f"{WEAK_ROUNDS}$")

    def rehash(self, row: Row, password: str) -> Rehash:
        stronger = self.hashed(password)

        async def write() -> bool:
            return self.replace_hash(row, stronger)

        return Rehash(self.proof(replace(row, password_hash=stronger)), write)

    def replace_hash(self, row: Row, stronger: str) -> bool:
        with self.rows() as rows:
            current = rows.get(row.key)
            if current is None or current.password_hash != row.password_hash:
                return False
            rows[row.key] = replace(current, password_hash=stronger)
            return True

    async def create(self, params: Mapping[str, object]) -> Account[Me]:
        errors = self.errors(params, changing=False)
        if errors:
            raise InvalidParams(errors)
        row = self.new_row(params, self.normalized(params[self.user_id_field]), str(params["password"]))
        if not self.put(row, new=True):
            raise InvalidParams({self.user_id_field: TAKEN})
        return self.account(row)

    async def update(
        self, key: Key, params: Mapping[str, object], *, trusted: bool = False, proof: bytes | None = None
    ) -> Account[Me]:
        row = self.row(key)
        if row is None:
            raise InvalidParams(GONE)
        self.check_proof(row, proof)
        errors = self.errors(params, changing=True)
        if not trusted and params.get("current_password") in (None, ""):
            errors["current_password"] = BLANK
        if errors:
            raise InvalidParams(errors)
        if not trusted:
            self.prove(row, params)
        changes = self.trusted_changes(params) if trusted else self.own_changes(params)
        if self.user_id_field in params:
            changes["email"] = self.normalized(params[self.user_id_field])
        if params.get("password"):
            changes["password_hash"] = self.hashed(str(params["password"]))
        changed = replace(row, **changes)
        with self.rows() as rows:  # nobody else changes the row between the comparison and the write
            self.check_proof(rows.get(row.key, row), proof)
            if not self.put(changed, new=False):
                raise InvalidParams({self.user_id_field: TAKEN})
        return self.account(changed)

    async def has_password(self, key: Key) -> bool:
        row = self.row(key)
        return row is not None and row.password_hash is not None

    async def delete(self, key: Key, params: Mapping[str, object] | None = None) -> bool:
        row = self.row(key)
        if row is None:
            return False
        if params is not None:
            self.prove(row, params)
        with self.rows() as rows:
            return rows.pop(row.key, None) is not None

    async def get(self, key: Key) -> Account[Me] | None:
        row = self.row(key)
        return None if row is None else self.account(row)

    async def find(self, user_id: object) -> Account[Me] | None:
        try:
            email = self.normalized(user_id)
        except ValueError:
            return None
        row = self.row_by_email(email)
        return None if row is None else self.account(row)

    def validate(self, params: Mapping[str, object], identity: Me | None = None) -> Mapping[str, list[str]]:
        errors = self.errors(params, changing=identity is not None)
        if identity is not None and params.get("current_password") in (None, ""):
            errors["current_password"] = BLANK
        return errors

    def login_key(self, params: Mapping[str, object]) -> str | None:
        try:
            return self.normalized(params.get(self.user_id_field))
        except ValueError:
            return None
