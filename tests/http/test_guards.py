"""Guards, and what is answered to programs and to people, over ASGI, WSGI and Flask."""

from collections.abc import Callable
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import flask
import pytest

from harness.core_support import KINDS, Site
from harness.support import SECRET, Browser, FakeConnection, Kind, Me, MemoryUsers, User
from powauth import ConfigError, NotSignedIn, SessionAuth, StoreUnavailable
from powauth.backends.base import drive
from powauth.backends.memory import MemoryBackend
from powauth.errors import AlreadySignedIn, NotFresh
from powauth.http.answers import Answer, Answers, see_other
from powauth.http.guards import require_fresh, require_no_user, require_user
from powauth.http.own_path import MAX_OWN_PATH_CHARS, own_path
from powauth.integrations import asgi, wsgi
from powauth.integrations.flask import (
    PowAuth,
    current_user,
    fresh_login_required,
    login_required,
    request_auth,
    signed_out_required,
)
from powauth.request_auth import RequestAuth

PAGE: dict[str, Any] = {"accept": "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8"}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> Kind:
    found: Kind = request.param
    return found


def guarded_app(kind: Kind, auth: SessionAuth[User, Me], **options: Any) -> Any:
    """``/user``, ``/nobody`` and ``/fresh`` ask the guard of that name; anything else signs the one user in or out."""

    def answer(path: str, bound: Any) -> str:
        if path.endswith("/nobody"):
            require_no_user(bound)
            return "nobody"
        user = require_user(bound) if path.endswith("/user") else require_fresh(bound, timedelta(minutes=5))
        return str(user.email)

    if kind == "asgi":

        async def asgi_app(scope: Any, receive: Any, send: Any) -> None:
            text = answer(scope["path"], asgi.request_auth(scope, auth.current_user_key))
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": text.encode()})

        return asgi.SessionAuthMiddleware(asgi_app, auth, **options)

    def wsgi_app(environ: Any, start_response: Any) -> list[bytes]:
        text = answer(environ["PATH_INFO"], wsgi.request_auth(environ, auth.current_user_key))
        start_response("200 OK", [])
        return [text.encode()]

    return wsgi.SessionAuthMiddleware(wsgi_app, auth, **options)


class Guarded:
    """A site before an app of guards; ``visitor`` is nobody, ``user`` has just signed in."""

    def __init__(self, kind: Kind, **options: Any) -> None:
        self.site = Site(MemoryBackend(), kind)
        self.app = guarded_app(kind, self.site.auth, **options)
        self.visitor = Browser(self.app, kind)
        self.user = Browser(self.app, kind, self.site.signed_in().jar)


# --- guards ---------------------------------------------------------------------------------------------------------


def test_programs_are_told_why_not(kind: Kind) -> None:
    guarded = Guarded(kind)
    refused = guarded.visitor.get("/user")
    assert (refused.status, refused.json()) == (401, {"error": "not_signed_in"})
    assert guarded.visitor.get("/fresh").json() == {"error": "not_signed_in"}
    assert guarded.visitor.get("/nobody").status == 200
    assert guarded.user.get("/user").body == b"ada@example.org"
    assert guarded.user.get("/fresh").body == b"ada@example.org"
    refused = guarded.user.get("/nobody")
    assert (refused.status, refused.json()) == (403, {"error": "already_signed_in"})
    assert refused.header("cache-control") == "no-store"


def test_a_sign_in_is_fresh_for_as_long_as_the_guard_says_and_no_use_makes_it_fresh_again(kind: Kind) -> None:
    guarded = Guarded(kind)
    guarded.site.clock.advance(300)
    assert guarded.user.get("/fresh").status == 200
    guarded.site.clock.advance(0.001)
    refused = guarded.user.get("/fresh")
    assert (refused.status, refused.json()) == (403, {"error": "fresh_sign_in_required"})
    guarded.site.clock.advance(900)
    assert len(guarded.user.get("/user").set_cookies) == 1, "renewed"
    assert guarded.user.get("/fresh").status == 403
    again = Browser(guarded.site.app, kind, guarded.user.jar)
    again.get("/login")
    assert guarded.user.get("/fresh").status == 200


def test_a_session_of_an_old_cookie_is_not_fresh_until_the_user_signs_in_again(kind: Kind) -> None:
    guarded = Guarded(kind)
    auth, user = guarded.site.auth, guarded.site.user
    moved = FakeConnection()
    drive(RequestAuth(auth, moved).sign_in_user(user, fresh=False))
    assert not RequestAuth(auth, moved).is_fresh(timedelta(days=400))
    with pytest.raises(NotFresh):
        require_fresh(RequestAuth(auth, moved), timedelta(days=400))
    drive(RequestAuth(auth, moved).sign_in_user(user))
    assert RequestAuth(auth, moved).is_fresh(timedelta(seconds=1))


def test_a_time_in_the_future_is_fresh_only_within_the_tolerance_of_clocks(kind: Kind) -> None:
    guarded = Guarded(kind)
    guarded.site.clock.advance(-299)
    assert guarded.user.get("/fresh").status == 200
    guarded.site.clock.advance(-2)
    assert guarded.user.get("/fresh").status == 401, "a record from the future is nobody's"


def test_an_outage_is_neither_signed_in_nor_signed_out(kind: Kind) -> None:
    guarded = Guarded(kind, sign_in_path="/login")
    guarded.site.backend.fail["*"] = StoreUnavailable("down")
    for path in ("/user", "/nobody", "/fresh"):
        refused = guarded.user.get(path, **PAGE)
        assert (refused.status, refused.set_cookies) == (503, [])


def test_guards_name_the_authenticator_that_refused() -> None:
    users = MemoryUsers()
    ada = users.add("ada@example.org")
    auth = SessionAuth(secret_key=SECRET, users=users, backend="memory://", current_user_key="current_admin")
    bound = RequestAuth(auth, FakeConnection())
    guards: list[tuple[Callable[[RequestAuth[User, Me]], object], type[Any]]] = [
        (require_user, NotSignedIn),
        (require_fresh, NotSignedIn),
    ]
    for guard, error in guards:
        with pytest.raises(error) as caught:
            guard(bound)
        assert caught.value.current_user_key == "current_admin"
    drive(bound.sign_in_user(ada))
    with pytest.raises(AlreadySignedIn) as already:
        require_no_user(bound)
    assert already.value.current_user_key == "current_admin"


def test_a_user_whom_no_session_remembers_is_not_fresh() -> None:
    users = MemoryUsers()
    auth = SessionAuth(secret_key=SECRET, users=users, backend="memory://")
    connection = FakeConnection()
    connection.assign("current_user", users.add("ada@example.org"))
    bound = RequestAuth(auth, connection)
    assert require_user(bound).email == "ada@example.org"
    with pytest.raises(NotFresh):
        require_fresh(bound)


@pytest.mark.parametrize("within", [0, -1, float("nan"), "5 minutes", True])
def test_a_time_that_is_none_is_refused(within: Any) -> None:
    users = MemoryUsers()
    bound = RequestAuth(SessionAuth(secret_key=SECRET, users=users, backend="memory://"), FakeConnection())
    drive(bound.sign_in_user(users.add("ada@example.org")))
    with pytest.raises(ConfigError, match="within"):
        require_fresh(bound, within)
    with pytest.raises(ConfigError, match="within"):
        fresh_login_required(within=within)


# --- answers --------------------------------------------------------------------------------------------------------


def next_of(location: str | None) -> str | None:
    assert location is not None
    assert urlsplit(location).path == "/login"
    found = parse_qs(urlsplit(location).query).get("next")
    return None if found is None else found[0]


def test_people_are_sent_to_sign_in_and_back(kind: Kind) -> None:
    guarded = Guarded(kind, sign_in_path="/login")
    refused = guarded.visitor.get("/a b/user", **PAGE)
    assert (refused.status, refused.body) == (303, b"")
    assert next_of(refused.header("location")) == "/a%20b/user"
    assert refused.header("cache-control") == "no-store"
    guarded.site.clock.advance(301)
    assert next_of(guarded.user.get("/fresh", **PAGE).header("location")) == "/fresh"
    already = guarded.user.get("/nobody", **PAGE)
    assert (already.status, b"You are signed in already." in already.body) == (403, True)


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {"accept": "*/*"},
        {"accept": "application/json"},
        {"accept": "text/html;q=0, application/json"},
        {"accept": "text/html; q=0.0"},
        {**PAGE, "x_requested_with": "XMLHttpRequest"},
        {"accept": "application/x-text/html"},
    ],
    ids=str,
)
def test_programs_are_sent_nowhere(kind: Kind, headers: dict[str, Any]) -> None:
    refused = Guarded(kind, sign_in_path="/login").visitor.get("/user", **headers)
    assert (refused.status, refused.json()) == (401, {"error": "not_signed_in"})


def answer(method: str, target: str, sign_in_path: str = "/login", **headers: Any) -> Answer | None:
    class Asked(FakeConnection):
        def method(self) -> str:
            return method

        def target(self) -> str:
            return target

    refused = Answers(None, sign_in_path)(NotSignedIn("x"), Asked(accept="text/html", **headers))
    if refused is not None and refused.status == 303:
        assert refused.message == "This page is for people who are signed in."
        return refused._replace(message="")
    return refused


@pytest.mark.parametrize("method", ["PUT", "DELETE", "PATCH", "OPTIONS", "get", "TRACE"])
def test_only_what_a_redirect_can_repeat_is_redirected(method: str) -> None:
    refused = answer(method, "/account")
    assert refused is not None
    assert refused.status == 401
    for safe in ("GET", "HEAD"):
        redirected = answer(safe, "/account?tab=2")
        assert redirected == see_other("/login?next=/account%3Ftab%3D2")


@pytest.mark.parametrize(
    ("referer", "location"),
    [
        ("https://app.example/posts/3?page=2#end", "/login?next=/posts/3%3Fpage%3D2"),
        ("https://app.example/login?next=/x", "/login"),
        ("https://evil.example/posts/3", "/login"),
        ("https://app.example//evil.example", "/login"),
        ("https://app.example", "/login"),
        ("ftp://app.example/x", "/login"),
        ("nonsense", "/login"),
    ],
)
def test_a_form_leads_to_the_sign_in_page_and_back_to_the_page_with_the_form(referer: str, location: str) -> None:
    assert answer("POST", "/comment", referer=referer, host="app.example") == see_other(location)
    assert answer("POST", "/comment", host="app.example") == see_other("/login")


@pytest.mark.parametrize("target", ["//evil.example/user", "/\\evil.example", "/" + "x" * MAX_OWN_PATH_CHARS, "/a\nb"])
def test_a_path_that_a_browser_may_take_for_another_site_does_not_go_along(target: str) -> None:
    assert answer("GET", target) == see_other("/login")


def test_the_sign_in_page_is_not_sent_to_itself() -> None:
    for target in ("/login", "/login?next=/x"):
        refused = answer("GET", target)
        assert refused is not None
        assert refused.status == 401


@pytest.mark.parametrize(
    "path", ["login", "//login", "https://evil.example", "/log in", "/login?a=b", "/login#x", "", 7]
)
def test_a_sign_in_path_is_a_path(path: Any) -> None:
    with pytest.raises(ConfigError, match="sign_in_path"):
        Answers(None, path)
    with pytest.raises(ConfigError, match="on_error"):
        Answers("login")  # type: ignore[arg-type]


def test_an_app_answers_errors_itself(kind: Kind) -> None:
    asked = []

    def on_error(error: Exception, connection: Any) -> Answer | None:
        asked.append((type(error), connection.method(), connection.target()))
        return Answer(418, "I'm a teapot", [(b"x-why", b"tea")], b"no") if isinstance(error, NotSignedIn) else None

    guarded = Guarded(kind, on_error=on_error, sign_in_path="/login")
    refused = guarded.visitor.get("/user", **PAGE)
    assert (refused.status, refused.header("x-why"), refused.body) == (418, "tea", b"no")
    assert guarded.user.get("/nobody").json() == {"error": "already_signed_in"}
    assert asked == [(NotSignedIn, "GET", "/user"), (AlreadySignedIn, "GET", "/nobody")]


# --- own_path -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "value",
    [
        None,
        b"/x",
        "",
        "x",
        "?x",
        "//evil.example",
        "///evil.example",
        "/\\evil.example",
        "\\/evil.example",
        "/\t/evil.example",
        "/\n/evil.example",
        "/x\r\nSet-Cookie: a=b",
        " /x",
        "/x y",
        "/\x00",
        "/\x7f",
        "/\x85",
        "https://evil.example/",
        "javascript:alert(1)",
        "/\ud800",
        "/" + "x" * MAX_OWN_PATH_CHARS,
    ],
)
def test_what_is_no_path_of_this_origin(value: object) -> None:
    assert own_path(value) is None


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ("/", "/"),
        ("/a/b?c=d&e=%2F#f", "/a/b?c=d&e=%2F#f"),
        ("/@evil.example", "/@evil.example"),
        ("/a//b", "/a//b"),
        ("/caf\u00e9", "/caf%C3%A9"),
        ('/"><script>', "/%22%3E%3Cscript%3E"),
        ("/%09/evil.example", "/%09/evil.example"),
    ],
)
def test_what_is_a_path_fits_into_a_header(value: str, path: str) -> None:
    assert own_path(value) == path
    assert own_path(path) == path, "checked again wherever it is used"


# --- Flask ----------------------------------------------------------------------------------------------------------


class Shop:
    """A Flask app of guarded views."""

    def __init__(self, **options: Any) -> None:
        self.site = Site(MemoryBackend(), "wsgi")
        self.app = app = flask.Flask("shop")
        self.extension = extension = PowAuth(app, self.site.auth, **options)
        mails: dict[str, Callable[[], Any]] = {
            "user": login_required(lambda: current_user.email),
            "fresh": fresh_login_required(lambda: current_user.email),
            "fresher": fresh_login_required(within=timedelta(minutes=5))(lambda: current_user.email),
            "nobody": signed_out_required(lambda: "nobody"),
            "own/user": extension.login_required(lambda: extension.current_user.email),
            "own/fresh": extension.fresh_login_required(lambda: extension.current_user.email),
            "own/fresher": extension.fresh_login_required(within=timedelta(minutes=5))(
                lambda: extension.current_user.email
            ),
            "own/nobody": extension.signed_out_required(lambda: "nobody"),
            "mistake": self.mistake,
        }
        for path, view in mails.items():
            app.add_url_rule(f"/{path}", path, view)

        @app.post("/login")
        def login() -> str:
            params = {"email": self.site.user.email, "password": "correct horse"}
            user = request_auth().sign_in(params)
            assert user is not None
            assert extension.request_auth().current_user == user
            return str(user.email)

    @staticmethod
    def mistake() -> Any:
        raise ConfigError("odd")

    def client(self) -> Any:
        return self.app.test_client()


@pytest.mark.parametrize("own", ["", "own/"], ids=["the module's", "the extension's"])
def test_flasks_decorators(own: str) -> None:
    shop = Shop()
    client = shop.client()
    assert client.get(f"/{own}nobody").text == "nobody"
    assert (client.get(f"/{own}user").status_code, client.get(f"/{own}fresh").status_code) == (401, 401)
    client.post("/login")
    assert [client.get(f"/{own}{path}").text for path in ("user", "fresh", "fresher")] == [shop.site.user.email] * 3
    refused = client.get(f"/{own}nobody")
    assert (refused.status_code, refused.json) == (403, {"error": "already_signed_in"})
    shop.site.clock.advance(600)
    assert client.get(f"/{own}fresh").status_code == 200
    assert client.get(f"/{own}fresher").json == {"error": "fresh_sign_in_required"}


def test_flask_sends_people_to_sign_in() -> None:
    client = Shop(sign_in_path="/login").client()
    assert client.get("/user?a=b", headers=PAGE).headers["Location"] == "/login?next=/user%3Fa%3Db"
    assert client.get("/user").status_code == 401


def test_flask_under_a_prefix_comes_back_to_it() -> None:
    client = Shop(sign_in_path="/shop/login").client()
    refused = client.get("/user", headers=PAGE, environ_overrides={"SCRIPT_NAME": "/shop"})
    assert refused.headers["Location"] == "/shop/login?next=/shop/user"


def test_flasks_own_handler_comes_first() -> None:
    shop = Shop(sign_in_path="/login")

    @shop.app.errorhandler(NotSignedIn)
    def refused(error: NotSignedIn) -> Any:
        return "who are you?", 401

    assert shop.client().get("/user", headers=PAGE).text == "who are you?"


def test_a_mistake_is_no_refusal() -> None:
    assert Shop(sign_in_path="/login").client().get("/mistake", headers=PAGE).status_code == 500


def test_an_asgi_target_without_a_raw_path() -> None:
    connection = asgi.ASGIConnection({"type": "http", "path": "/caf\u00e9 x", "query_string": b"a=b", "headers": []})
    assert connection.target() == "/caf%C3%A9%20x?a=b"
    assert connection.method() == "GET"
    raw = asgi.ASGIConnection({"type": "http", "path": "/a/b", "raw_path": b"/a%2Fb", "headers": [], "method": "PUT"})
    assert (raw.target(), raw.method()) == ("/a%2Fb", "PUT")
    raw = asgi.ASGIConnection(
        {"type": "http", "path": "/a", "raw_path": b"/a?b=c", "query_string": b"b=c", "headers": []}
    )
    assert raw.target() == "/a?b=c"
    environ = {"REQUEST_METHOD": "PUT", "PATH_INFO": "/caf\u00c3\u00a9", "QUERY_STRING": "a=b", "SCRIPT_NAME": "/x"}
    assert wsgi.WSGIConnection(environ).target() == "/x/caf%C3%A9?a=b"
    assert wsgi.WSGIConnection(environ).method() == "PUT"
