"""A small site behind powauth's ASGI middleware, called without a network, and the clients that visit it."""

import logging
import secrets
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, NamedTuple

import msgspec

from powauth import Account, SessionAuth, UsersContext
from powauth.accounts.identity import Key
from powauth.backends.base import Backend, Mode
from powauth.integrations.asgi import SessionAuthMiddleware, request_auth

SECRET = secrets.token_urlsafe(48)

COOKIE = "__Host-auth"

RENEWAL_SECONDS = 3.0
"""The renewal age. It is so short that renewals are in flight during every fault."""


class Person(msgspec.Struct, frozen=True):
    """The identity of a user: a name, which is also the key."""

    name: str


def account_of(name: str) -> Account[Person]:
    """Return the account of the user with that name."""
    return Account(key=name, identity=Person(name), proof=name.encode())


class People(UsersContext[Person, Person]):
    """A users context in which every user exists, and the name is the only credential."""

    identity = Person
    mode: Mode = "inline"
    user_id_field = "name"

    async def authenticate(self, params: Mapping[str, object]) -> Account[Person] | None:
        return account_of(str(params[self.user_id_field]))

    async def create(self, params: Mapping[str, object]) -> Account[Person]:
        return account_of(str(params[self.user_id_field]))

    async def update(
        self, key: Key, params: Mapping[str, object], *, trusted: bool = False, proof: bytes | None = None
    ) -> Account[Person]:
        return account_of(str(key))

    async def delete(self, key: Key, params: Mapping[str, object] | None = None) -> bool:
        return True

    async def get(self, key: Key) -> Account[Person] | None:
        return account_of(str(key))

    async def find(self, user_id: object) -> Account[Person] | None:
        return account_of(str(user_id))

    def validate(self, params: Mapping[str, object], identity: Person | None = None) -> Mapping[str, list[str]]:
        return {}

    def key_of(self, subject: object) -> Key | None:
        return subject.name if isinstance(subject, Person) else super().key_of(subject)


class Answer(NamedTuple):
    """The answer to a request.

    Attributes:
        name: the user whom the page names.
        cookie: the id that the answer sets, ``""`` if it deletes the cookie, ``None`` if it does neither.
        retry_after: whether the answer has a ``Retry-After`` header.
    """

    status: int
    name: str
    cookie: str | None
    retry_after: bool


class Site:
    """A site: ``/`` is public, ``/private`` is for users, ``/login/<name>`` signs in and ``/logout`` signs out."""

    def __init__(self, backend: Backend) -> None:
        logging.getLogger("powauth").setLevel(logging.CRITICAL)
        self.backend = backend
        self.auth = SessionAuth(
            secret_key=SECRET,
            users=People(),
            backend=backend,
            session_ttl_renewal=timedelta(seconds=RENEWAL_SECONDS),
            metadata=None,
        )
        self.app = SessionAuthMiddleware(self._serve, self.auth)

    async def _serve(self, scope: Any, receive: Any, send: Any) -> None:
        path: str = scope["path"]
        name = ""
        if path == "/private":
            name = request_auth(scope).require_user().name
        elif path == "/logout":
            await request_auth(scope).sign_out()
        elif path.startswith("/login/"):
            user = await request_auth(scope).sign_in_user(Person(path.removeprefix("/login/")))
            name = "" if user is None else user.name
        elif path == "/revoke-all":
            name = str(await request_auth(scope).revoke_all())
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": name.encode()})

    async def ask(self, path: str, cookie: str | None = None) -> Answer:
        """Send one request. An error that the app does not catch becomes a 500, as in a server."""
        sent: list[Any] = []

        async def send(message: Any) -> None:
            sent.append(message)

        headers = [] if cookie is None else [(b"cookie", f"{COOKIE}={cookie}".encode())]
        scope = {"type": "http", "method": "GET", "path": path, "headers": headers, "client": ("192.0.2.1", 1)}
        try:
            await self.app(scope, None, send)  # type: ignore[arg-type]
        except Exception as error:
            return Answer(500, repr(error), None, False)
        found: str | None = None
        retry_after = False
        for header, value in sent[0]["headers"]:
            if header == b"set-cookie":
                found = value.decode().partition("=")[2].partition(";")[0]
            retry_after |= header == b"retry-after"
        return Answer(sent[0]["status"], sent[1]["body"].decode(), found, retry_after)


@asynccontextmanager
async def site(backend: Backend) -> AsyncIterator[Site]:
    """Yield a site, and close its backend at the end."""
    try:
        yield Site(backend)
    finally:
        await backend.close()


@dataclass
class Client:
    """A browser with one cookie."""

    name: str
    cookie: str

    def take(self, answer: Answer) -> None:
        if answer.cookie:
            self.cookie = answer.cookie


async def sign_in(site: Site, name: str) -> Client | None:
    """Return a new signed-in client; ``None`` if the sign-in failed."""
    answer = await site.ask(f"/login/{name}")
    return Client(name, answer.cookie) if answer.status == 200 and answer.cookie else None
