"""A request begins one session at most: what a second sign-in of one request ends, and which carrier it answers by."""

from collections.abc import Callable
from typing import Any

import pytest

from harness.core_support import KINDS, Site
from harness.support import Browser, Kind, Request, Response, User
from harness.visits import PASSWORD, SmallApp
from powauth import AnyOf, BearerCarrier, ConfigError, CookieCarrier, Remember
from powauth.backends.base import drive
from powauth.backends.memory import MemoryBackend
from powauth.errors import StoreUnavailable
from powauth.sessions.record import Session

MakeSite = Callable[..., "Shop"]


class Shop(Site):
    """A site with a cookie and a bearer token. Requests run the handler that a test gives."""

    def __init__(self, kind: Kind, **options: Any) -> None:
        super().__init__(MemoryBackend(), kind, carrier=AnyOf(CookieCarrier(), BearerCarrier()), **options)

    def send(self, work: Callable[[Request], Any], browser: Browser | None = None, token: str | None = None) -> Any:
        """A request of a browser, or one with a token, whose handler is ``work``. Returns what the handler returned."""
        headers: dict[str, Any] = {} if token is None else {"authorization": f"Bearer {token}"}
        self.response: Response = self.serve({"/do": work}, browser or self.browser()).get("/do", **headers)
        return self.response.json()

    def sign_in(self, request: Request, *, user: User | None = None, **how: Any) -> Any:
        """Sign a user in, in a handler."""
        return request.call("sign_in_user", user or self.user, **how)

    async def token(self, request: Request) -> Any:
        """A handler: sign in a program."""
        await self.sign_in(request, bearer=True)
        return request.bound.access_token

    def user_of_token(self, token: str) -> Any:
        """Who a request with this token is from."""
        return self.browser().get("/", authorization=f"Bearer {token}").json()["user"]

    def sessions(self, user: User | None = None) -> list[Session]:
        """All sessions of a user."""
        key = (user or self.user).id
        return [stored.session for stored in drive(self.auth.store.sessions(key, self.auth.now()))]


@pytest.fixture(params=KINDS)
def make_shop(request: pytest.FixtureRequest) -> MakeSite:
    return lambda **options: Shop(request.param, **options)


@pytest.fixture
def shop(make_shop: MakeSite) -> Shop:
    return make_shop()


def test_twice_by_cookie_leaves_the_session_of_the_second(shop: Shop) -> None:
    browser = shop.signed_in()
    before = browser.copy()

    async def twice(request: Request) -> None:
        await shop.sign_in(request)
        await shop.sign_in(request)

    shop.send(twice, browser)
    assert len(shop.sessions()) == len(shop.response.set_cookies) == 1
    assert (browser.get().json(), before.get().json()) == ({"user": shop.user.email}, {"user": None})


def test_twice_by_token_leaves_the_session_of_the_second(shop: Shop) -> None:
    before = shop.send(shop.token)

    async def twice(request: Request) -> Any:
        return [await shop.token(request), await shop.token(request)]

    first, second = shop.send(twice, token=before)
    assert len(shop.sessions()) == 1
    assert [shop.user_of_token(token) for token in (before, first, second)] == [None, None, shop.user.email]


def test_by_cookie_and_then_by_token_leaves_the_tokens_session(shop: Shop) -> None:
    browser = shop.browser()

    async def both(request: Request) -> Any:
        await shop.sign_in(request)
        return await shop.token(request)

    token = shop.send(both, browser)
    assert (browser.jar, shop.response.set_cookies) == ({}, [])
    assert shop.user_of_token(token) == shop.user.email
    assert len(shop.sessions()) == 1


def test_by_token_and_then_by_cookie_leaves_the_cookies_session(shop: Shop) -> None:
    browser = shop.browser()

    async def both(request: Request) -> Any:
        token = await shop.token(request)
        await shop.sign_in(request)
        with pytest.raises(ConfigError, match="began in this request"):
            assert request.bound.access_token
        return token

    token = shop.send(both, browser)
    assert shop.response.header("powauth-token") is None
    assert browser.get().json() == {"user": shop.user.email}
    assert shop.user_of_token(token) is None
    assert len(shop.sessions()) == 1


@pytest.mark.parametrize("first_by_token", [False, True])
def test_each_of_two_sign_ins_replaces_what_its_own_carrier_presents(shop: Shop, first_by_token: bool) -> None:
    browser, token = shop.signed_in(), shop.send(shop.token)
    before = browser.copy()

    async def both(request: Request) -> None:
        for bearer in (first_by_token, not first_by_token):
            await shop.sign_in(request, bearer=bearer)

    shop.send(both, browser, token)
    assert before.get().json() == {"user": None}
    assert shop.user_of_token(token) is None
    assert len(shop.sessions()) == 1


def test_a_sign_in_by_one_carrier_leaves_the_session_of_the_other(shop: Shop) -> None:
    browser, token = shop.signed_in(), shop.send(shop.token)
    shop.send(shop.sign_in, browser, token)
    assert shop.user_of_token(token) == shop.user.email
    shop.send(lambda request: shop.sign_in(request, bearer=True), browser)
    assert browser.get().json() == {"user": shop.user.email}
    assert len(shop.sessions()) == 3


def test_the_second_user_of_one_request_is_the_current_one(shop: Shop) -> None:
    other = shop.users.add("grace@example.org")

    async def both(request: Request) -> Any:
        await shop.sign_in(request)
        await shop.sign_in(request, user=other, bearer=True)
        return [request.user.email, request.bound.access_token]

    email, token = shop.send(both)
    assert (email, shop.user_of_token(token)) == (other.email, other.email)
    assert (shop.sessions(), len(shop.sessions(other))) == ([], 1)


@pytest.mark.parametrize("bearer", [False, True])
def test_a_second_sign_in_is_remembered_as_the_first_one_of_that_user(make_shop: MakeSite, bearer: bool) -> None:
    shop = make_shop(remember=Remember())
    other = shop.users.add("grace@example.org")

    async def twice(request: Request) -> None:
        await shop.sign_in(request, remember=True)
        await shop.sign_in(request, bearer=bearer)

    async def switched(request: Request) -> None:
        await shop.sign_in(request, remember=True)
        await shop.sign_in(request, user=other, bearer=bearer)

    shop.send(twice)
    shop.send(switched)
    assert [session.remembered for session in (*shop.sessions(), *shop.sessions(other))] == [True, False]


def test_signing_out_ends_the_session_that_is_left(shop: Shop) -> None:
    browser = shop.browser()

    async def in_and_out(request: Request) -> Any:
        await shop.sign_in(request)
        token = await shop.token(request)
        await request.call("sign_out")
        return token

    assert shop.user_of_token(shop.send(in_and_out, browser)) is None
    assert (browser.jar, shop.sessions()) == ({}, [])


def test_a_session_that_a_sign_out_could_not_reach_ends_with_the_next_sign_in_of_the_request(shop: Shop) -> None:
    browser = shop.signed_in()
    before = browser.copy()

    async def out_and_in(request: Request) -> Any:
        shop.backend.fail["delete"] = StoreUnavailable("down")
        with pytest.raises(StoreUnavailable):
            await request.call("sign_out")
        shop.backend.fail.clear()
        return await shop.token(request)

    token = shop.send(out_and_in, browser)
    assert before.get().json() == {"user": None}
    assert shop.user_of_token(token) == shop.user.email
    assert len(shop.sessions()) == 1


async def change_password(request: Request) -> Any:
    """A handler: a new password for the current user, and the token if there is one."""
    fields = {"current_password": "correct horse", "password": "battery staple"}
    return (await request.call("update_user", **fields)).email


@pytest.mark.parametrize("remember", [False, True])
def test_a_program_that_changes_its_password_gets_a_new_token_and_no_cookie(
    make_shop: MakeSite, remember: bool
) -> None:
    shop = make_shop(remember=Remember())

    async def sign_in(request: Request) -> Any:
        await shop.sign_in(request, bearer=True, remember=remember)
        return request.bound.access_token

    other, token = shop.send(sign_in), shop.send(sign_in)
    shop.send(change_password, token=token)
    assert shop.response.set_cookies == []
    new = shop.response.header("powauth-token") or ""
    assert [shop.user_of_token(each) for each in (other, token, new)] == [None, None, shop.user.email]
    assert [session.remembered for session in shop.sessions()] == [remember]


def test_a_browser_that_changes_its_password_gets_a_new_cookie(shop: Shop) -> None:
    browser, token = shop.signed_in(), shop.send(shop.token)
    shop.send(change_password, browser)
    assert shop.response.header("powauth-token") is None
    assert browser.get().json() == {"user": shop.user.email}
    assert shop.user_of_token(token) is None


def test_a_program_that_changes_its_password_in_the_request_of_its_sign_in_gets_a_token(shop: Shop) -> None:
    async def both(request: Request) -> Any:
        await shop.sign_in(request, bearer=True)
        await change_password(request)
        return request.bound.access_token

    token = shop.send(both)
    assert (shop.response.set_cookies, shop.user_of_token(token)) == ([], shop.user.email)
    assert len(shop.sessions()) == 1


def test_a_sign_in_that_cannot_end_the_session_before_it_leaves_no_session_that_nobody_holds() -> None:
    app = SmallApp()
    client = app.client()
    client.sign_in()
    (before,) = app.stored()
    failures = [StoreUnavailable("down")]

    async def fail_once(verb: str) -> None:
        if verb == "delete" and failures:
            raise failures.pop()

    app.backend.before = fail_once
    request = client.begin()
    with pytest.raises(StoreUnavailable):
        drive(request.auth.sign_in(email="ada@example.org", password=PASSWORD))
    assert app.stored() == [before]


def test_a_sign_in_that_ends_nothing_in_a_store_that_is_down_reports_the_first_failure() -> None:
    app = SmallApp()
    client = app.client()
    client.sign_in()
    app.backend.fail["delete"] = StoreUnavailable("down")
    with pytest.raises(StoreUnavailable, match="down"):
        drive(client.begin().auth.sign_in(email="ada@example.org", password=PASSWORD))
    assert len(app.stored()) == 2  # the store takes no change, so the new one lives until it expires
