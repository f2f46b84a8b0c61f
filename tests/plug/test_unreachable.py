"""The current user while nobody can tell who it is: no use of it gives an answer."""

import asyncio
import copy
import json
import pickle
from collections.abc import Callable
from typing import Any

import jinja2
import msgspec
import pytest
from starlette.datastructures import State as StarletteState

from harness.core_support import KINDS, Site
from harness.support import Browser, FakeConnection, Kind, User, account_of
from powauth.backends.base import drive
from powauth.backends.memory import MemoryBackend
from powauth.errors import StoreUnavailable
from powauth.http.unreachable import StateInOutage, Unreachable
from powauth.integrations import asgi, wsgi


def unreachable() -> Any:
    return Unreachable(StoreUnavailable("down"))


async def _await(user: Any) -> Any:
    return await user


async def _async_for(user: Any) -> Any:
    return [each async for each in user]


def _match(user: Any) -> str:
    match user:
        case User():
            return "somebody"
        case _:
            return "nobody"


def _with(user: Any) -> None:
    with user:
        pass


def _delete(user: Any) -> None:
    del user.email


def _set(user: Any) -> None:
    user.email = "ada"


def _set_item(user: Any) -> None:
    user["email"] = "ada"


def _delete_item(user: Any) -> None:
    del user["email"]


USES: dict[str, Callable[[Any], object]] = {
    "if user": bool,
    "not user": lambda user: not user,
    "user and": lambda user: user and True,
    "user.email": lambda user: user.email,
    "getattr with a default": lambda user: getattr(user, "email", None),
    "hasattr": lambda user: hasattr(user, "email"),
    "__dict__": lambda user: user.__dict__,
    "__class__": lambda user: user.__class__,
    "vars": vars,
    "dir": dir,
    "isinstance": lambda user: isinstance(user, User),
    "match": _match,
    "set": _set,
    "del": _delete,
    "== None": lambda user: user == None,  # noqa: E711
    "!= None": lambda user: user != None,  # noqa: E711
    "== user": lambda user: user == User("1", "ada"),
    "user ==": lambda user: User("1", "ada") == user,
    "== itself": lambda user: user == user,  # noqa: PLR0124
    "<": lambda user: user < 1,
    "<=": lambda user: user <= 1,
    ">": lambda user: user > 1,
    ">=": lambda user: user >= 1,
    "1 <": lambda user: 1 < user,  # noqa: SIM300
    "in a list": lambda user: user in [None, 0],
    "in a set": lambda user: user in {None, 0},
    "in itself": lambda user: "admin" in user,
    "hash": hash,
    "len": len,
    "iter": list,
    "reversed": reversed,
    "[]": lambda user: user["email"],
    "[] =": _set_item,
    "del []": _delete_item,
    "call": lambda user: user(),
    "with": _with,
    "str": str,
    "bytes": bytes,
    "int": int,
    "float": float,
    "index": lambda user: [1, 2][user],
    "f-string": lambda user: f"{user}",
    "f-string with a width": lambda user: f"{user:>20}",
    "%s": lambda user: "%s" % user,  # noqa: UP031
    "format": "{}".format,
    "format an attribute": "{0.email}".format,
    "await": lambda user: asyncio.run(_await(user)),
    "async for": lambda user: asyncio.run(_async_for(user)),
    "json": json.dumps,
    "json within": lambda user: json.dumps({"user": user}),
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "pickle": pickle.dumps,
    "jinja": lambda user: jinja2.Template("{{ user }}").render(user=user),
    "jinja, escaped": lambda user: jinja2.Template("{{ user }}", autoescape=True).render(user=user),
    "jinja if": lambda user: jinja2.Template("{% if user %}in{% else %}out{% endif %}").render(user=user),
    "jinja not": lambda user: jinja2.Template("{% if not user %}out{% endif %}").render(user=user),
    "jinja attribute": lambda user: jinja2.Template("{{ user.email }}").render(user=user),
    "jinja item": lambda user: jinja2.Template("{{ user['email'] }}").render(user=user),
    "jinja default": lambda user: jinja2.Template("{{ user.email|default('nobody') }}").render(user=user),
    "jinja tojson": lambda user: jinja2.Template("{{ user|tojson }}").render(user=user),
}


@pytest.mark.parametrize("use", USES)
def test_each_use_raises(use: str) -> None:
    with pytest.raises(StoreUnavailable) as raised:
        USES[use](unreachable())
    assert str(raised.value) == "down"
    assert raised.value.__cause__ is not None


@pytest.mark.parametrize("encode", [msgspec.json.encode, msgspec.msgpack.encode, msgspec.to_builtins])
def test_msgspec_encodes_none(encode: Callable[[Any], object]) -> None:
    with pytest.raises((StoreUnavailable, TypeError)):
        encode(unreachable())


def test_only_its_repr_is_an_answer_for_logs() -> None:
    assert repr(unreachable()) == "<current user unknown: the session store is out of reach>"


def outage(kind: Kind) -> tuple[Site, Browser]:
    site = Site(MemoryBackend(), kind)
    browser = site.signed_in()
    site.backend.fail["get"] = StoreUnavailable("down")
    return site, browser


READS: dict[str, Callable[[Any], object]] = {
    "[]": lambda state: state["current_user"],
    "get": lambda state: state.get("current_user"),
    "get with a default": lambda state: state.get("current_user", 1),
    "in": lambda state: "current_user" in state,
    "setdefault": lambda state: state.setdefault("current_user", None),
    "pop": lambda state: state.pop("current_user", None),
    "is None": lambda state: state["current_user"] is None,
    "Starlette's State": lambda state: StarletteState(state).current_user is None,
    "Starlette's State, with a default": lambda state: getattr(StarletteState(state), "current_user", None),
}


def serve_in_an_outage(handle: Callable[[Any], object], state: dict[str, Any] | None = None) -> list[Any]:
    """Serve a request of a signed-in user on ASGI while the store is unreachable. Return what was sent."""
    site, browser = outage("asgi")

    async def handler(scope: Any, receive: Any, send: Any) -> None:
        del receive
        handle(scope)
        await send({"type": "http.response.start", "status": 204, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    sent: list[Any] = []

    async def send(message: Any) -> None:
        sent.append(message)

    scope: Any = {"type": "http", "path": "/", "headers": [(b"cookie", (browser.cookie_header() or "").encode())]}
    if state is not None:
        scope["state"] = state
    asyncio.run(asgi.SessionAuthMiddleware(handler, site.auth)(scope, None, send))  # type: ignore[arg-type]
    return sent


@pytest.mark.parametrize("read", READS)
def test_reading_the_user_in_an_asgi_state_raises_and_is_503(read: str) -> None:
    raised: list[BaseException] = []

    def handle(scope: Any) -> None:
        try:
            READS[read](scope["state"])
        except StoreUnavailable as error:
            raised.append(error)
            raise

    assert serve_in_an_outage(handle)[0]["status"] == 503
    assert [str(error) for error in raised] == ["down"]


def test_the_other_keys_of_an_asgi_state_stay_and_changes_reach_the_state_outside() -> None:
    outside: dict[str, Any] = {"other": 1, "gone": 2, "popped": 3}

    def handle(scope: Any) -> None:
        state = scope["state"]
        assert [*state] == ["other", "gone", "popped", asgi.OWNER_KEY]
        assert [state[key] for key in [*state][:3]] == [1, 2, 3]
        assert ("other" in state, "missing" in state) == (True, False)
        assert (state["other"], state.get("other"), state.get("missing"), state.get("missing", 4)) == (1, 1, None, 4)
        with pytest.raises(KeyError):
            state["missing"]
        with pytest.raises(KeyError):
            state.pop("missing")
        with pytest.raises(AttributeError):
            StarletteState(state).missing  # noqa: B018
        StarletteState(state).new = 5
        state.update(newer=6)
        assert (state.setdefault("newest", 7), state.setdefault("other", 8)) == (7, 1)
        del state["gone"]
        assert (state.pop("popped"), state.pop("missing", None)) == (3, None)

    assert serve_in_an_outage(handle, outside)[0]["status"] == 204
    del outside[asgi.OWNER_KEY]
    assert outside == {"other": 1, "new": 5, "newer": 6, "newest": 7}


def test_a_state_with_two_unknown_users_raises_for_both_until_one_is_assigned() -> None:
    state = StateInOutage.of({"other": 1}, "current_user", unreachable())
    assert StateInOutage.of(state, "admin", unreachable()) is state
    for key in ("current_user", "admin"):
        with pytest.raises(StoreUnavailable):
            state[key]
    state["admin"] = None
    assert state["admin"] is None
    with pytest.raises(StoreUnavailable):
        state.get("current_user")
    state.clear()
    assert state == {}


def test_a_scope_that_loses_the_state_makes_nobody_anonymous() -> None:
    site, browser = outage("asgi")
    connection = asgi.ASGIConnection({"headers": [(b"cookie", (browser.cookie_header() or "").encode())]})
    drive(site.auth.call(connection))
    connection.scope["state"] = {}
    with pytest.raises(StoreUnavailable):
        site.auth.current_identity(connection)
    del connection.scope["state"]
    with pytest.raises(StoreUnavailable):
        site.auth.current_identity(connection)


def test_a_wsgi_environ_raises_at_each_use_and_is_503() -> None:
    site, browser = outage("wsgi")
    seen: list[object] = []

    def app(environ: Any, start_response: Any) -> list[bytes]:
        user = environ["powauth.current_user"]
        seen.append(user is None)
        if not user:
            seen.append("anonymous")
        start_response("204 No Content", [])
        return []

    started: list[str] = []
    environ = {"REQUEST_METHOD": "GET", "PATH_INFO": "/", "HTTP_COOKIE": browser.cookie_header() or ""}

    def start_response(status: str, *_: Any) -> Any:
        started.append(status)

    [*wsgi.SessionAuthMiddleware(app, site.auth)(environ, start_response)]
    assert (seen, started) == ([False], ["503 Service Unavailable"])


@pytest.mark.parametrize("kind", KINDS)
def test_the_next_plug_does_not_ask_again_and_a_sign_in_replaces_it(kind: Kind) -> None:
    site, browser = outage(kind)
    headers = [(b"cookie", (browser.cookie_header() or "").encode())]
    connection: Any
    if kind == "asgi":
        connection = asgi.ASGIConnection({"headers": headers})
    else:
        connection = wsgi.WSGIConnection({"HTTP_COOKIE": browser.cookie_header() or ""})
    with site.backend.counting() as verbs:
        drive(site.auth.call(connection))
        drive(site.auth.call(connection))
    assert verbs == ["get"]
    with pytest.raises(StoreUnavailable):
        site.auth.current_identity(connection)
    site.backend.fail.clear()
    signed_in = drive(site.auth.do_create(connection, account_of(site.user)))
    assert signed_in is not None
    assert signed_in.id == site.user.id
    assert site.auth.current_identity(connection) == signed_in


def test_a_user_that_was_assigned_before_stays() -> None:
    site, _ = outage("asgi")
    connection = FakeConnection()
    connection.assign("current_user", None)
    drive(site.auth.call(connection))
    assert site.auth.current_identity(connection) is None
