"""CKE: the cookie and the caches between. Every row over both middlewares, with ``Cookie`` headers as on the wire."""

import asyncio
import re
import sys
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core_support import BACKENDS, KINDS, Site, hurried, open_backend
from harness.support import Browser, FakeConnection, Kind, Request, Response, make_app
from powauth import ConfigError, ConfigWarning, CookieCarrier, StoreUnavailable
from powauth.backends.base import Backend, drive
from powauth.backends.memory import MemoryBackend
from powauth.integrations import asgi, wsgi
from powauth.sessions.ids import ID_CHARS
from powauth.sessions.keyring import Mac

COOKIE = "__Host-auth"
MAX_COOKIE_BYTES = 4096


@pytest.fixture(params=[(kind, name) for kind in KINDS for name in BACKENDS], ids="-".join)
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[..., Site]]:
    """Makes sites over one backend."""
    kind, name = request.param
    backend: Backend = open_backend(name, tmp_path)
    yield lambda **options: Site(backend, kind, **options)
    drive(backend.close())


@pytest.fixture
def site(start: Callable[..., Site]) -> Site:
    return start()


def the_cookie(response: Response) -> str:
    """The one ``Set-Cookie`` of a response."""
    (line,) = response.set_cookies
    return line


def send_cookies(site: Site, *headers: str) -> Response:
    """A request with several ``Cookie`` fields. Of WSGI's servers some join them with a semicolon, as HTTP/2 does."""
    if site.kind == "wsgi":
        return site.browser().send("/", "; ".join(headers), {})

    async def fetch() -> Response:
        sent: list[Any] = []

        async def receive() -> Any:
            return {"type": "http.request"}

        async def send(message: Any) -> None:
            sent.append(message)

        fields = [(b"cookie", header.encode("latin-1")) for header in headers]
        await site.app({"type": "http", "method": "GET", "path": "/", "headers": fields}, receive, send)
        return Response(sent[0]["status"], [], sent[1]["body"])

    return asyncio.run(fetch())


# --- CKE-01 to CKE-03: what is written ----------------------------------------------------------------------------


def test_cke_01_the_default_cookie_is_bound_to_the_host_and_the_browsers_session(site: Site) -> None:
    line = the_cookie(site.browser().get("/login"))
    pattern = rf"__Host-auth=[A-Za-z0-9_-]{{{ID_CHARS}}}; Path=/; Secure; HttpOnly; SameSite=Lax"
    assert re.fullmatch(pattern, line)
    assert not re.search("domain|max-age|expires", line, re.IGNORECASE)


def test_cke_01_the_renewed_cookie_is_like_the_first(site: Site) -> None:
    browser = site.browser()
    first = the_cookie(browser.get("/login"))
    site.clock.advance(15 * 60)
    second = the_cookie(browser.get())
    assert first.partition(";")[2] == second.partition(";")[2]


@pytest.mark.filterwarnings("ignore:same_site='None'")
@pytest.mark.parametrize(
    ("options", "name", "attributes"),
    [
        ({"same_site": "Lax"}, "__Host-auth", "Path=/; Secure; HttpOnly; SameSite=Lax"),
        ({"same_site": "Strict"}, "__Host-auth", "Path=/; Secure; HttpOnly; SameSite=Strict"),
        ({"same_site": "None"}, "__Host-auth", "Path=/; Secure; HttpOnly; SameSite=None"),
        ({"path": "/app"}, "__Secure-auth", "Path=/app; Secure; HttpOnly; SameSite=Lax"),
        ({"domain": "example.org"}, "__Secure-auth", "Path=/; Domain=example.org; Secure; HttpOnly; SameSite=Lax"),
    ],
)
def test_cke_02_each_option_changes_the_header(
    start: Callable[..., Site], options: dict[str, Any], name: str, attributes: str
) -> None:
    site = start(carrier=CookieCarrier(**options))
    browser = site.browser()
    written, _, rest = the_cookie(browser.get("/login")).partition("=")
    assert written == name
    assert rest.partition("; ")[2] == attributes
    assert browser.get().json()["user"] == site.user.email
    cleared = the_cookie(browser.get("/logout"))
    assert cleared == f"{name}=; {attributes}; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT"
    assert browser.jar == {}


@pytest.mark.parametrize("session_key", ["sid", "Auth-2", "a" * 64])
def test_cke_02_the_name_is_the_apps_choice(start: Callable[..., Site], session_key: str) -> None:
    site = start(session_key=session_key)
    assert list(site.signed_in().jar) == [f"__Host-{session_key}"]
    named = start(session_key="sid", app_name="my_app")
    assert list(named.signed_in().jar) == ["__Host-my_app_sid"]


@pytest.mark.parametrize(
    "options",
    [
        {"session_key": "__Host-sid"},
        {"session_key": "__host-sid"},
        {"session_key": "__SECURE-sid"},
        {"session_key": "sid", "app_name": "__Host-app"},
    ],
)
def test_cke_02_a_prefix_is_the_carriers_to_give(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="without the prefix"):
        Site(MemoryBackend(), **options)


@pytest.mark.parametrize(
    "options",
    [
        {"same_site": "None", "insecure_http": True},
        {"same_site": "none"},
        {"same_site": "strict"},
        {"same_site": ""},
        {"same_site": "Lax, Strict"},
        {"same_site": True},
        {"domain": "*.example.org"},
        {"path": "relative"},
    ],
)
def test_cke_02_what_no_browser_would_take_refuses_to_start(options: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ConfigError):
            CookieCarrier(**options)


def test_cke_02_no_option_makes_a_host_cookie_without_what_its_name_promises() -> None:
    for option in ("secure", "http_only", "httponly", "max_age"):
        with pytest.raises(TypeError):
            CookieCarrier(**{option: False})  # type: ignore[arg-type]


def test_cke_02_plain_http_is_asked_for_and_its_cookie_is_nothing_to_a_secure_app(start: Callable[..., Site]) -> None:
    secure = start()
    with pytest.warns(ConfigWarning, match="development only"):
        carrier = CookieCarrier(insecure_http=True)
    plain = start(carrier=carrier, users=secure.users)
    browser = plain.browser()
    line = the_cookie(browser.get("/login"))
    assert line.startswith("auth=")
    assert line.endswith("; Path=/; HttpOnly; SameSite=Lax")
    assert browser.get().json()["user"] == plain.user.email
    with secure.backend.counting() as calls:
        assert secure.user_of(f"auth={plain.id_of(browser)}") is None
    assert calls == []


BAD = (
    ";",
    ",",
    "\r",
    "\n",
    "\0",
    " ",
    '"',
    "'",
    "=",
    "\t",
    "\x7f",
    "ä",
    "\u2028",
    "\\",
    "(",
    "@",
    "\r\nSet-Cookie: a=b",
)


@pytest.mark.parametrize("bad", BAD)
def test_cke_03_no_option_lets_a_character_into_the_header(bad: str) -> None:
    for text in (bad, f"a{bad}", f"{bad}a", f"a{bad}b"):
        names: list[dict[str, Any]] = [{"session_key": text}, {"app_name": text}]
        for options in names:
            with pytest.raises(ConfigError):
                Site(MemoryBackend(), **options)
        for option in ({"domain": text}, {"path": f"/{text}"}, {"same_site": f"Lax{text}"}):
            with pytest.raises(ConfigError):
                CookieCarrier(**option)  # type: ignore[arg-type]


@pytest.mark.parametrize("app_name", [None, "my_app"])
def test_cke_03_the_value_is_of_a_plain_alphabet(start: Callable[..., Site], app_name: str | None) -> None:
    site = start(app_name=app_name)
    for _ in range(50):
        assert re.fullmatch(r"[A-Za-z0-9._-]+", site.id_of(site.signed_in()))


def test_cke_03_the_longest_cookie_is_short_enough(start: Callable[..., Site]) -> None:
    carrier = CookieCarrier(domain="a" * 253, path="/" + "a" * 255, same_site="Strict")
    site = start(carrier=carrier, app_name="a" * 32, session_key="b" * 31)
    line = the_cookie(site.browser().get("/login"))
    name, _, rest = line.partition("=")
    assert len(name + rest.partition(";")[0]) < MAX_COOKIE_BYTES
    assert all(len(attribute) <= 1024 for attribute in rest.split("; "))


def test_cke_03_there_is_one_cookie_however_often_a_handler_signs_in_and_out(start: Callable[..., Site]) -> None:
    site = start()

    async def twice(request: Request) -> object:
        params = {"email": site.user.email, "password": "correct horse"}
        for _ in range(2):
            assert await request.call("sign_in", params)
        await request.call("sign_out")
        return (await request.call("sign_in", params)).email

    async def in_and_out(request: Request) -> object:
        await twice(request)
        await request.call("sign_out")
        return None

    browser = Browser(make_app(site.kind, site.auth, {"/twice": twice, "/out": in_and_out}), site.kind)
    for path in ("/twice", "/out"):
        attributes = [part.partition("=")[0].lower() for part in the_cookie(browser.get(path)).split("; ")]
        assert len(attributes) == len(set(attributes))
    assert browser.jar == {}
    assert drive(site.backend.count("credentials", site.auth.now())) == 0


def test_cke_03_the_apps_own_cookies_stand_beside_it(site: Site) -> None:
    browser = site.signed_in()
    site.clock.advance(15 * 60)
    response = page(site, [("Set-Cookie", "theme=dark"), ("Set-Cookie", "lang=de")]).get(browser)
    assert len(response.set_cookies) == 3
    assert response.set_cookies[:2] == ["theme=dark", "lang=de"]


# --- CKE-04 to CKE-06: what is read -------------------------------------------------------------------------------


@pytest.mark.parametrize("live", [True, False], ids=["two live sessions", "one live session"])
def test_cke_04_of_several_ids_the_live_one_counts_and_two_are_nobodys_in_any_order(site: Site, live: bool) -> None:
    one, two = (site.id_of(site.signed_in()) for _ in range(2))
    for rival in (two,) if live else ("garbage", "", one[:-1], one + "A", f'"{one}"'):
        for first, second in ((one, rival), (rival, one)):
            for headers in (
                (f"{COOKIE}={first}; {COOKIE}={second}",),
                (f"{COOKIE}={first}", f"{COOKIE}={second}"),
                (f"a=b; {COOKIE}={first}; c=d", f"e=f;{COOKIE}={second}"),
            ):
                site.events.clear()
                with site.backend.counting() as calls:
                    response = send_cookies(site, *headers)
                assert response.json() == {"user": None if live else site.user.email}
                assert response.set_cookies == []
                assert calls == (["get", "get"] if live else ["get"])
                assert site.event_names == (["conflicting_ids"] if live else [])


def test_cke_04_the_same_id_twice_is_no_conflict(site: Site) -> None:
    value = site.id_of(site.signed_in())
    for headers in ((f"{COOKIE}={value}; {COOKIE}={value}",), (f"{COOKIE}={value}", f"{COOKIE}={value}")):
        assert send_cookies(site, *headers).json() == {"user": site.user.email}


def test_cke_04_fields_that_a_server_joined_with_a_comma_are_nobodys_in_any_order(site: Site) -> None:
    """A comma may be in a neighbour's value, so nothing is split there: what cannot be told apart is not taken."""
    one, two = (site.id_of(site.signed_in()) for _ in range(2))
    for header in (f"{COOKIE}={one},{COOKIE}={two}", f"{COOKIE}={one}, a=b", f"a=b, {COOKIE}={one}"):
        assert site.user_of(header) is None


@pytest.mark.parametrize(
    "name",
    [
        "__host-auth", "__HOST-auth", "__Host-Auth", "__Host-auth[]", "__Host-auth.", "__Host-auth%00",
        "%5F%5FHost-auth", "__Host%2Dauth", "__Host_auth", "auth", "__Secure-auth", "x__Host-auth", "=__Host-auth",
        "a=__Host-auth",
        "\xa0__Host-auth", "\x85__Host-auth", "\x0b__Host-auth", "\x0c__Host-auth", "\x1c__Host-auth",
        "\x00__Host-auth",
        "\xe2\x80\x80__Host-auth", "\xef\xbb\xbf__Host-auth", "__Host-auth\xa0", "__Host-auth\x0b", "__Host-auth\x00",
        '"__Host-auth"', "$Version=1,__Host-auth", "$Version=1 __Host-auth", "__Host-auth ;a", "__Host-auth\r\n",
    ],
)  # fmt: skip
def test_cke_05_only_the_exact_name_is_the_sessions(site: Site, name: str) -> None:
    browser = site.signed_in()
    value = site.id_of(browser)
    with site.backend.counting() as calls:
        assert site.user_of(f"{name}={value}") is None
        assert site.user_of(f"a=b; {name}={value}; c=d") is None
    assert calls == []
    assert site.user_of(f"{name}=x; {COOKIE}={value}; {name}=y") == site.user.email


def test_cke_05_spaces_and_tabs_around_name_and_value_are_nobodys(site: Site) -> None:
    value = site.id_of(site.signed_in())
    for header in (f"  {COOKIE}={value}", f"\t{COOKIE} \t=\t {value} \t", f"$Version=1;{COOKIE}={value};$Path=/"):
        assert site.user_of(header) == site.user.email


NEIGHBOURS = (
    *('a="unterminated', 'a="x\\', '"', "\\" * 5_000, "a=" + '\\"' * 5_000),
    *("=", "==", "=a", "nameless", "", ";", ";;;;", "a=b=c=d", COOKIE, f"x={COOKIE}", "__Host-" * 5_000),
    *("a\0b=c", "\xff\xfe=\xfd", "\xc3\x28", "a=\r\n", "{}=[]", "$Version=1", "Path=/", "expires=Thu, 01 Jan 1970"),
    *("a=" + "x" * 65_536, "; ".join(f"{number}={number}" for number in range(5_000))),
)


@pytest.mark.parametrize("neighbour", NEIGHBOURS, ids=range(len(NEIGHBOURS)))
def test_cke_06_no_neighbour_makes_a_session_unreadable(site: Site, neighbour: str) -> None:
    value = site.id_of(site.signed_in())
    for header in (
        f"{neighbour}; {COOKIE}={value}",
        f"{COOKIE}={value}; {neighbour}",
        f"{neighbour};{COOKIE}={value};{neighbour}",
    ):
        with site.backend.counting() as calls:
            assert site.user_of(header) == site.user.email
        assert calls == ["get"]
    with site.backend.counting() as calls:
        assert site.user_of(neighbour) is None
    assert calls == []


@pytest.mark.parametrize("length", [0, 1, ID_CHARS - 1, ID_CHARS + 1, 4_096, 65_536])
def test_cke_06_a_value_of_the_wrong_length_costs_neither_a_code_nor_a_read(
    site: Site, monkeypatch: pytest.MonkeyPatch, length: int
) -> None:
    verified: list[bytes] = []
    monkeypatch.setattr(Mac, "verify", lambda _, message, __: verified.append(message))
    with site.backend.counting() as calls:
        assert site.user_of(f"{COOKIE}={'A' * length}") is None
    assert calls == []
    assert verified == []


def test_cke_06_reading_takes_work_in_proportion_to_the_header() -> None:
    """Counts calls, Python's and C's, and measures no time; each call's own work is bounded by its piece."""
    carrier = CookieCarrier().named("auth")

    def work(header: str) -> int:
        calls = 0

        def count(*_: object) -> None:
            nonlocal calls
            calls += 1

        connection = FakeConnection([header])
        sys.setprofile(count)
        try:
            carrier.read(connection)
        finally:
            sys.setprofile(None)
        return calls

    for piece in (f"{COOKIE}=a;", f"a={COOKIE};", '"\\;', "=;", ";"):
        once, twice = (work(piece * times) for times in (1_000, 2_000))
        assert twice <= 2 * once
    assert work("a=b;" * 5_000) < 50


cookie_bytes = st.one_of(
    st.binary(max_size=300),
    st.lists(
        st.sampled_from([COOKIE, "=", ";", " ", '"', "\\", ",", "A" * ID_CHARS, "\xff", "\0", "\t"]), max_size=30
    ).map(lambda parts: "".join(parts).encode("latin-1")),
)
FUZZED = {kind: Site(MemoryBackend(), kind) for kind in KINDS}
FUZZED_IDS = {kind: site.id_of(site.signed_in()) for kind, site in FUZZED.items()}


@pytest.mark.parametrize("kind", KINDS)
@hurried
@given(cookie=cookie_bytes)
def test_cke_06_any_bytes_in_the_header_are_nobodys_without_a_read(kind: Kind, cookie: bytes) -> None:
    site = FUZZED[kind]
    with site.backend.counting() as calls:
        response = site.browser().send("/", cookie.decode("latin-1"), {})
    assert (response.status, response.json(), response.set_cookies) == (200, {"user": None}, [])
    assert calls == []


@pytest.mark.parametrize("kind", KINDS)
@hurried
@given(before=cookie_bytes, after=cookie_bytes)
def test_cke_06_any_bytes_around_a_valid_id_cost_one_read_at_most(kind: Kind, before: bytes, after: bytes) -> None:
    site = FUZZED[kind]
    header = f"{before.decode('latin-1')};{COOKIE}={FUZZED_IDS[kind]};{after.decode('latin-1')}"
    with site.backend.counting() as calls:
        user = site.user_of(header)
    # No other value under the name is an id, so this one counts, whatever stands around it.
    assert (user, calls) == (site.user.email, ["get"])


# --- CKE-07 and CKE-08: caches ------------------------------------------------------------------------------------

Touch = Callable[[Any], object]


class Page(NamedTuple):
    """An app of one page behind the middleware, and how often it was asked for."""

    app: Any
    kind: Kind
    asked: list[str]

    def get(self, browser: Browser) -> Response:
        """Ask for the page with a browser's cookies, and let it keep what comes."""
        response = Browser(self.app, self.kind).send("/page", browser.cookie_header(), {})
        browser.take(response)
        return response


def page(
    site: Site,
    headers: list[tuple[str, str]] | None = None,
    *,
    status: int = 200,
    touch: Touch = lambda bound: bound.current_user,
) -> Page:
    """A page with a status and headers of its own, which looks at the user as ``touch`` does and tells who it is."""
    asked: list[str] = []
    headers = headers or []
    key = site.auth.current_user_key

    def body(bound: Any) -> bytes:
        touch(bound)
        user = bound.current_user
        asked.append("" if user is None else user.email)
        return f"for {asked[-1]}".encode()

    if site.kind == "asgi":

        async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
            del receive
            content = body(asgi.request_auth(scope, key))
            raw = [(name.encode(), value.encode()) for name, value in headers]
            await send({"type": "http.response.start", "status": status, "headers": raw})
            await send({"type": "http.response.body", "body": content})

        return Page(asgi.SessionAuthMiddleware(asgi_app, site.auth), site.kind, asked)

    def wsgi_app(environ: Any, start_response: Any) -> list[bytes]:
        content = body(wsgi.request_auth(environ, key))
        start_response(f"{status} Status", headers)
        return [content]

    return Page(wsgi.SessionAuthMiddleware(wsgi_app, site.auth), site.kind, asked)


TOUCHES: dict[str, Touch] = {
    "the user": lambda bound: bound.current_user,
    "is there one": lambda bound: bound.current_user is None,
    "its truth": lambda bound: bool(bound.current_user),
    "the session": lambda bound: bound.session,
    "nothing": lambda bound: None,
    "what a form needs": lambda bound: bound.validate_user({}),
}


@pytest.mark.parametrize("touch", TOUCHES)
@pytest.mark.parametrize("signed_in", [True, False])
def test_cke_07_a_response_varies_with_the_cookie_whatever_was_touched(site: Site, touch: str, signed_in: bool) -> None:
    browser = site.signed_in() if signed_in else site.browser()
    response = page(site, touch=TOUCHES[touch]).get(browser)
    assert response.header("vary") == "Cookie"
    assert response.set_cookies == []
    assert response.header("cache-control") is None


@pytest.mark.parametrize(
    "status", [200, 201, 204, 301, 302, 303, 304, 307, 308, 400, 401, 403, 404, 410, 418, 429, 500, 503]
)
def test_cke_07_every_status_varies_with_the_cookie(site: Site, status: int) -> None:
    response = page(site, status=status).get(site.browser())
    assert (response.status, response.header("vary")) == (status, "Cookie")
    assert response.set_cookies == []


@pytest.mark.parametrize(
    ("vary", "after"),
    [
        ([], "Cookie"),
        (["Accept-Encoding"], "Accept-Encoding, Cookie"),
        (["Accept", "Accept-Language"], "Accept, Accept-Language, Cookie"),
        (["Accept, Cookie"], "Accept, Cookie"),
        (["cookie"], "cookie"),
        (["*"], "*"),
        (["X-Cookie"], "X-Cookie, Cookie"),
    ],
)
def test_cke_07_the_apps_vary_is_kept(site: Site, vary: list[str], after: str) -> None:
    response = page(site, [("Vary", value) for value in vary]).get(site.browser())
    assert response.header("vary") == after


def test_cke_07_what_the_middleware_answers_itself_varies_too_and_is_not_kept(site: Site) -> None:
    response = site.browser().get("/private")
    assert (response.status, response.header("vary"), response.header("cache-control")) == (401, "Cookie", "no-store")
    browser = site.signed_in()
    site.backend.fail["get"] = StoreUnavailable("down")
    response = browser.get("/private")
    assert (response.status, response.header("vary"), response.header("cache-control")) == (503, "Cookie", "no-store")
    assert response.set_cookies == []


CONTROLS: tuple[list[str], ...] = (
    [], ["public, max-age=600"], ["private"], ["no-cache"], ["max-age=600", "public"], ["s-maxage=600"], ["PUBLIC"],
    ["public, no-store"], ["immutable"],
)  # fmt: skip


def sets_a_cookie(site: Site) -> dict[str, Browser]:
    """A browser for each reason for which a response to an ordinary request sets the cookie."""
    renews, resends = site.signed_in(), site.signed_in()
    stale = resends.copy()
    site.clock.advance(15 * 60)
    resends.get()
    return {"renewal": renews, "the id again": stale}


@pytest.mark.parametrize("reason", ["renewal", "the id again"])
@pytest.mark.parametrize("control", CONTROLS, ids=" and ".join)
def test_cke_08_no_cache_keeps_a_response_with_the_cookie(site: Site, reason: str, control: list[str]) -> None:
    browser = sets_a_cookie(site)[reason]
    response = page(site, [("Cache-Control", value) for value in control]).get(browser)
    assert len(response.set_cookies) == 1
    assert response.header("cache-control") == "no-store"
    assert response.header("vary") == "Cookie"


@pytest.mark.parametrize("strict", ["no-store", "no-store, private", "private, No-Store, max-age=0"])
def test_cke_08_the_apps_own_no_store_stands(site: Site, strict: str) -> None:
    response = page(site, [("Cache-Control", strict)]).get(sets_a_cookie(site)["renewal"])
    assert response.header("cache-control") == strict


@pytest.mark.parametrize("status", [200, 302, 304, 404])
def test_cke_08_redirects_and_not_modified_with_the_cookie_are_not_kept_either(site: Site, status: int) -> None:
    response = page(site, [("Cache-Control", "public")], status=status).get(sets_a_cookie(site)["renewal"])
    assert len(response.set_cookies) == 1
    assert response.header("cache-control") == "no-store"


def test_cke_08_a_handler_that_failed_sets_no_cookie(site: Site) -> None:
    response = page(site, status=500).get(sets_a_cookie(site)["renewal"])
    assert response.set_cookies == []


def test_cke_08_signing_in_and_out_is_not_kept(site: Site) -> None:
    browser = site.browser()
    for path in ("/login", "/logout"):
        response = browser.get(path)
        assert len(response.set_cookies) == 1
        assert response.header("cache-control") == "no-store"
        assert response.header("vary") == "Cookie"


def test_cke_08_caches_with_a_header_of_their_own_are_told_too(site: Site) -> None:
    targeted = [
        ("CDN-Cache-Control", "max-age=600"),
        ("Surrogate-Control", "max-age=600"),
        ("Cache-Control", "no-store"),
    ]
    response = page(site, targeted).get(sets_a_cookie(site)["renewal"])
    assert response.header("cdn-cache-control") is response.header("surrogate-control") is None
    untouched = page(site, targeted).get(site.browser())
    assert untouched.header("cdn-cache-control") == "max-age=600"


class SharedCache:
    """A shared cache as RFC 9111 allows one: keeps what it is not forbidden to keep, by path and ``Vary``."""

    def __init__(self, page: Page) -> None:
        self.page = page
        self.kept: dict[str, list[tuple[dict[str, str | None], Response]]] = {}

    def get(self, path: str, browser: Browser) -> Response:
        cookie = browser.cookie_header()
        for selecting, response in self.kept.get(path, []):
            if all({"cookie": cookie}.get(name) == value for name, value in selecting.items()):
                browser.take(response)
                return response
        response = Browser(self.page.app, self.page.kind).send(path, cookie, {})
        control = {part.strip().lower() for part in (response.header("cache-control") or "").split(",")}
        varies = [part.strip().lower() for part in (response.header("vary") or "").split(",") if part.strip()]
        if not control & {"no-store", "private", "no-cache"} and "*" not in varies:
            self.kept.setdefault(path, []).append(({name: {"cookie": cookie}.get(name) for name in varies}, response))
        browser.take(response)
        return response


@pytest.mark.parametrize("control", [[], [("Cache-Control", "public, max-age=600")]], ids=["silent", "public"])
def test_cke_08_a_shared_cache_hands_nobody_anothers_cookie_or_page(site: Site, control: list[tuple[str, str]]) -> None:
    one = page(site, control)
    cache = SharedCache(one)
    other_user = site.users.add("bob@example.org")

    nobody = site.browser()
    first = cache.get("/page", nobody)
    assert cache.get("/page", site.browser()) is first, "the cache does keep pages"
    assert one.asked == [""]

    ada = site.signed_in()
    assert cache.get("/page", ada).body == b"for ada@example.org"
    before = site.id_of(ada)
    site.clock.advance(15 * 60)
    site.user = other_user
    bob = site.signed_in()
    renewing = SharedCache(one)
    renewed = renewing.get("/page", ada)
    assert len(renewed.set_cookies) == 1
    assert site.id_of(ada) != before

    for shared in (cache, renewing):
        assert shared.get("/page", bob).body == b"for bob@example.org"
        for stranger in (site.browser(), nobody):
            response = shared.get("/page", stranger)
            assert (response.body, response.set_cookies, stranger.jar) == (b"for ", [], {})
    assert renewed not in [response for entries in renewing.kept.values() for _, response in entries]
    assert all(not response.set_cookies for shared in (cache, renewing) for _, response in shared.kept["/page"])
