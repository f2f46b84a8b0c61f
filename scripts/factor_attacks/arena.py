"""`Arena`: two running demos, with the users and the clients of an attack."""

import copy
import itertools
import secrets
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import Any, Final, Self, TypeVar

import httpx

from harness.authenticator import Authenticator
from harness.authenticators import code_at
from harness.demo_support import Demo

S = TypeVar("S")
T = TypeVar("T")

PASSWORD: Final = "nine grey herons wade"
BETTER: Final = "eleven grey geese"
ADMINISTRATOR: Final = "ada@example.org"

STEP: Final = 30
"""Seconds of a time step."""

MARGIN: Final = 8
"""A code of the step before the present one is used only if the present one lasts for so many seconds."""

SHORT: Final = 4
"""Seconds for which a challenge is valid and a sign-in is fresh, in the demo with short times."""

TIMEOUT: Final = 120.0

_NO_TLS: Final = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
"""The demo speaks plain http. One context for all clients saves the time to make one for each."""


class Broken(Exception):
    """An attack has succeeded, or its control has failed. After a failed control, the attack has shown nothing."""


def control(condition: object, what: object) -> None:
    """Check that the honest flow works.

    Raises:
        Broken: if it does not.
    """
    if not condition:
        raise Broken(f"the control failed: {_text(what)}")


def refused(response: httpx.Response, *statuses: int, error: str | None = None) -> None:
    """Check that an attack was refused with the expected status and error.

    Raises:
        Broken: if it was not.
    """
    if response.status_code not in statuses:
        raise Broken(f"the answer is {_text(response)}")
    if error is not None and response.json().get("error") != error:
        raise Broken(f"the answer is {_text(response)}")


def breach(condition: object, what: str) -> None:
    """Report a success of the attacker.

    Raises:
        Broken: if ``condition`` is true.
    """
    if condition:
        raise Broken(what)


def _text(what: object) -> str:
    if isinstance(what, httpx.Response):
        return f"{what.request.method} {what.request.url.path}: {what.status_code} {what.text[:200]}"
    return str(what)


class Client(httpx.Client):
    """A client with a cookie jar. It has its own source address, so clients do not share the limits of sources."""

    def __init__(self, app: str, source: str) -> None:
        transport = httpx.HTTPTransport(local_address=source, verify=_NO_TLS)
        headers = {"accept": "application/json", "user-agent": "attacker"}
        super().__init__(base_url=app, transport=transport, headers=headers, timeout=TIMEOUT)

    def send_json(self, path: str, /, **fields: object) -> httpx.Response:
        """Send a JSON object."""
        return self.post(path, json=fields)

    def patch_json(self, path: str, /, **fields: object) -> httpx.Response:
        """Send a JSON object with the method PATCH."""
        return self.patch(path, json=fields)

    def form(self, path: str, fields: dict[str, str], **headers: str) -> httpx.Response:
        """Send a form as a page of the app would, unless ``headers`` say otherwise."""
        given = {"accept": "text/html", "origin": str(self.base_url).rstrip("/"), **headers}
        return self.post(path, data=fields, headers={name: value for name, value in given.items() if value})

    def who(self) -> str | None:
        """Return the address of the user who is signed in; ``None`` if nobody is."""
        found = self.get("/session")
        if found.status_code not in (200, 401):
            raise Broken(_text(found))
        return found.json()["user"]["email"] if found.status_code == 200 else None

    def cookie(self, kind: str) -> str:
        """Return the value of a cookie: ``auth`` is the session, ``factor`` and ``passkeys`` are challenges."""
        return self.named_cookie(kind).partition("=")[2]

    def named_cookie(self, kind: str) -> str:
        """Return a cookie as a client sends it."""
        found = [f"{each.name}={each.value}" for each in self.cookies.jar if each.name in (kind, f"auth_{kind}")]
        control(len(found) == 1, f"there are {len(found)} cookies {kind!r}: {[each.name for each in self.cookies.jar]}")
        return found[0]


@dataclass
class Person:
    """A user with a signed-in client, perhaps with an authenticator app, recovery codes and a passkey."""

    email: str
    client: Client
    secret: str = ""
    used: int = -1
    codes: list[str] = field(default_factory=list)
    device: Authenticator | None = None

    def step(self) -> int:
        """Return a time step whose code is right now and was not used. Wait for it, if need be."""
        now = time.time()
        early = now % STEP < STEP - MARGIN
        step = max(self.used + 1, int(now) // STEP - (1 if early else 0))
        while int(time.time()) // STEP + 1 < step:
            time.sleep(0.2)
        self.used = step
        return step

    def code(self) -> str:
        """Return a right code that was not used."""
        return self.code_of(self.step())

    def code_of(self, step: int) -> str:
        """Return the code of a time step."""
        return str(code_at(self.secret, step * STEP))

    def wrong_code(self) -> str:
        """Return a code that is wrong now and in the next minutes."""
        near = {self.code_of(int(time.time()) // STEP + ahead) for ahead in range(-3, 20)}
        return next(
            each for each in map("{:06d}".format, itertools.count(secrets.randbelow(900_000))) if each not in near
        )

    @property
    def passkey(self) -> Authenticator:
        """The device with the passkey."""
        if self.device is None:
            raise Broken("the control failed: there is no passkey")
        return self.device


class Arena:
    """A running demo.

    Args:
        demo: the demo.
    """

    _sources = itertools.count(2)
    _lock = threading.Lock()

    def __init__(self, demo: Demo) -> None:
        self.demo = demo
        self.apps: Sequence[str] = demo.public_urls
        self._opened = ExitStack()
        first = self.client(self.apps[0])
        made = first.send_json("/registration", email=ADMINISTRATOR, password=PASSWORD)
        control(made.status_code == 201, made)
        self.administrator = first

    @contextmanager
    def closing(self) -> Iterator[Self]:
        """Return the arena for one attack. Its clients are closed at the end."""
        own = copy.copy(self)
        with ExitStack() as own._opened:
            yield own

    def close(self) -> None:
        """Close the administrator's client."""
        self._opened.close()

    def client(self, app: str) -> Client:
        """Return a program from an address of its own."""
        with self._lock:
            number = next(self._sources)
        return self._opened.enter_context(Client(app, f"127.0.{number // 250}.{number % 250 + 2}"))

    def person(self, app: str, *, totp: bool = True, passkey: bool = False, codes: bool = False) -> Person:
        """Register somebody, who turns factors on."""
        client = self.client(app)
        email = f"{secrets.token_hex(6)}@example.org"
        made = client.send_json("/registration", email=email, password=PASSWORD)
        control(made.status_code == 201, made)
        person = Person(email, client)
        if passkey:
            self.add_passkey(person)
        if totp:
            self.enrol(person)
        if codes:
            person.codes = self.make_codes(person)
        return person

    def enrol(self, person: Person) -> None:
        """Set up an authenticator app. Its first code is used up."""
        begun = person.client.send_json("/account/factors/totp", action="begin")
        control(begun.status_code == 200, begun)
        person.secret, person.used = begun.json()["secret"], -1
        done = person.client.send_json("/account/factors/totp", action="confirm", code=person.code())
        control(done.status_code == 201, done)

    def make_codes(self, person: Person) -> list[str]:
        """Make recovery codes."""
        made = person.client.send_json("/account/factors/recovery")
        control(made.status_code == 200 and len(made.json()["codes"]) == 10, made)
        return list(made.json()["codes"])

    def add_passkey(self, person: Person, **options: Any) -> None:
        """Make a passkey on a new device."""
        device = Authenticator(str(person.client.base_url).rstrip("/"), **options)
        credential = device.create(creation_options(person.client))
        added = person.client.send_json("/account/passkeys", action="add", credential=credential)
        control(added.status_code == 201, added)
        person.device = device

    def challenged(self, person: Person, app: str, client: Client | None = None, **more: object) -> Client:
        """Return a program that has given the right password, and is asked for a factor."""
        found = client or self.client(app)
        asked = found.send_json("/session", email=person.email, password=PASSWORD, **more)
        control(asked.status_code == 401 and asked.json()["error"] == "second_factor_required", asked)
        return found

    def honest(self, person: Person, app: str, client: Client | None = None) -> Client:
        """Sign in as the user does, and check that it works."""
        found = self.challenged(person, app, client)
        done = answer(found, person.code())
        control(done.status_code == 200 and found.who() == person.email, done)
        return found

    def factors(self, person: Person) -> list[str]:
        """Return the factors of a person, by their names."""
        found = person.client.get("/account/factors")
        control(found.status_code == 200, found)
        return [each["factor"] for each in found.json()["factors"]]

    def administer(self, app: str, **fields: object) -> httpx.Response:
        """Send what the administrator sends."""
        return self.administrator.post(f"{app}/administration", json=fields)


def answer(client: Client, code: object, factor: object = "totp", **more: object) -> httpx.Response:
    """Answer a challenge."""
    return client.send_json("/login/factor", factor=factor, code=code, **more)


def creation_options(client: Client) -> dict[str, Any]:
    """Return the options to make a passkey."""
    found = client.send_json("/account/passkeys", action="options")
    control(found.status_code == 200, found)
    return dict(found.json()["publicKey"])


def request_options(client: Client) -> dict[str, Any]:
    """Return the options to use a passkey."""
    found = client.send_json("/login/passkey", action="options")
    control(found.status_code == 200, found)
    return dict(found.json()["publicKey"])


def use(client: Client, credential: object) -> httpx.Response:
    """Sign in with the answer of an authenticator."""
    return client.send_json("/login/passkey", credential=credential)


def at_once(items: Sequence[S], work: Callable[[S], T]) -> list[T]:
    """Run a function for all items in parallel, and return the results in their order."""
    with ThreadPoolExecutor(len(items)) as pool:
        return list(pool.map(work, items))


def one_winner(clients: Sequence[Client], done: Sequence[httpx.Response]) -> None:
    """Check that one of parallel sign-ins has led to a session, and the others were refused."""
    control(all(each.status_code in (200, 401, 403, 429) for each in done), {each.status_code for each in done})
    won = sum(each.who() is not None for each in clients)
    control(won >= 1, "nobody got a session")
    breach(won > 1, f"{won} sessions")


# --- the list of attacks ----------------------------------------------------------------------------------------------

Run = Callable[[Arena, str, str], str]


@dataclass(frozen=True)
class Attack:
    """One attack.

    Attributes:
        name: the attack.
        success: what would have been a success of the attacker.
        run: runs it against one server. The other server belongs to the same site. It returns what happened.
        late: whether it needs the demo with short times.
        once: whether it attacks both servers alike, so that one run is enough.
    """

    name: str
    success: str
    run: Run
    late: bool = False
    once: bool = False


ATTACKS: Final[list[Attack]] = []


def attack(name: str, success: str, *, late: bool = False, once: bool = False) -> Callable[[Run], Run]:
    """Add a function to the list of attacks."""

    def added(run: Run) -> Run:
        ATTACKS.append(Attack(name, success, run, late, once))
        return run

    return added
