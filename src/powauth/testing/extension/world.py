"""A small app for the extensions' suite: users in a dict, and requests without a server."""

import hashlib
import itertools
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, TypeVar

import msgspec

from powauth import Account, InvalidParams, Overtaken, RequestAuth, SessionAuth, UsersContext
from powauth.accounts.identity import Key
from powauth.backends.base import Mode
from powauth.http.connection import Connection

T = TypeVar("T")

Auth = SessionAuth[Any, Any]
Bound = RequestAuth[Any, Any]


class Person(msgspec.Struct, frozen=True, kw_only=True):
    """The identity of the suite's users, and their row."""

    id: int
    email: str
    locked: bool = False


class People(UsersContext[Person, Person]):
    """Users in a dict. Passwords have a fast hash, because the suite signs in hundreds of times."""

    mode: Mode = "inline"
    identity = Person

    def __init__(self) -> None:
        self._people: dict[Key, tuple[Person, bytes]] = {}
        self._keys = itertools.count(1)

    async def authenticate(self, params: Mapping[str, object]) -> Account[Person] | None:
        """See `UsersContext.authenticate`."""
        found = await self.find(params.get("email"))
        proven = found is not None and self._people[found.key][1] == _hash(params.get("password"))
        return found if found is not None and proven and found.active else None

    async def create(self, params: Mapping[str, object]) -> Account[Person]:
        """See `UsersContext.create`."""
        email = params.get("email")
        if not isinstance(email, str) or "@" not in email or await self.find(email) is not None:
            raise InvalidParams({"email": ["cannot be used"]})
        person = Person(id=next(self._keys), email=email)
        self._people[person.id] = person, _hash(params.get("password"))
        return self._account(person.id)

    async def update(
        self, key: Key, params: Mapping[str, object], *, trusted: bool = False, proof: bytes | None = None
    ) -> Account[Person]:
        """See `UsersContext.update`."""
        if key not in self._people:
            raise InvalidParams({"base": ["no longer exists"]})
        person, code = self._people[key]
        if proof is not None and not (proof == self._account(key).proof and not person.locked):
            raise Overtaken
        if not trusted:
            self._check(key, params)
        changes = {name: params[name] for name in ("email", "locked") if name in params}
        changed = msgspec.structs.replace(person, **changes)
        self._people[key] = changed, _hash(params["password"]) if "password" in params else code
        return self._account(key)

    async def delete(self, key: Key, params: Mapping[str, object] | None = None) -> bool:
        """See `UsersContext.delete`."""
        if params is not None:
            self._check(key, params)
        return self._people.pop(key, None) is not None

    async def get(self, key: Key) -> Account[Person] | None:
        """See `UsersContext.get`."""
        return self._account(key) if key in self._people else None

    async def find(self, user_id: object) -> Account[Person] | None:
        """See `UsersContext.find`."""
        keys = [key for key, (person, _) in self._people.items() if person.email == user_id]
        return self._account(keys[0]) if keys else None

    def validate(self, params: Mapping[str, object], identity: Person | None = None) -> Mapping[str, list[str]]:
        """See `UsersContext.validate`."""
        del params, identity
        return {}

    def _account(self, key: Key) -> Account[Person]:
        person, code = self._people[key]
        return Account(key=key, identity=person, proof=person.email.encode() + code, active=not person.locked)

    def _check(self, key: Key, params: Mapping[str, object]) -> None:
        if key not in self._people or self._people[key][1] != _hash(params.get("current_password")):
            raise InvalidParams({"current_password": ["is wrong"]})


def _hash(password: object) -> bytes:
    return hashlib.blake2b(str(password).encode("utf-8", "surrogatepass")).digest()


class Request(Connection):
    """A request with a cookie."""

    def __init__(self, cookie: str) -> None:
        self.states = {}
        self._cookie = cookie

    def method(self) -> str:
        """See `Connection.method`."""
        return "POST"

    def target(self) -> str:
        """See `Connection.target`."""
        return "/"

    def cookies(self) -> str:
        """See `Connection.cookies`."""
        return self._cookie

    def header(self, name: str) -> str | None:
        """See `Connection.header`."""
        del name
        return None

    def client_ip(self) -> str | None:
        """See `Connection.client_ip`."""
        return "192.0.2.1"


class Browser:
    """A client with one cookie."""

    def __init__(self, auth: Auth) -> None:
        self._auth = auth
        self._cookie = ""

    async def send(self, work: Callable[[Bound], Awaitable[T]]) -> T:
        """Send a request whose handler does ``work``, and return the result."""
        connection = Request(self._cookie)
        await self._auth.call(connection)
        failed = True
        try:
            result = await work(RequestAuth(self._auth, connection))
            failed = False
        finally:
            effects = await self._auth.respond(connection, failed=failed)
            for cookie in effects.cookies:
                self._cookie = cookie.partition(";")[0]
        return result
