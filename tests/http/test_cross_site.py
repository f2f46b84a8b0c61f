"""`CrossSiteDefence`: where a request that changes something may come from."""

from typing import Any

import pytest

from harness.support import FakeConnection
from powauth.errors import ConfigError, CrossSiteRequest
from powauth.http.cross_site import SAFE_METHODS, CrossSiteDefence, media_type

HOST = "app.example"
PARTNER = "https://shop.example"


def passes(
    defence: CrossSiteDefence | None = None, method: str = "POST", *, secure: bool = True, **headers: str
) -> bool:
    given: Any = {"host": HOST, **headers}
    connection = FakeConnection(**given)
    try:
        (defence or CrossSiteDefence()).check(connection, method, secure=secure)
    except CrossSiteRequest:
        return False
    return True


def test_safe_methods_pass_in_their_one_spelling() -> None:
    for method in SAFE_METHODS:
        assert passes(method=method, sec_fetch_site="cross-site")
        assert not passes(method=method.lower(), sec_fetch_site="cross-site")


@pytest.mark.parametrize("method", ["POST", "PUT", "PATCH", "DELETE", "post", "BREW", ""])
def test_every_other_method_is_checked(method: str) -> None:
    assert not passes(method=method)
    assert passes(method=method, sec_fetch_site="same-origin")


@pytest.mark.parametrize(
    ("site", "expected"),
    [
        ("same-origin", True),
        ("none", True),
        ("same-site", False),
        ("cross-site", False),
        ("", False),
        ("Same-Origin", False),
        ("same-origin, cross-site", False),
        ("cross-site, same-origin", False),
    ],
)
def test_what_the_browser_says_of_the_site_counts_before_all_else(site: str, expected: bool) -> None:
    assert passes(sec_fetch_site=site) is expected
    own: Any = {"origin": f"https://{HOST}", "referer": f"https://{HOST}/", "content_type": "application/json"}
    assert passes(sec_fetch_site=site, **own) is expected


@pytest.mark.parametrize(
    ("origin", "expected"),
    [
        (f"https://{HOST}", True),
        (f"https://{HOST}:443", True),
        (f"HTTPS://{HOST.upper()}", True),
        (f"http://{HOST}", False),
        (f"https://{HOST}:8443", False),
        (f"https://{HOST}:80", False),
        (f"https://{HOST}.attacker.example", False),
        (f"https://attacker{HOST}", False),
        (f"https://www.{HOST}", False),
        (f"https://user@{HOST}", False),
        (f"https://{HOST}@attacker.example", False),
        (f"https://{HOST}/", False),
        (f"https://{HOST} ", False),
        (f" https://{HOST}", False),
        (f"https://{HOST}\t", False),
        (f"https://{HOST}:", False),
        (f"https://{HOST}:443x", False),
        (f"https://{HOST}:99999", False),
        (f"https://{HOST}, https://{HOST}", False),
        (f"ftp://{HOST}", False),
        (f"//{HOST}", False),
        (HOST, False),
        ("null", False),
        ("https://", False),
        ("https://[", False),
        ("", False),
    ],
)
def test_an_origin_is_the_own_one_or_another(origin: str, expected: bool) -> None:
    assert passes(origin=origin) is expected
    assert passes(origin=origin, referer=f"https://{HOST}/", content_type="application/json") is expected
    assert CrossSiteDefence().allows(FakeConnection(host=HOST), origin) is expected


def test_the_own_port_counts() -> None:
    assert passes(host=f"{HOST}:8443", origin=f"https://{HOST}:8443")
    assert not passes(host=f"{HOST}:8443", origin=f"https://{HOST}")
    assert passes(host="[::1]:8443", origin="https://[::1]:8443")


def test_development_mode_is_on_http() -> None:
    assert passes(secure=False, host="localhost:8000", origin="http://localhost:8000")
    assert not passes(secure=False, host="localhost:8000", origin="https://localhost:8000")


@pytest.mark.parametrize("host", ["", "a/b", "a b", "app.example/x", "*"])
def test_a_broken_host_has_no_own_origin(host: str) -> None:
    assert not passes(host=host, origin=f"https://{host}")
    assert not passes(host=host, origin="null")


def test_no_forwarded_header_counts() -> None:
    forged: Any = {
        "x_forwarded_host": "attacker.example",
        "x_forwarded_proto": "http",
        "forwarded": "host=attacker.example;proto=http",
    }
    assert not passes(origin="https://attacker.example", **forged)
    assert not passes(origin=f"http://{HOST}", **forged)
    assert passes(origin=f"https://{HOST}", **forged)


@pytest.mark.parametrize(
    ("referer", "expected"),
    [
        (f"https://{HOST}/login?next=/x#y", True),
        (f"https://{HOST}", True),
        (f"https://{HOST}?x=https://attacker.example", True),
        (f"https://{HOST}/a,b:c?d=e,f", True),
        (f"https://{HOST}/,https://{HOST}/", False),
        (f"https://{HOST}/, https://{HOST}/", False),
        (f"https://{HOST}/,about:blank, ", False),
        (f"https://{HOST}/,", False),
        (f"http://{HOST}/login", False),
        (f"https://attacker.example/https://{HOST}/", False),
        (f"https://attacker.example?https://{HOST}/", False),
        (f"https://attacker.example#@{HOST}/", False),
        (f"https://{HOST}@attacker.example/", False),
        (f"https://{HOST}\\@attacker.example/", False),
        ("about:blank", False),
        ("", False),
    ],
)
def test_an_old_browser_is_asked_for_the_referer(referer: str, expected: bool) -> None:
    assert passes(referer=referer) is expected
    assert passes(referer=referer, content_type="application/json") is expected


@pytest.mark.parametrize(
    ("content_type", "expected"),
    [
        ("application/json", True),
        ("Application/JSON ; charset=utf-8", True),
        ("text/plain", False),
        ("text/plain; x=application/json", False),
        ("text/plain, application/json", False),
        ("application/x-www-form-urlencoded", False),
        ("multipart/form-data; boundary=application/json", False),
        ("application/jsonp", False),
        ("", False),
    ],
)
def test_a_program_sends_json(content_type: str, expected: bool) -> None:
    assert passes(content_type=content_type) is expected


def test_without_any_sign_of_where_it_comes_from_a_request_is_refused() -> None:
    assert not passes()


def test_allowed_origins() -> None:
    defence = CrossSiteDefence([PARTNER, "https://APP.example:8443"])
    assert passes(defence, sec_fetch_site="cross-site", origin=PARTNER)
    assert passes(defence, sec_fetch_site="same-site", origin="https://app.example:8443")
    assert passes(defence, origin=f"{PARTNER}:443")
    assert passes(defence, referer=f"{PARTNER}/form")
    assert passes(defence, sec_fetch_site="same-origin")
    assert not passes(defence, sec_fetch_site="cross-site", origin=f"https://{HOST}")
    assert not passes(defence, sec_fetch_site="cross-site", origin="null")
    assert not passes(defence, sec_fetch_site="cross-site", referer=PARTNER)
    assert not passes(defence, origin="http://shop.example")


@pytest.mark.parametrize(
    "origin",
    ["*", "null", "shop.example", "https://*", "https://shop.example/", "https://é.example", "file://x", 5, None],
)
def test_what_is_no_origin_cannot_be_allowed(origin: object) -> None:
    with pytest.raises(ConfigError, match="an origin must be scheme:"):
        CrossSiteDefence([origin])  # type: ignore[list-item]


def test_one_string_is_no_list_of_origins() -> None:
    with pytest.raises(ConfigError, match="sequence"):
        CrossSiteDefence(PARTNER)


def test_a_media_type_is_read_without_its_parameters() -> None:
    assert media_type(FakeConnection(content_type=" Text/HTML ; charset=x")) == "text/html"
    assert media_type(FakeConnection()) is None


def test_a_page_of_ones_own_on_plain_http_is_named_in_the_log_once(caplog: pytest.LogCaptureFixture) -> None:
    defence = CrossSiteDefence()
    assert not passes(defence, origin="http://evil.example")
    assert caplog.records == []
    for _ in range(3):
        assert not passes(defence, origin=f"http://{HOST}")
    (line,) = caplog.messages
    assert line.startswith("refused a request of the app's own page 'http://app.example', which is on plain http")
    assert "carrier=CookieCarrier(insecure_http=True)" in line
    assert not passes(CrossSiteDefence(), origin=f"https://{HOST}", secure=False)
    assert len(caplog.records) == 1
