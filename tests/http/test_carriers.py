"""How the id travels: what is read from a request, and what is written."""

import warnings
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.core_support import hurried
from harness.support import FakeConnection
from powauth.errors import ConfigError, ConfigWarning
from powauth.http.carriers import (
    AnyOf,
    BearerCarrier,
    Carrier,
    CookieCarrier,
    FrameworkSessionCarrier,
    SeveralIds,
    each_of,
)
from powauth.http.connection import Effects

NAME = "__Host-auth"


def the_carrier(**options: Any) -> CookieCarrier:
    return CookieCarrier(**options).named("auth")


def read(*headers: str) -> str | None:
    return the_carrier().read(FakeConnection(list(headers)))


@pytest.mark.parametrize(
    ("headers", "value"),
    [
        ((), None),
        (("",), None),
        (("other=x",), None),
        ((f"{NAME}=x",), "x"),
        ((f"{NAME}=",), ""),
        ((f" \t{NAME} \t= \tx \t",), "x"),
        ((f"a=b;{NAME}=x;c=d",), "x"),
        (("a=b", f"{NAME}=x"), "x"),
        ((f"{NAME}=x; {NAME}=x", f"{NAME}=x"), "x"),
        ((f"{NAME}=a=b=c",), "a=b=c"),
        ((f'{NAME}="x"',), '"x"'),
        ((f"{NAME}=%41",), "%41"),
        ((f"{NAME}=x,y=z",), "x,y=z"),
        ((NAME,), None),
        ((f"={NAME}=x",), None),
        ((f"a={NAME}=x",), None),
        ((f"{NAME}[]=x; {NAME}.=x; x{NAME}=x; {NAME.lower()}=x; {NAME.upper()}=x; auth=x",), None),
        ((f"\xa0{NAME}=x; \x0b{NAME}=x; \x1c{NAME}=x; \x85{NAME}=x; \n{NAME}=x",), None),
    ],
)
def test_the_cookie_is_read_by_its_exact_name(headers: tuple[str, ...], value: str | None) -> None:
    assert read(*headers) == value


@pytest.mark.parametrize("headers", [(f"{NAME}=a; {NAME}=b",), (f"{NAME}=b", f"{NAME}=a"), (f"{NAME}=; {NAME}=a",)])
def test_several_values_that_differ_are_a_conflict(headers: tuple[str, ...]) -> None:
    with pytest.raises(SeveralIds):
        read(*headers)


@hurried
@given(st.lists(st.binary(max_size=80), max_size=4))
def test_no_cookie_header_makes_reading_fail(headers: list[bytes]) -> None:
    read(*(header.decode("latin-1") for header in headers))


neighbours = st.lists(st.text(st.characters(exclude_characters=";")).filter(lambda text: NAME not in text), max_size=6)


@hurried
@given(neighbours, neighbours)
def test_no_neighbour_hides_the_cookie(before: list[str], after: list[str]) -> None:
    assert read(";".join([*before, f"{NAME}=x", *after])) == "x"


def read_pair_by_pair(headers: list[str]) -> set[str]:
    """What the rule says, without a thought for speed: the different values of all cookies of that very name."""
    pairs = [pair.partition("=") for header in headers for pair in header.split(";")]
    return {value.strip(" \t") for name, equals, value in pairs if equals and name.strip(" \t") == NAME}


pieces = st.sampled_from([NAME, "=", ";", "; ", " ", "\t", "a", "b", f"{NAME}=a", f"; {NAME}=b", ",", "\xa0"])


@hurried
@given(st.lists(st.lists(pieces, max_size=8).map("".join), max_size=3))
def test_cke_06_what_is_read_fast_is_what_is_read_pair_by_pair(headers: list[str]) -> None:
    values = read_pair_by_pair(headers)
    if len(values) > 1:
        with pytest.raises(SeveralIds):
            read(*headers)
    else:
        assert read(*headers) == (values.pop() if values else None)


@pytest.mark.filterwarnings("ignore:same_site='None'")
@pytest.mark.parametrize(
    ("options", "cookie"),
    [
        ({}, "__Host-auth=x; Path=/; Secure; HttpOnly; SameSite=Lax"),
        ({"same_site": "Strict"}, "__Host-auth=x; Path=/; Secure; HttpOnly; SameSite=Strict"),
        ({"same_site": "None"}, "__Host-auth=x; Path=/; Secure; HttpOnly; SameSite=None"),
        (
            {"domain": "example.org"},
            "__Secure-auth=x; Path=/; Domain=example.org; Secure; HttpOnly; SameSite=Lax",
        ),
        ({"path": "/app"}, "__Secure-auth=x; Path=/app; Secure; HttpOnly; SameSite=Lax"),
        (
            {"same_site": "None", "partitioned": True},
            "__Host-auth=x; Path=/; Secure; HttpOnly; SameSite=None; Partitioned",
        ),
    ],
)
def test_what_is_written(options: dict[str, Any], cookie: str) -> None:
    assert the_carrier(**options).write(FakeConnection(), "x") == Effects((cookie,), no_store=True)


def test_rep_51_a_cookie_that_other_sites_send_warns_and_says_what_to_do() -> None:
    with pytest.warns(ConfigWarning, match="require_same_origin.*same_site='Lax'") as caught:
        CookieCarrier(same_site="None", domain="example.org")
    assert [Path(warning.filename).name for warning in caught] == [Path(__file__).name]


def test_clearing_names_the_cookie_as_writing_did() -> None:
    for options in ({}, {"domain": "example.org", "path": "/app"}):
        carrier = the_carrier(**options)
        (written,) = carrier.write(FakeConnection(), "").cookies
        (cleared,) = carrier.clear(FakeConnection()).cookies
        assert cleared == f"{written}; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT"


def test_plain_http_must_be_asked_for_and_warns() -> None:
    with pytest.warns(ConfigWarning, match="in clear"):
        carrier = the_carrier(insecure_http=True)
    assert carrier.write(FakeConnection(), "x").cookies == ("auth=x; Path=/; HttpOnly; SameSite=Lax",)
    assert carrier.read(FakeConnection([f"{NAME}=y; auth=x"])) == "x"
    assert read("auth=x") is None


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"same_site": "lax"}, "same_site"),
        ({"same_site": None}, "same_site"),
        ({"same_site": "Lax; Domain=evil.example"}, "same_site"),
        ({"same_site": "None", "insecure_http": True}, "needs Secure"),
        ({"partitioned": True}, "partitioned"),
        ({"domain": ""}, "domain"),
        ({"domain": ".example.org"}, "domain"),
        ({"domain": "example.org; Path=/x"}, "domain"),
        ({"domain": "example.org\n"}, "domain"),
        ({"domain": "exämple.org"}, "domain"),
        ({"domain": "a" * 254}, "domain"),
        ({"domain": 5}, "domain"),
        ({"domain": b"example.org"}, "domain"),
        ({"path": ""}, "path"),
        ({"path": "app"}, "path"),
        ({"path": "/a;b"}, "path"),
        ({"path": "/a\r\nSet-Cookie: a=b"}, "path"),
        ({"path": "/\n"}, "path"),
        ({"path": "/" + "a" * 256}, "path"),
        ({"path": None}, "path"),
    ],
)
def test_a_wrong_option_is_refused(options: dict[str, Any], message: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(ConfigError, match=message):
            CookieCarrier(**options)


@pytest.mark.parametrize("carrier", [CookieCarrier(), FrameworkSessionCarrier()])
@pytest.mark.parametrize(
    "name", ["", "a b", "a;b", "a=b", "a\n", "ä", "a.b", "a" * 65, "__Host-a", "__secure-a", 5, None, b"a"]
)
def test_a_wrong_name_is_refused(carrier: Carrier, name: Any) -> None:
    with pytest.raises(ConfigError, match="session_key"):
        carrier.named(name)


def test_naming_a_carrier_leaves_the_other_as_it_was() -> None:
    plain = CookieCarrier()
    one, two = plain.named("one"), plain.named("two")
    assert (one.name, two.name) == ("__Host-one", "__Host-two")
    assert not hasattr(plain, "name")


def test_a_cookie_keeps_nothing_beside_the_id() -> None:
    the_carrier().forget(FakeConnection())


def in_framework(**content: Any) -> tuple[FrameworkSessionCarrier, FakeConnection]:
    connection = FakeConnection()
    connection.framework_session = dict(content)
    return FrameworkSessionCarrier().named("auth"), connection


def test_the_frameworks_session_carries_the_id() -> None:
    carrier, connection = in_framework(cart="3 apples")
    assert carrier.read(connection) is None
    assert carrier.write(connection, "x") == Effects(no_store=True)
    assert connection.framework_session == {"cart": "3 apples", "auth": "x"}
    assert carrier.read(connection) == "x"
    assert carrier.clear(connection) == Effects(no_store=True)
    assert carrier.clear(connection) == Effects(no_store=True)
    assert connection.framework_session == {"cart": "3 apples"}


@pytest.mark.parametrize("value", [None, 5, b"x", ["x"], {"x": "y"}])
def test_what_is_no_text_in_the_frameworks_session_is_no_id(value: object) -> None:
    carrier, connection = in_framework(auth=value)
    assert carrier.read(connection) is None


def test_forgetting_empties_the_frameworks_session() -> None:
    carrier, connection = in_framework(auth="x", cart="3 apples")
    carrier.forget(connection)
    assert connection.framework_session == {}


def test_without_its_middleware_the_framework_has_no_session() -> None:
    carrier = FrameworkSessionCarrier().named("auth")
    for use in (carrier.read, carrier.clear, carrier.forget, lambda connection: carrier.write(connection, "x")):
        with pytest.raises(ConfigError, match="session middleware"):
            use(FakeConnection())


@pytest.mark.parametrize(
    ("kept", "left"),
    [
        ({"cart": "3 apples"}, {"cart": "3 apples"}),
        ({"cart": "3 apples", "auth.user": "ada"}, {"cart": "3 apples"}),
        ({"cart": "3 apples", "auth.user": "grace"}, {}),
        ({"cart": "3 apples", "auth.user": 7, "auth": "x"}, {}),
    ],
    ids=["nobody", "the same user", "another user", "what powauth did not write"],
)
def test_rep_40_rep_41_a_sign_in_renews_the_frameworks_session(kept: dict[str, Any], left: dict[str, Any]) -> None:
    carrier, connection = in_framework(**kept)
    renewed: list[bool] = []
    connection.renew_session = lambda: renewed.append(True) or True  # type: ignore[method-assign,func-returns-value]
    carrier.prepare(connection, "ada")
    assert renewed == [True]
    assert connection.framework_session == {**left, "auth.user": "ada"}


def test_rep_40_a_session_whose_id_cannot_be_renewed_is_refused() -> None:
    carrier, connection = in_framework()
    connection.renew_session = lambda: False  # type: ignore[method-assign]
    with pytest.raises(ConfigError, match="session fixation"):
        carrier.prepare(connection, "ada")


def test_an_app_says_that_the_session_is_whole_in_the_cookie() -> None:
    _, connection = in_framework()
    connection.renew_session = lambda: False  # type: ignore[method-assign]
    FrameworkSessionCarrier(client_side=True).named("auth").prepare(connection, "ada")
    assert connection.framework_session == {"auth.user": "ada"}
    with pytest.raises(ConfigError, match="client_side"):
        FrameworkSessionCarrier(client_side="yes")  # type: ignore[arg-type]


# --- bearer tokens ------------------------------------------------------------------------------------------------


def bearer(value: str | None) -> FakeConnection:
    return FakeConnection() if value is None else FakeConnection(authorization=value)


@pytest.mark.parametrize(
    ("field", "found"),
    [
        (None, None),
        ("", None),
        ("Bearer pow_abc", "abc"),
        ("bearer pow_abc", "abc"),
        ("BEARER   pow_abc ", "abc"),
        ("Bearer pow_", ""),
        ("Bearer abc", None),
        ("Bearer POW_abc", None),
        ("Basic pow_abc", None),
        ("pow_abc", None),
        ("Bearerpow_abc", None),
        ("Bearer\tpow_abc", None),
    ],
)
def test_a_bearer_token_is_read_of_the_authorization_header_alone(field: str | None, found: str | None) -> None:
    assert BearerCarrier().named("auth").read(bearer(field)) == found


@pytest.mark.parametrize(
    ("field", "found"),
    [
        ("Token pow_abc", "abc"),
        ("token  pow_abc", "abc"),
        ("Bearer pow_abc", None),
        ("Token abc", None),
        ("Tokenpow_abc", None),
    ],
)
def test_a_token_of_another_scheme_is_read_under_that_scheme_alone(field: str, found: str | None) -> None:
    assert BearerCarrier(scheme="Token").named("auth").read(bearer(field)) == found


def test_a_renewed_token_is_sent_in_a_header_that_scripts_of_other_origins_may_read() -> None:
    carrier = BearerCarrier().named("auth")
    exposed = ("Access-Control-Expose-Headers", "Powauth-Token")
    assert carrier.write(bearer(None), "abc").headers == (("Powauth-Token", "pow_abc"), exposed)
    assert carrier.clear(bearer(None)).headers == (("Powauth-Token", ""), exposed)
    assert carrier.write(bearer(None), "abc").cookies == ()
    assert carrier.write(bearer(None), "abc").no_store


@pytest.mark.parametrize(
    "options",
    [
        {"header": "a b"},
        {"header": ""},
        {"prefix": ""},
        {"prefix": "pow"},
        {"prefix": "a\n_"},
        {"scheme": ""},
        {"scheme": "Token "},
        {"scheme": "To ken"},
        {"scheme": 7},
    ],
)
def test_a_wrong_option_of_a_bearer_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        BearerCarrier(**options)


def test_any_of_names_both_carriers_and_varies_by_the_headers_of_both() -> None:
    carrier = AnyOf(CookieCarrier(), BearerCarrier()).named("auth")
    assert each_of(carrier) == (carrier.browser, carrier.bearer)
    assert carrier.vary == (b"Cookie", b"Authorization")
    assert carrier.name == NAME


@pytest.mark.parametrize(
    "carriers",
    [
        (),
        (CookieCarrier(),),
        (BearerCarrier(),),
        (CookieCarrier(), CookieCarrier()),
        (BearerCarrier(), BearerCarrier()),
    ],
)
def test_any_of_takes_one_for_browsers_and_one_bearer(carriers: tuple[Carrier, ...]) -> None:
    with pytest.raises(ConfigError, match="AnyOf"):
        AnyOf(*carriers)


@pytest.mark.parametrize(
    ("carrier", "origin", "lines"),
    [
        (CookieCarrier(), "http://app.example:8000", 1),
        (CookieCarrier(), "https://app.example:8000", 0),  # behind a proxy that ends TLS
        (CookieCarrier(), "http://other.example", 0),
    ],
)
def test_a_cookie_that_the_browser_drops_is_named_in_the_log_once(
    carrier: CookieCarrier, origin: str, lines: int, caplog: pytest.LogCaptureFixture
) -> None:
    for _ in range(3):
        carrier.named("auth").write(FakeConnection(host="app.example:8000", origin=origin), "an-id")
    assert [line.partition(" 'http")[0] for line in caplog.messages] == (
        ["sent a cookie that the browser drops to the page"] * lines
    )


@pytest.mark.parametrize("host", ["localhost:8000", "shop.localhost", "127.0.0.1:8000", "[::1]"])
def test_browsers_keep_a_secure_cookie_of_their_own_machine(host: str, caplog: pytest.LogCaptureFixture) -> None:
    CookieCarrier().named("auth").write(FakeConnection(host=host, origin=f"http://{host}"), "an-id")
    assert caplog.messages == []
