"""The Flask extension."""

from collections.abc import Callable, Coroutine
from typing import Any

import flask
import pytest
from flask.ctx import _AppCtxGlobals as AppGlobals  # the public name of its type is in no module

from harness.support import SECRET, Clock, CountingBackend, MemoryUsers
from powauth import ConfigError, CookieCarrier, FrameworkSessionCarrier, InvalidParams, SessionAuth, StoreUnavailable
from powauth.backends.base import drive
from powauth.backends.memory import MemoryBackend
from powauth.integrations import wsgi
from powauth.integrations.flask import PowAuth, current_user, login_required, request_auth

PARAMS = {"email": "ada@example.org", "password": "correct horse"}


class Shop:
    """A Flask app with one user, and its own secret for Flask's session."""

    def __init__(self, **options: Any) -> None:
        self.users = MemoryUsers()
        self.user = self.users.add(PARAMS["email"])
        self.backend = CountingBackend(MemoryBackend())
        self.clock = Clock()
        chosen: dict[str, Any] = {"secret_key": SECRET, "users": self.users, "backend": self.backend}
        self.auth = SessionAuth(**chosen | {"clock": self.clock} | options)
        self.app = app = flask.Flask("shop")
        app.secret_key = "a secret of flask's own, for its session"
        app.config["SESSION_COOKIE_SECURE"] = True
        PowAuth(app, self.auth)

        @app.post("/login")
        def login() -> Any:
            user = request_auth().sign_in(flask.request.get_json())
            return ({"email": user.email}, 200) if user else ({"error": "wrong"}, 403)

        @app.post("/logout")
        def logout() -> Any:
            request_auth().sign_out()
            return {}

        @app.get("/")
        def index() -> Any:
            return {"user": current_user.email if current_user else None}

        @app.get("/private")
        @login_required
        def private() -> Any:
            """Says who it is."""
            return {"user": flask.g.current_user.email, "environ": _environ_user().email}

        @app.get("/public")
        def public() -> Any:
            return {}

        @app.get("/template")
        def template() -> Any:
            return flask.render_template_string(
                "{% if user %}{{ user.email }}{% else %}nobody{% endif %}", user=current_user
            )

        @app.get("/broken")
        def broken() -> Any:
            raise ZeroDivisionError

        @app.get("/invalid")
        def invalid() -> Any:
            raise InvalidParams({"name": ["is odd"]})

    def client(self) -> Any:
        return self.app.test_client()

    def signed_in(self) -> Any:
        client = self.client()
        assert client.post("/login", json=PARAMS, base_url="https://shop.example").status_code == 200
        return client


def _environ_user() -> Any:
    return flask.request.environ["powauth.current_user"]


def get(client: Any, path: str = "/", **options: Any) -> Any:
    return client.get(path, base_url="https://shop.example", **options)


def post(client: Any, path: str, **options: Any) -> Any:
    return client.post(path, base_url="https://shop.example", **options)


@pytest.fixture(params=[CookieCarrier, FrameworkSessionCarrier], ids=["own cookie", "flask's session"])
def shop(request: pytest.FixtureRequest) -> Shop:
    return Shop(carrier=request.param())


def test_a_user_signs_in_and_out(shop: Shop) -> None:
    client = shop.client()
    assert get(client).json == {"user": None}
    refused = get(client, "/private")
    assert (refused.status_code, refused.json) == (401, {"error": "not_signed_in"})
    wrong = post(client, "/login", json=PARAMS | {"password": "wrong"})
    assert (wrong.status_code, wrong.headers.getlist("Set-Cookie")) == (403, [])
    signed_in = post(client, "/login", json=PARAMS)
    assert (signed_in.json, len(signed_in.headers.getlist("Set-Cookie"))) == ({"email": shop.user.email}, 1)
    assert signed_in.headers["Cache-Control"] == "no-store"
    assert get(client, "/private").json == {"user": shop.user.email, "environ": shop.user.email}
    assert get(client, "/template").text == shop.user.email
    post(client, "/logout")
    assert get(client).json == {"user": None}
    assert get(client, "/template").text == "nobody"
    assert drive(shop.auth.store.count(shop.auth.now())) == 0


def test_an_id_is_renewed_at_the_response(shop: Shop) -> None:
    client = shop.signed_in()
    quiet = get(client)
    assert quiet.headers.getlist("Set-Cookie") == []
    assert quiet.headers["Vary"] == "Cookie"
    shop.clock.advance(900)
    renewed = get(client)
    assert len(renewed.headers.getlist("Set-Cookie")) == 1
    (stored,) = drive(shop.auth.store.sessions(shop.user.id, shop.auth.now()))
    assert stored.session.generation == 1
    assert get(client).json == {"user": shop.user.email}


def test_a_view_that_raised_renews_nothing(shop: Shop) -> None:
    client = shop.signed_in()
    shop.clock.advance(900)
    with shop.backend.counting() as verbs:
        failed = get(client, "/broken")
    assert (failed.status_code, failed.headers.getlist("Set-Cookie"), verbs) == (500, [], ["get"])
    assert len(get(client).headers.getlist("Set-Cookie")) == 1


def test_powauths_errors_are_answered(shop: Shop) -> None:
    invalid = get(shop.client(), "/invalid")
    assert (invalid.status_code, invalid.json) == (422, {"errors": {"name": ["is odd"]}})


def test_an_outage_is_503_where_the_user_is_asked_for(shop: Shop) -> None:
    client = shop.signed_in()
    shop.backend.fail["*"] = StoreUnavailable("down")
    for path in ("/", "/private", "/template"):
        response = get(client, path)
        assert (response.status_code, response.json) == (503, {"error": "store_unavailable"})
        assert response.headers["Retry-After"] == "5"
        assert response.headers.getlist("Set-Cookie") == []
    assert get(client, "/public").status_code == 200
    assert post(client, "/logout").status_code == 503
    shop.backend.fail.clear()


READS_OF_G: dict[str, Callable[[], object]] = {
    "is None": lambda: flask.g.current_user is None,
    "is not None": lambda: flask.g.current_user is not None,
    "get": lambda: flask.g.get("current_user") is None,
    "getattr with a default": lambda: getattr(flask.g, "current_user", None) is None,
    "hasattr": lambda: hasattr(flask.g, "current_user"),
    "in": lambda: "current_user" in flask.g,
    "pop": lambda: flask.g.pop("current_user", None),
    "setdefault": lambda: flask.g.setdefault("current_user", None),
    "the truth": lambda: not flask.g.current_user,
    "a template": lambda: flask.render_template_string("{% if g.current_user is none %}public{% else %}in{% endif %}"),
}


@pytest.mark.parametrize("outside", [False, True], ids=["alone", "in a middleware"])
def test_in_an_outage_no_way_to_read_the_user_in_g_answers(outside: bool) -> None:
    """`is None` calls no method of the user, so a placeholder there would let anybody take the branch of a user."""
    shop = Shop()
    shop.app.add_url_rule("/read/<name>", "read", lambda name: {"read": str(READS_OF_G[name]())})
    client = shop.signed_in()
    assert {get(client, f"/read/{name}").status_code for name in READS_OF_G} == {200}
    if outside:
        shop.app.wsgi_app = wsgi.SessionAuthMiddleware(shop.app.wsgi_app, shop.auth)  # type: ignore[method-assign]
    shop.backend.fail["*"] = StoreUnavailable("down")
    for name in READS_OF_G:
        response = get(client, f"/read/{name}")
        assert (response.status_code, response.json) == (503, {"error": "store_unavailable"}), name


class GlobalsOfTheApp(AppGlobals):
    """A `g` with more than attributes."""

    def double(self) -> int:
        return 2 * int(self.number)


def test_in_an_outage_everything_else_in_g_is_as_before(shop: Shop) -> None:
    shop.app.app_ctx_globals_class = GlobalsOfTheApp
    seen: list[object] = []

    @shop.app.before_request
    def before() -> None:
        outside = flask.g
        outside.number = 3

    @shop.app.get("/others")
    def others() -> Any:
        g = flask.g
        seen.extend([g.number, g.get("number"), g.double(), "number" in g, "missing" in g, g.get("missing", 1)])
        g.new = 5
        seen.extend([g.pop("new"), g.pop("new", None), g.setdefault("newer", 6), "newer" in [*g]])
        del g.newer
        with pytest.raises(AttributeError):
            g.missing  # noqa: B018
        with pytest.raises(KeyError):
            g.pop("missing")
        return {}

    client = shop.signed_in()
    for failures in ({}, {"*": StoreUnavailable("down")}):
        shop.backend.fail.update(failures)
        seen.clear()
        assert get(client, "/others").status_code == 200
        assert seen == [3, 3, 6, True, False, 1, 5, None, 6, True]


def test_after_an_outage_a_context_that_lasts_has_the_user_again(shop: Shop) -> None:
    """Flask serves requests inside an app context with the `g` of that context."""
    shop.app.add_url_rule("/read", "read", lambda: {"read": flask.g.current_user is None})
    client = shop.signed_in()
    with shop.app.app_context():
        seen = []
        for down in (False, True, True, False):
            shop.backend.fail.clear()
            if down:
                shop.backend.fail["*"] = StoreUnavailable("down")
            seen.append(get(client, "/read").status_code)
    assert seen == [200, 503, 503, 200]


def test_a_handler_of_the_apps_own_sees_powauths_errors() -> None:
    shop = Shop()

    @shop.app.errorhandler(StoreUnavailable)
    def away(error: StoreUnavailable) -> Any:
        return "back soon", 503

    client = shop.signed_in()
    shop.backend.fail["*"] = StoreUnavailable("down")
    assert get(client, "/private").text == "back soon"


def test_flasks_session_is_not_inherited_by_the_next_user() -> None:
    shop = Shop(carrier=FrameworkSessionCarrier())
    shop.users.add("grace@example.org")

    @shop.app.post("/cart")
    def cart() -> Any:
        flask.session["cart"] = "ada's"
        return {}

    @shop.app.get("/cart")
    def show() -> Any:
        return {"cart": flask.session.get("cart")}

    client = shop.signed_in()
    post(client, "/cart")
    assert get(client, "/cart").json == {"cart": "ada's"}
    post(client, "/login", json=PARAMS)
    assert get(client, "/cart").json == {"cart": "ada's"}
    post(client, "/login", json=PARAMS | {"email": "grace@example.org"})
    assert get(client, "/cart").json == {"cart": None}
    post(client, "/cart")
    post(client, "/logout")
    assert get(client, "/cart").json == {"cart": None}


def test_a_proxy_is_never_none_and_false_for_nobody() -> None:
    shop = Shop()
    with shop.app.test_request_context():
        shop.app.preprocess_request()
        assert current_user is not None
        assert not current_user
        assert request_auth().current_user is None


def test_init_app_comes_later() -> None:
    shop = Shop()
    app = flask.Flask("other")
    extension = PowAuth(auth=shop.auth)
    extension.init_app(app)
    app.add_url_rule("/", view_func=lambda: {"user": bool(current_user)})
    assert get(app.test_client()).json == {"user": False}


def test_a_second_extension_needs_its_own_key_and_shares_nothing() -> None:
    shop = Shop()
    with pytest.raises(ConfigError, match="already"):
        PowAuth(shop.app, shop.auth)
    app = flask.Flask("both")
    people = SessionAuth(secret_key=SECRET, users=shop.users, backend=shop.backend)
    admins = SessionAuth(
        secret_key=SECRET, users=shop.users, backend="memory://", session_key="admin", current_user_key="current_admin"
    )
    PowAuth(app, people)
    PowAuth(app, admins)

    @app.post("/admin")
    def sign_in() -> Any:
        return {"ok": request_auth("current_admin").sign_in(PARAMS) is not None}

    @app.get("/")
    def who() -> Any:
        return {"user": bool(current_user), "admin": flask.g.current_admin is not None}

    client = app.test_client()
    response = post(client, "/admin")
    assert [cookie.partition("=")[0] for cookie in response.headers.getlist("Set-Cookie")] == ["__Host-admin"]
    assert get(client).json == {"user": False, "admin": True}


def test_what_is_no_authenticator_is_refused() -> None:
    for auth in (None, object()):
        with pytest.raises(ConfigError, match="auth must be an Authenticator"):
            PowAuth(flask.Flask("app"), auth)  # type: ignore[call-overload]
    with pytest.raises(ConfigError, match="synchronous users"):
        PowAuth(auth=SessionAuth(secret_key=SECRET, users=MemoryUsers("async"), backend="memory://"))


def test_a_hook_that_answers_first_leaves_nothing_to_carry() -> None:
    app = flask.Flask("closed")
    app.before_request(lambda: ("closed for today", 200))
    shop = Shop()
    PowAuth(app, shop.auth)
    client = shop.client()
    client.set_cookie("__Host-auth", "x", domain="shop.example")
    assert get(app.test_client()).text == "closed for today"


def test_a_configuration_mistake_is_the_apps_own() -> None:
    shop = Shop()

    @shop.app.get("/mistake")
    def mistake() -> Any:
        raise ConfigError("odd")

    assert get(shop.client(), "/mistake").status_code == 500


def test_login_required_keeps_what_a_view_says_of_itself() -> None:
    shop = Shop()
    assert shop.app.view_functions["private"].__doc__ == "Says who it is."
    assert shop.app.view_functions["private"].__name__ == "private"


def test_login_required_guards_a_coroutine_too() -> None:
    class Driven(flask.Flask):
        def async_to_sync(self, func: Callable[..., Coroutine[Any, Any, Any]]) -> Callable[..., Any]:
            return lambda: drive(func())

    shop = Shop()
    app = Driven("coroutines")
    PowAuth(app, shop.auth)

    @login_required
    async def view() -> Any:
        return {"user": current_user.email}

    app.add_url_rule("/", view_func=view)
    assert get(app.test_client()).status_code == 401
    client = app.test_client(use_cookies=False)
    (cookie,) = shop.client().post("/login", json=PARAMS).headers.getlist("Set-Cookie")
    assert get(client, headers={"Cookie": cookie.partition(";")[0]}).json == {"user": shop.user.email}


def test_a_guard_above_the_route_decorator_is_named_in_the_log_once(caplog: pytest.LogCaptureFixture) -> None:
    shop = Shop()
    blueprint = flask.Blueprint("office", __name__)

    @login_required
    @shop.app.get("/open")
    def open_view() -> str:
        return "for everybody"

    @login_required
    @blueprint.get("/office")
    def office() -> str:
        return "for everybody"

    shop.app.register_blueprint(blueprint)
    client = shop.app.test_client()
    assert [client.get(path).status_code for path in ("/open", "/office", "/private")] == [200, 200, 401]
    lines = [record.getMessage() for record in caplog.records if record.levelname == "ERROR"]
    assert [line.partition(":")[0] for line in lines] == [
        "the view 'open_view' is open to everybody",
        "the view 'office.office' is open to everybody",
    ]
    assert "below the route decorator" in lines[0]


def test_a_guarded_object_that_is_no_function_is_guarded() -> None:
    class Report:
        __slots__ = ("__dict__",)  # no weak references
        __name__ = "report"

        def __call__(self) -> str:
            return "secret"

    shop = Shop()
    shop.app.add_url_rule("/report", view_func=login_required(Report()))
    assert shop.app.test_client().get("/report").status_code == 401


def test_two_authenticators_with_one_cookie_are_refused() -> None:
    shop = Shop()
    options: dict[str, Any] = {"secret_key": SECRET, "users": MemoryUsers(), "backend": MemoryBackend()}
    staff = SessionAuth(**options, current_user_key="current_admin")
    with pytest.raises(ConfigError, match="give one of them its own session_key"):
        PowAuth(shop.app, staff)
    PowAuth(shop.app, SessionAuth(**options, current_user_key="current_admin", session_key="admin"))


def test_an_iri_in_a_header_stays_at_sign_in_at_renewal_and_at_sign_out(shop: Shop) -> None:
    @shop.app.get("/there")
    @shop.app.post("/there/<act>")
    def there(act: str = "") -> Any:
        if act == "in":
            request_auth().sign_in(PARAMS)
        elif act == "out":
            request_auth().sign_out()
        response = flask.redirect(flask.request.args["next"])
        response.headers["Content-Disposition"] = "inline; filename=日本.txt"
        return response

    client = shop.client()
    path = "?next=/%E6%97%A5%E6%9C%AC"
    signed_in = post(client, f"/there/in{path}")
    shop.clock.advance(900)
    renewed = get(client, f"/there{path}")
    signed_out = post(client, f"/there/out{path}")
    for response in (signed_in, renewed, signed_out):
        assert (response.status_code, response.headers["Location"]) == (302, "/%E6%97%A5%E6%9C%AC")
        assert response.headers["Content-Disposition"] == "inline; filename=日本.txt"
        assert len(response.headers.getlist("Set-Cookie")) == 1
