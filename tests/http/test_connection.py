"""What the plug leaves in a response's headers."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core_support import hurried
from harness.support import FakeConnection
from powauth.http.connection import (
    MISSING,
    NO_EFFECTS,
    Connection,
    Effects,
    Headers,
    States,
    amended,
    vary_on,
    with_effects,
)

NO_STORE = Effects(no_store=True)
COOKIE = vary_on([b"Cookie"])


def values(headers: Headers, name: bytes) -> list[bytes]:
    return [value for header, value in headers if header.lower() == name]


def test_nothing_assigned_is_not_nobody() -> None:
    connection = FakeConnection()
    assert connection.assigned("current_user") is MISSING
    connection.assign("current_user", None)
    assert connection.assigned("current_user") is None
    assert repr(MISSING) == "MISSING"
    assert connection.states == {}


@pytest.mark.parametrize(
    ("vary", "after"),
    [
        ([], [b"Cookie"]),
        ([b"Accept"], [b"Accept", b"Cookie"]),
        ([b"Accept-Encoding, Accept"], [b"Accept-Encoding, Accept", b"Cookie"]),
        ([b"X-Cookie, Cookies"], [b"X-Cookie, Cookies", b"Cookie"]),
        ([b"cookie"], [b"cookie"]),
        ([b"Accept ,  COOKIE"], [b"Accept ,  COOKIE"]),
        ([b"Accept", b"Cookie"], [b"Accept", b"Cookie"]),
        ([b"*"], [b"*"]),
        ([b""], [b"", b"Cookie"]),
    ],
)
def test_vary_names_cookie_once_and_keeps_the_apps(vary: list[bytes], after: list[bytes]) -> None:
    headers = [(b"VaRy", value) for value in vary]
    assert values(with_effects(headers, NO_EFFECTS, COOKIE), b"vary") == after


def test_vary_names_each_header_that_tells_users_apart() -> None:
    both = vary_on([b"Cookie", b"Authorization"])
    assert values(with_effects([], NO_EFFECTS, both), b"vary") == [b"Cookie", b"Authorization"]
    assert values(with_effects([(b"vary", b"authorization")], NO_EFFECTS, both), b"vary") == [
        b"authorization",
        b"Cookie",
    ]
    assert values(with_effects([(b"vary", b"*")], NO_EFFECTS, both), b"vary") == [b"*"]


def test_headers_of_the_plug_stand_beside_the_apps() -> None:
    effects = Effects(headers=(("Powauth-Token", "pow_x"),))
    assert with_effects([(b"x-other", b"1")], effects, vary_on([])) == [
        (b"x-other", b"1"),
        (b"Powauth-Token", b"pow_x"),
    ]


@pytest.mark.parametrize(
    ("control", "after"),
    [
        ([], [b"no-store"]),
        ([b"public, max-age=600"], [b"no-store"]),
        ([b"private"], [b"no-store"]),
        ([b"no-cache"], [b"no-store"]),
        ([b"max-age=0", b"public"], [b"no-store"]),
        ([b"no-store-at-all"], [b"no-store"]),
        ([b"no-store"], [b"no-store"]),
        ([b"private, No-Store, max-age=0"], [b"private, No-Store, max-age=0"]),
        ([b"no-cache", b"no-store"], [b"no-cache", b"no-store"]),
        ([b"public, no-store"], [b"no-store"]),
        ([b"no-store", b"Public"], [b"no-store"]),
    ],
)
def test_no_store_replaces_what_is_weaker(control: list[bytes], after: list[bytes]) -> None:
    headers = [(b"Cache-CONTROL", value) for value in control]
    assert values(with_effects(headers, NO_STORE, COOKIE), b"cache-control") == after


@pytest.mark.parametrize("name", [b"CDN-Cache-Control", b"surrogate-control", b"Some-CDN-Cache-Control"])
def test_no_store_holds_for_shared_caches_with_a_header_of_their_own(name: bytes) -> None:
    headers: Headers = [(name, b"max-age=600"), (b"cache-control", b"no-store")]
    assert with_effects(headers, NO_STORE, COOKIE) == [(b"vary", b"Cookie"), (b"cache-control", b"no-store")]
    assert headers[0] in with_effects(headers, NO_EFFECTS, COOKIE)


def test_without_effects_the_apps_cache_control_stands() -> None:
    headers: Headers = [(b"cache-control", b"public, max-age=600")]
    assert with_effects(headers, NO_EFFECTS, COOKIE) == [*headers, (b"vary", b"Cookie")]


def test_a_cookie_stands_beside_the_apps_cookies() -> None:
    headers: Headers = [(b"Set-Cookie", b"a=b")]
    assert values(with_effects(headers, Effects(("c=d", "e=f"), no_store=True), COOKIE), b"set-cookie") == [
        b"a=b",
        b"c=d",
        b"e=f",
    ]


names = st.sampled_from([b"Vary", b"cache-control", b"Set-Cookie", b"x-other", b"CDN-Cache-Control"])
texts = st.one_of(st.sampled_from([b"no-store", b"*", b"Cookie, public", b"a=b"]), st.binary(max_size=12))


@hurried
@given(st.lists(st.tuples(names, texts), max_size=8), st.booleans(), st.sampled_from([None, "a=b"]))
def test_any_headers_of_an_app(headers: Headers, no_store: bool, cookie: str | None) -> None:
    before = list(headers)
    effects = Effects(() if cookie is None else (cookie,), no_store=no_store)
    after = with_effects(headers, effects, COOKIE)
    assert headers == before
    assert sorted(with_effects(after, Effects(no_store=no_store), COOKIE)) == sorted(after)
    kept = [header for header in before if not (no_store and header[0].lower().endswith(b"cache-control"))]
    assert after[: len(kept)] == kept
    assert len(values(after, b"set-cookie")) == len(values(before, b"set-cookie")) + (cookie is not None)
    if no_store:
        directives = [part.strip().lower() for value in values(after, b"cache-control") for part in value.split(b",")]
        assert b"no-store" in directives
        assert b"public" not in directives


@hurried
@given(st.lists(st.tuples(st.sampled_from(["Vary", "Location", "Cache-Control"]), st.text()), max_size=4))
def test_any_texts_of_an_app_stay_unchanged(headers: list[tuple[str, str]]) -> None:
    for effects in (NO_EFFECTS, Effects(("a=b",))):
        assert amended(headers, effects, COOKIE)[: len(headers)] == headers


@pytest.mark.parametrize("text", ["/日本", "/é", "/\U0001f989", "/\ud83d", "/\udc80\xff"])
def test_a_text_outside_latin_1_stays_beside_a_cookie(text: str) -> None:
    found = amended([("Location", text)], Effects(("a=b",), no_store=True), COOKIE)
    assert found[0] == ("Location", text)
    assert ("set-cookie", "a=b") in found


class Bare(Connection):
    """A connection that overrides no more than it must."""

    states: States

    def method(self) -> str:
        return "GET"

    def target(self) -> str:
        return "/"

    def cookies(self) -> str:
        return ""

    def header(self, name: str) -> str | None:
        return None

    def client_ip(self) -> str | None:
        return None


def test_a_connection_keeps_what_is_assigned_and_has_no_session_of_a_framework() -> None:
    connection = Bare()
    connection.states = {}
    assert connection.assigned("current_user") is MISSING
    connection.assign("current_user", None)
    assert connection.assigned("current_user") is None
    assert connection.session() is None
    assert not connection.renew_session()
    assert connection.prefix() == ""
