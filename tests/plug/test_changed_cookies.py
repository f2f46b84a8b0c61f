"""A deployment changes the cookie's domain or path: browsers send the old value beside the new one for a while."""

import urllib.request
from collections.abc import Sequence
from email.message import Message
from http.cookiejar import CookieJar
from typing import Any

import pytest

from harness.core_support import KINDS
from harness.support import SECRET, Browser, Clock, CountingBackend, Kind, MemoryUsers, Request, make_app
from powauth import CookieCarrier, SessionAuth
from powauth.backends.base import drive
from powauth.backends.memory import MemoryBackend
from powauth.errors import StoreUnavailable

ADA = "ada@example.org"

CHANGES = {
    "a narrower domain": (CookieCarrier(domain="shop.example"), CookieCarrier(domain="www.shop.example")),
    "a wider domain": (CookieCarrier(domain="www.shop.example"), CookieCarrier(domain="shop.example")),
    "a domain and no path": (CookieCarrier(path="/app"), CookieCarrier(domain="shop.example")),
    "a wider path": (CookieCarrier(path="/app/in"), CookieCarrier(path="/app")),
    "a narrower path": (CookieCarrier(path="/app"), CookieCarrier(path="/app/in")),
}
"""The carrier of a deployment, and of the next one, under one name of the cookie."""

RENEWAL, GRACE = 900, 30


class Headers:
    """The headers of a response, as a cookie jar takes them."""

    def __init__(self, set_cookies: Sequence[str]) -> None:
        self.message = Message()
        for line in set_cookies:
            self.message["Set-Cookie"] = line

    def info(self) -> Message:
        return self.message


class Shop:
    """An app of two deployments over one store, and a browser with a real cookie jar."""

    def __init__(self, kind: Kind, change: tuple[CookieCarrier, CookieCarrier]) -> None:
        self.clock = Clock()
        self.events: list[str] = []
        self.backend = CountingBackend(MemoryBackend())
        self.users = MemoryUsers()
        self.users.add(ADA)
        self.kind = kind
        before, after = change
        self.auths = [self._auth(before), self._auth(after)]
        self.apps = [self._app(auth) for auth in self.auths]
        self.jar = CookieJar()
        self.deployment = 0

    def _auth(self, carrier: CookieCarrier) -> SessionAuth[Any, Any]:
        return SessionAuth(
            secret_key=SECRET,
            users=self.users,
            backend=self.backend,
            carrier=carrier,
            clock=self.clock,
            on_event=lambda event: self.events.append(event.name),
        )

    def _app(self, auth: SessionAuth[Any, Any]) -> Any:
        async def sign_in(request: Request) -> object:
            return (await request.call("sign_in", email=ADA, password="correct horse")).email

        async def sign_out(request: Request) -> object:
            return await request.call("sign_out")

        async def look(request: Request) -> object:
            return request.user and request.user.email

        handlers = {"sign-in": sign_in, "sign-out": sign_out, "": look}
        folders = ("/", "/app/", "/app/in/")
        paths = {folder + name: handler for folder in folders for name, handler in handlers.items()}
        return make_app(self.kind, auth, paths)

    def get(self, path: str = "/app/", status: int = 200) -> Any:
        """The browser's answer from the app as it is deployed."""
        request = urllib.request.Request(f"https://www.shop.example{path}")
        self.jar.add_cookie_header(request)
        response = Browser(self.apps[self.deployment], self.kind).send(path, request.get_header("Cookie"), {})
        assert response.status == status
        self.jar.extract_cookies(Headers(response.set_cookies), request)  # type: ignore[arg-type]
        return response.json()

    @property
    def values(self) -> int:
        """How many values of the cookie the browser has."""
        return len(self.jar)

    @property
    def count(self) -> int:
        """How many live sessions there are."""
        return drive(self.auths[0].store.count(self.auths[0].now()))


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


@pytest.fixture(params=CHANGES)
def shop(request: pytest.FixtureRequest, kind: Kind) -> Shop:
    return Shop(kind, CHANGES[request.param])


INNER = "/app/in/"
"""A page to which browsers send the cookies of every carrier in `CHANGES`."""


def test_rep_43_after_the_change_a_user_stays_signed_in(shop: Shop) -> None:
    assert shop.get(INNER + "sign-in") == ADA
    shop.deployment = 1
    assert shop.get(INNER) == ADA
    for _ in range(3):
        shop.clock.advance(RENEWAL)  # the renewal leaves the old value beside the new one
        assert shop.get(INNER) == ADA
        assert shop.values == 2
        shop.clock.advance(2 * GRACE)
        assert shop.get(INNER) == ADA
    assert (shop.events.count("reuse_detected"), shop.events.count("conflicting_ids")) == (0, 0)


@pytest.mark.parametrize("renewed", [False, True], ids=["", "renewed"])
def test_rep_43_signing_out_and_in_works_with_two_values(shop: Shop, renewed: bool) -> None:
    shop.get(INNER + "sign-in")
    shop.deployment = 1
    if renewed:
        shop.clock.advance(RENEWAL)
        assert shop.get(INNER) == ADA
    shop.get(INNER + "sign-out")
    assert shop.get(INNER) is None
    assert shop.count == 0
    for _ in range(2):
        assert shop.get(INNER + "sign-in") == ADA
        assert shop.get(INNER) == ADA
        assert shop.count == 1
    assert shop.values == 2  # no response can take a cookie of another domain or path


def test_rep_43_a_deployment_that_is_taken_back_signs_nobody_out(shop: Shop) -> None:
    shop.get(INNER + "sign-in")
    for deployment in (1, 0, 1, 0):
        shop.deployment = deployment
        shop.clock.advance(RENEWAL)
        assert shop.get(INNER) == ADA
        shop.clock.advance(2 * GRACE)
        assert shop.get(INNER) == ADA


@pytest.fixture
def two(kind: Kind) -> Shop:
    """A browser with two live sessions. The sign-in at the second deployment was on a page that sees no old value."""
    shop = Shop(kind, (CookieCarrier(path="/app"), CookieCarrier(domain="shop.example")))
    shop.get("/app/sign-in")
    shop.deployment = 1
    assert shop.get("/") is None
    assert shop.get("/sign-in") == ADA
    assert (shop.get("/"), shop.count) == (ADA, 2)
    return shop


def test_rep_43_of_two_live_sessions_none_counts_until_the_next_sign_in_which_ends_both(two: Shop) -> None:
    assert two.get() is None
    assert two.events[-1] == "conflicting_ids"
    assert two.get("/app/sign-in") == ADA
    assert (two.get(), two.get("/"), two.count) == (ADA, ADA, 1)


def test_rep_43_signing_out_ends_both_of_two_live_sessions(two: Shop) -> None:
    two.get("/app/sign-out")
    assert (two.get(), two.get("/"), two.count) == (None, None, 0)


def test_rep_43_a_sign_out_that_cannot_end_both_is_an_error(two: Shop) -> None:
    two.backend.fail["delete"] = StoreUnavailable("down")
    assert two.get("/app/sign-out", status=503) == {"error": "store_unavailable"}
    two.backend.fail.clear()
    assert two.count == 2


@pytest.mark.parametrize("position", [0, 8, 20])
def test_rep_43_no_number_of_foreign_values_hides_the_users_own(kind: Kind, position: int) -> None:
    shop = Shop(kind, CHANGES["a wider path"])
    shop.get(INNER + "sign-in")
    [cookie] = shop.jar
    pairs = [f"{cookie.name}=planted{number}" for number in range(20)]
    pairs.insert(position, f"{cookie.name}={cookie.value}")
    assert Browser(shop.apps[0], kind).send(INNER, "; ".join(pairs), {}).json() == ADA


def test_rep_43_a_bounded_number_of_sessions_is_read(kind: Kind) -> None:
    shop = Shop(kind, CHANGES["a wider path"])
    pairs = []
    for _ in range(20):
        shop.get(INNER + "sign-in")
        pairs += [f"{cookie.name}={cookie.value}" for cookie in shop.jar]  # the next sign-in ends it

    async def wait(verb: str) -> None:
        """A store that shows no record without a wait."""

    shop.backend.before = wait
    with shop.backend.counting() as verbs:
        assert Browser(shop.apps[0], kind).send(INNER, "; ".join(pairs), {}).json() is None
    assert verbs == ["get"] * 8
