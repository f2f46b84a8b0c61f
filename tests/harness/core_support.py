"""Shared parts of the core's tests: a key, a policy, sessions, an app with one user, and the two local backends."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import settings

from harness.support import (
    SECRET,
    Browser,
    Clock,
    CountingBackend,
    Handler,
    Kind,
    Me,
    MemoryUsers,
    Request,
    User,
    account_of,
    make_app,
)
from powauth import SessionAuth
from powauth.backends.base import Backend, Millis, make_owner
from powauth.backends.lmdb import LMDBBackend
from powauth.backends.memory import MemoryBackend
from powauth.events import Event
from powauth.plug.subjects import Subjects
from powauth.sessions.ids import IdCodec, PresentedId
from powauth.sessions.keyring import Keyring, Mac
from powauth.sessions.record import Metadata, Policy, Session, StoredKey, Subject, key_text, new_session

NOW: Millis = 1_900_000_000_000

POLICY = Policy(ttl=1_800_000, renewal=900_000, max_lifetime=43_200_000, grace=30_000)
"""The defaults."""

KINDS: tuple[Kind, ...] = ("asgi", "wsgi")
BACKENDS = ("memory", "lmdb")

NAMESPACE = "credentials"

hurried = settings(deadline=None, max_examples=50)
"""For property tests: a machine that is busy with other tests fails none of them."""


def open_backend(name: str, folder: Path) -> Backend:
    """A new backend of that name."""
    return MemoryBackend() if name == "memory" else LMDBBackend(folder / "db", durable=False)


def a_mac(secret: Any = SECRET, purpose: str = "session", context: str = NAMESPACE) -> Mac:
    """The key of the ids of a `SessionAuth` with a cookie, in the namespace ``context``."""
    return Keyring(secret).mac(purpose, context, "cookie", "auth")


def the_ids(
    secret: Any = SECRET,
    namespace: str = NAMESPACE,
    prefix: str = "",
    session_key: str = "auth",
    kind: str = "cookie",
) -> IdCodec:
    """The ids of a `SessionAuth` with a cookie, or with another kind of carrier."""
    return IdCodec(Keyring(secret).mac("session", namespace, kind, session_key), prefix)


def the_id(session: Session, generation: int | None = None, **options: Any) -> str:
    """The id of a session's generation, as such a `SessionAuth` makes it."""
    wanted = session.generation if generation is None else generation
    return the_ids(**options).encode(session.sid, session.salt, wanted)


def encode_id(session: Session, mac: Mac, prefix: str = "") -> str:
    """The id of a session's current generation."""
    return IdCodec(mac, prefix).encode(session.sid, session.salt, session.generation)


def decode_id(value: str, mac: Mac, prefix: str = "") -> PresentedId | None:
    """What an id says."""
    return IdCodec(mac, prefix).decode(value)


def a_subject(user_key: StoredKey = "42", proof: bytes = b"a proof", **identity: object) -> Subject:
    """A user as a record stores them."""
    fields = {"id": user_key, "email": "ada@example.org"} | identity
    return Subject(user_key, proof, b"names!", msgspec.msgpack.encode(fields))


def subject_of(user: User, namespace: str = NAMESPACE) -> Subject:
    """A user of `MemoryUsers` as the records of a `SessionAuth` store them."""
    subjects = Subjects(MemoryUsers(), Keyring(SECRET).mac("proof", namespace))
    return subjects.subject(account_of(user))


def a_session(
    user_key: StoredKey = "42",
    *,
    now: Millis = NOW,
    metadata: Metadata | None = None,
    proof: bytes = b"a proof",
    **changes: Any,
) -> Session:
    """A new session, with fields changed at will."""
    owner = make_owner(NAMESPACE, key_text(user_key))
    session = new_session(owner, a_subject(user_key, proof), now, {} if metadata is None else metadata)
    return msgspec.structs.replace(session, **changes)


def presented(session: Session, generation: int | None = None) -> PresentedId:
    """What a client that holds the id of a generation presents."""
    return PresentedId(session.sid, session.salt, session.generation if generation is None else generation)


class Site:
    """An app behind one middleware: ``/login`` signs its one user in, ``/logout`` out. Its backend counts."""

    def __init__(
        self, backend: Backend, kind: Kind = "asgi", *, users: MemoryUsers | None = None, **options: Any
    ) -> None:
        self.backend = backend if isinstance(backend, CountingBackend) else CountingBackend(backend)
        self.users = users or MemoryUsers()
        self.user: User = next(iter(self.users.rows.values()), None) or self.users.add("ada@example.org")
        self.clock: Clock = options.pop("clock", None) or Clock()
        self.events: list[Event] = []
        self.kind = kind
        if "store" not in options:
            options["backend"] = self.backend
        defaults: dict[str, Any] = {
            "secret_key": SECRET,
            "users": self.users,
            "clock": self.clock,
            "on_event": self.events.append,
            "throttle": None,  # what sessions cost is told without it
        }
        self.auth: SessionAuth[User, Me] = SessionAuth(**defaults | options)
        self.app = make_app(kind, self.auth, {"/login": self._login, "/logout": self._logout})

    async def _login(self, request: Request) -> object:
        params = {"email": self.user.email, "password": "correct horse"}
        return (await request.call("sign_in", params)).email

    @staticmethod
    async def _logout(request: Request) -> object:
        return await request.call("sign_out")

    def serve(self, handlers: Mapping[str, Handler], browser: Browser) -> Browser:
        """The browser, with its cookies, before an app of other handlers."""
        return Browser(make_app(self.kind, self.auth, handlers), self.kind, browser.jar)

    def browser(self) -> Browser:
        return Browser(self.app, self.kind)

    def signed_in(self) -> Browser:
        browser = self.browser()
        assert browser.get("/login").status == 200
        return browser

    @property
    def cookie_name(self) -> str:
        return self.auth.carrier.name

    def id_of(self, browser: Browser) -> str:
        return browser.jar[self.cookie_name]

    def user_of(self, cookie: str | None) -> str | None:
        """Who a request with this raw ``Cookie`` header is."""
        response = self.browser().send("/", cookie, {})
        assert response.status == 200
        user: str | None = response.json()["user"]
        return user

    def user_of_id(self, value: str) -> str | None:
        return self.user_of(f"{self.cookie_name}={value}")

    @property
    def event_names(self) -> list[str]:
        return [event.name for event in self.events]
