"""A small app of the public API: one user, a `MemoryBackend`, a manual clock, and clients that keep their credentials.

As in every integration, requests go through a `Visit`, and handlers use `RequestAuth`.
"""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from http.cookies import SimpleCookie
from typing import Any, NamedTuple

from harness.support import SECRET, Clock, CountingBackend, FakeConnection, Me, MemoryUsers, User
from powauth import Event, RequestAuth, SessionAuth
from powauth.backends.base import drive
from powauth.backends.memory import MemoryBackend
from powauth.errors import PowauthError
from powauth.http.answers import Answers
from powauth.http.connection import States
from powauth.http.visit import Visit, Visits, bound_in
from powauth.sessions.store import Stored

MINUTE, HOUR, DAY = 60, 3600, 86_400
"""In seconds."""

PASSWORD = "correct horse"

Auth = RequestAuth[User, Me]
Work = Callable[[Auth], object]
"""A handler: it may be a coroutine function, or return a coroutine."""


class HeldConnection(FakeConnection):
    """A view of a holder: all views of one share what is assigned and the states."""

    def __init__(self, holder: Any, states: States) -> None:
        super().__init__(holder["cookies"], **holder["headers"])
        self.states = states
        self.assigns = holder["assigned"]


class Cookie(NamedTuple):
    """A cookie as a browser keeps it: ``until`` is ``None`` if it goes with the browser's session."""

    value: str
    until: float | None


@dataclass
class Reply:
    """A response: what the handler returned, or the status of the answer to its error."""

    user: Me | None
    result: Any = None
    status: int = 200
    headers: list[tuple[str, str]] = field(default_factory=list)

    def all(self, name: str) -> list[str]:
        """All values of a header."""
        return [value for header, value in self.headers if header.lower() == name.lower()]

    @property
    def cookie(self) -> str | None:
        """The one ``Set-Cookie`` header, if there is one."""
        found = self.all("set-cookie")
        assert len(found) <= 1
        return found[0] if found else None

    @property
    def max_age(self) -> int | None:
        """The ``Max-Age`` of the cookie in seconds; ``None`` if the cookie goes with the browser's session."""
        assert self.cookie is not None
        (morsel,) = SimpleCookie(self.cookie).values()
        return int(morsel["max-age"]) if morsel["max-age"] else None


class SmallApp:
    """An app with one user, ada. Options are those of `SessionAuth`."""

    def __init__(self, **options: Any) -> None:
        self.clock: Clock = options.pop("clock", None) or Clock()
        self.events: list[Event] = []
        self.backend = CountingBackend(MemoryBackend())
        if "users" not in options:
            options["users"] = users = MemoryUsers()
            users.add("ada@example.org", PASSWORD)
        self.users: Any = options["users"]
        if "store" not in options:
            options.setdefault("backend", self.backend)
        defaults: dict[str, Any] = {"secret_key": SECRET, "clock": self.clock, "on_event": self.events.append}
        self.auth: SessionAuth[User, Me] = SessionAuth(**defaults | {"throttle": None} | options)
        self.visits = Visits(self.auth, HeldConnection, Answers())

    @property
    def ada(self) -> User:
        """The user as the table has her now."""
        user: User = next(iter(self.users.rows.values()))
        return user

    def client(self) -> "Client":
        return Client(self)

    def stored(self, user: User | None = None) -> list[Stored]:
        """The live sessions of a user, newest first."""
        key = (user or self.ada).id
        return drive(self.auth.store.sessions(key, self.auth.now()))

    @property
    def event_names(self) -> list[str]:
        return [event.name for event in self.events]


class Request:
    """A request under way: the handler has not answered yet."""

    def __init__(self, client: "Client", holder: dict[str, Any], visit: Visit) -> None:
        self._client = client
        self._visit = visit
        visits, states = bound_in(holder, visit.auth.current_user_key, "")
        self.auth: Auth = RequestAuth(visits.auth, visits.connect(holder, states))

    def answer(self, work: Work | None = None, *, lost: bool = False) -> Reply:
        """Run the handler and end the request. The client never sees a ``lost`` response."""
        result: object = None
        status = 200
        try:
            result = None if work is None else work(self.auth)
            if isinstance(result, Awaitable):
                result = drive(_awaited(result))
        except PowauthError as error:
            answer = self._visit.answer(error)
            if answer is None:
                raise
            result, status = error, answer.status
        headers = drive(self._visit.headers([], failed=status >= 500))
        user = None if status == 503 else self.auth.identity
        reply = Reply(user, result, status, headers)
        if not lost:
            self._client.take(reply)
        return reply


async def _awaited(result: Awaitable[object]) -> object:
    return await result


class Client:
    """A browser with cookies, and with a bearer token once it is given one."""

    def __init__(self, app: SmallApp) -> None:
        self.app = app
        self.cookies: dict[str, Cookie] = {}
        self.token: str | None = None
        self.headers: dict[str, str] = {}
        self.leftovers: list[str] = []
        """Values of older cookies of the same name, for another path or domain. The browser sends them, too."""

    def copy(self, app: SmallApp | None = None) -> "Client":
        """Another client with the same cookies and token: a backup, a thief, or this browser before another app."""
        other = Client(app or self.app)
        other.cookies, other.token = dict(self.cookies), self.token
        return other

    def close_browser(self) -> None:
        """Forget the cookies without a ``Max-Age``."""
        self.cookies = {name: cookie for name, cookie in self.cookies.items() if cookie.until is not None}

    @property
    def cookie(self) -> str | None:
        """The id in the cookie; ``None`` if there is no cookie."""
        kept = self.cookies.get(self.app.auth.carrier.name)
        return None if kept is None else kept.value

    def set_cookie(self, value: str) -> None:
        """Put another id into the cookie."""
        self.cookies[self.app.auth.carrier.name] = Cookie(value, None)

    def begin(self) -> Request:
        """Send a request, and let the middleware look at it."""
        now = self.app.clock.now
        cookies = [
            f"{name}={cookie.value}"
            for name, cookie in self.cookies.items()
            if cookie.until is None or now < cookie.until
        ]
        cookies += [f"{self.app.auth.carrier.name}={value}" for value in self.leftovers]
        headers = dict(self.headers)
        if self.token is not None:
            headers["authorization"] = f"Bearer {self.token}"
        holder: dict[str, Any] = {"cookies": cookies, "headers": headers, "assigned": {}}
        visit = self.app.visits.enter(holder)
        assert visit is not None
        if not visit.auth.call_at_once(visit.connection):
            drive(visit.begin())
        return Request(self, holder, visit)

    def send(self, work: Work | None = None, *, lost: bool = False) -> Reply:
        """Send a request and take its response."""
        return self.begin().answer(work, lost=lost)

    def who(self) -> str | None:
        """Return the e-mail address of the user whom a request of this client is from. The response is taken."""
        reply = self.send()
        assert reply.status == 200
        return None if reply.user is None else reply.user.email

    def sign_in(self, email: str = "ada@example.org", password: str = PASSWORD, **options: Any) -> Reply:
        """Sign in, which must succeed."""
        reply = self.send(lambda auth: auth.sign_in(email=email, password=password, **options))
        assert reply.result is not None
        assert reply.status == 200
        return reply

    def take(self, reply: Reply) -> None:
        """Keep what a response carries."""
        for line in reply.all("set-cookie"):
            for name, morsel in SimpleCookie(line).items():
                age = morsel["max-age"]
                if age == "0":
                    self.cookies.pop(name, None)
                else:
                    self.cookies[name] = Cookie(morsel.value, self.app.clock.now + int(age) if age else None)
        for token in reply.all("powauth-token"):
            self.token = token or None
