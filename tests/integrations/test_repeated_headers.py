"""A header that has one value, sent twice, means the same on ASGI and on WSGI: it is no valid value."""

from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from harness.core_support import Site
from harness.keys_support import ApiKey, KeySite, Member
from harness.live_servers import send_raw, serving
from harness.support import Kind, Request, make_app
from harness.tables_support import ADA
from harness.users_databases import PASSWORD, blocking_engine
from powauth import AnyOf, BearerCarrier, CookieCarrier, CrossSiteDefence
from powauth.backends.memory import MemoryBackend
from powauth.http.connection import Connection
from powauth.http.cross_site import media_type
from powauth.integrations.asgi import ASGIConnection
from powauth.integrations.wsgi import WSGIConnection

OWN, FOREIGN = "https://app.example", "https://evil.example"
HOST = ("Host", "app.example")


async def save(request: Request) -> object:
    connection: Connection = request.bound.connection
    CrossSiteDefence().check(connection, connection.method())
    return "saved"


@contextmanager
def token_site(kind: Kind, folder: Path) -> Iterator[tuple[tuple[str, int], str, str, str]]:
    """Serve an app with bearer sessions and API keys. Gives its address, a token, a key and a cookie of one user."""
    carrier = AnyOf(CookieCarrier(), BearerCarrier())
    with blocking_engine("sqlite", str(folder), Member, ApiKey) as engine:
        site = KeySite(kind, engine, auth={"carrier": carrier})
        browser = site.browser(signed_in=True)
        key, cookie = site.key(browser), browser.cookie_header()
        assert cookie is not None

        async def token_of(request: Request) -> object:
            await request.call("sign_in", {"email": ADA, "password": PASSWORD}, bearer=True)
            return {"token": request.bound.access_token}

        token = site.do(site.browser(), token_of).json()["token"]
        with serving(site.app, kind) as address:
            yield address, f"Bearer {token}", f"Bearer {key}", cookie


@pytest.fixture(params=["asgi", "wsgi"])
def address(request: pytest.FixtureRequest) -> Iterator[tuple[str, int]]:
    kind: Kind = request.param
    site = Site(MemoryBackend(), kind)
    with serving(make_app(kind, site.auth, {"/save": save}), kind) as address:
        yield address


@pytest.mark.parametrize(
    "fields",
    [
        [("Origin", OWN)],
        [("Origin", FOREIGN), ("Sec-Fetch-Site", "same-origin")],
        [("Referer", f"{OWN}/form")],
        [("Content-Type", "application/json")],
    ],
)
def test_a_header_that_is_sent_once_counts(address: tuple[str, int], fields: list[tuple[str, str]]) -> None:
    response = send_raw(address, "POST", "/save", HOST, *fields)
    assert (response.status_code, response.json()) == (200, "saved")


@pytest.mark.parametrize(
    "fields",
    [
        [("Origin", OWN), ("Origin", FOREIGN)],
        [("Origin", FOREIGN), ("Origin", OWN)],
        [("Origin", OWN), ("Origin", OWN)],
        [("Origin", OWN), ("Origin", "")],
        [("Origin", OWN), ("Origin", "null"), ("Content-Type", "application/json")],
        [("Sec-Fetch-Site", "same-origin"), ("Sec-Fetch-Site", "cross-site")],
        [("Sec-Fetch-Site", "none"), ("Sec-Fetch-Site", "same-origin"), ("Origin", OWN)],
        [("sec-fetch-site", "same-origin"), ("SEC-FETCH-SITE", "same-origin")],
        [("Referer", f"{OWN}/form"), ("Referer", f"{FOREIGN}/form")],
        [("Referer", f"{OWN}/form"), ("referer", f"{FOREIGN}/form"), ("Content-Type", "application/json")],
    ],
)
def test_rep_47_two_fields_that_say_where_a_request_comes_from_are_refused(
    address: tuple[str, int], fields: list[tuple[str, str]]
) -> None:
    response = send_raw(address, "POST", "/save", HOST, *fields)
    assert (response.status_code, response.json()) == (403, {"error": "cross_site_request"})


@pytest.mark.parametrize(
    "fields", [[("Origin", OWN)], [("Sec-Fetch-Site", "same-origin")], [("Content-Type", "application/json")]]
)
def test_rep_47_two_hosts_are_refused(address: tuple[str, int], fields: list[tuple[str, str]]) -> None:
    response = send_raw(address, "POST", "/save", HOST, ("Host", "evil.example"), *fields)
    assert response.status_code in (400, 403)  # some servers refuse it before the app sees it


@pytest.mark.parametrize("kind", ["asgi", "wsgi"])
def test_two_authorization_headers_are_one_invalid_value_on_every_server(kind: Kind, tmp_path: Path) -> None:
    """A server joins them with a comma, a space or both. No form of it signs anybody in, and a key is a refused key."""
    with token_site(kind, tmp_path) as (address, token, key, cookie):
        basic, bearer, api_key = (("Authorization", value) for value in ("Basic eA==", token, key))
        beside = ("Cookie", cookie)

        def status(*fields: tuple[str, str]) -> int:
            return send_raw(address, "GET", "/private", HOST, *fields).status_code

        assert [status(one) for one in (bearer, api_key, beside, basic)] == [200, 200, 200, 401]
        assert status(basic, bearer) == 401
        assert status(basic, bearer, beside) == 200, "a foreign header is ignored, and the cookie counts"
        for pair in ((bearer, basic), (bearer, bearer), (api_key, bearer), (bearer, api_key)):
            assert status(*pair) == 401, pair
            assert status(*pair, beside) == 401, pair
        for pair in ((api_key, basic), (basic, api_key), (api_key, api_key)):
            answer = send_raw(address, "GET", "/private", HOST, *pair, beside)
            assert answer.status_code == 401
            assert answer.headers["www-authenticate"] == 'Bearer realm="api_key", error="invalid_token"'


SINGLE = ["host", "authorization", "content-length", "content-type", "x-requested-with", "x-code", "user-agent"]


def both(*fields: tuple[str, str]) -> list[Connection]:
    """The same fields as an ASGI server and as a WSGI server hand them on."""
    environ: dict[str, Any] = {"REQUEST_METHOD": "POST", "wsgi.input": BytesIO()}
    for name, value in fields:
        key = name.upper().replace("-", "_")
        key = key if key in ("CONTENT_TYPE", "CONTENT_LENGTH") else f"HTTP_{key}"
        environ[key] = f"{environ[key]}, {value}" if key in environ else value
    raw = [(name.encode(), value.encode()) for name, value in fields]
    return [ASGIConnection({"type": "http", "headers": raw}), WSGIConnection(environ)]


@pytest.mark.parametrize("name", SINGLE)
def test_rep_47_every_header_reads_the_same_on_both_protocols(name: str) -> None:
    for connection in both((name, "one"), ("x-other", "between"), (name, "two"), (name, "three")):
        assert connection.header(name) == "one, two, three"
        assert connection.header("x-other") == "between"
        assert connection.header("x-absent") is None


def test_rep_47_two_content_types_are_none_of_the_two() -> None:
    for connection in both(("content-type", "application/json"), ("content-type", "text/plain; a=b")):
        assert media_type(connection) == "application/json, text/plain"
