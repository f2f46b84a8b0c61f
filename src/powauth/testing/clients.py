"""Sign-in on a test client: it makes a real session in the app's own store, and puts the real cookie into the jar.

No password is needed. Nothing of the app is bypassed or replaced: hooks and events run as in any sign-in. This module
imports no framework. It recognises a client by its attributes.
"""

from collections.abc import Callable, Coroutine, Iterator, MutableMapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from email.message import Message
from http.cookies import SimpleCookie
from typing import Any, TypeVar, overload
from urllib.parse import urlsplit
from urllib.request import Request

from powauth.accounts.identity import I
from powauth.backends.base import drive
from powauth.errors import ConfigError, NotSignedIn
from powauth.http.carriers import CookieCarrier
from powauth.http.connection import MISSING, Connection
from powauth.integrations._finding import authenticators_of
from powauth.plug import Authenticator, SessionAuth
from powauth.request_auth import RequestAuth

T = TypeVar("T")


@overload
def sign_in(
    client: Any,
    user: object,
    *,
    auth: Authenticator[Any, I],
    current_user_key: str | None = None,
    base_url: str | None = None,
) -> I: ...


@overload
def sign_in(
    client: Any,
    user: object,
    *,
    auth: None = None,
    current_user_key: str | None = None,
    base_url: str | None = None,
) -> Any: ...


def sign_in(
    client: Any,
    user: object,
    *,
    auth: Authenticator[Any, Any] | None = None,
    current_user_key: str | None = None,
    base_url: str | None = None,
) -> Any:
    """Sign ``user`` in on a synchronous test client, and return the identity in the session.

    For Starlette's and FastAPI's ``TestClient``, Litestar's ``TestClient``, Flask's ``test_client()`` and
    ``httpx.Client``. If the cookie is ``Secure``, a client that calls the app directly over http is switched to https.
    Otherwise it would not send the cookie, like a browser.

    Args:
        client: the test client.
        user: a user whom the app's users context knows.
        auth: the app's authenticator. It is needed only if it cannot be found on the client's app.
        current_user_key: the key of the authenticator to use, if the app has several.
        base_url: for Flask's client, the address of the test's requests, if it is not ``http://localhost``.

    Raises:
        ConfigError: if no authenticator is found, or the client would not send the cookie.
        NotSignedIn: if the users context does not know the user, or the user is locked.
    """
    jar = _jar_of(client, base_url)
    found: Authenticator[Any, Any] = _authenticator_of(client, current_user_key) if auth is None else auth
    with jar.opened(found) as connection:
        cookie = _run(client, found, lambda: _sign_in(found, connection, user))
        jar.put(found, cookie)
    return _signed_in(found, connection)


@overload
async def async_sign_in(
    client: Any, user: object, *, auth: Authenticator[Any, I], current_user_key: str | None = None
) -> I: ...


@overload
async def async_sign_in(
    client: Any, user: object, *, auth: None = None, current_user_key: str | None = None
) -> Any: ...


async def async_sign_in(
    client: Any,
    user: object,
    *,
    auth: Authenticator[Any, Any] | None = None,
    current_user_key: str | None = None,
) -> Any:
    """Do what `sign_in` does on an asynchronous client: ``httpx.AsyncClient`` or Litestar's ``AsyncTestClient``."""
    jar = _jar_of(client, None)
    found: Authenticator[Any, Any] = _authenticator_of(client, current_user_key) if auth is None else auth
    with jar.opened(found) as connection:
        jar.put(found, await _sign_in(found, connection, user))
    return _signed_in(found, connection)


async def _sign_in(auth: Authenticator[Any, I], connection: Connection, user: object) -> str | None:
    if await RequestAuth(auth, connection).sign_in_user(user) is None:
        raise NotSignedIn("the users context does not know this user (is it saved?), or they may not sign in")
    cookies = (await auth.respond(connection)).cookies
    return cookies[0] if cookies else None


def _signed_in(auth: Authenticator[Any, I], connection: Connection) -> I:
    user = auth.current_identity(connection)
    assert user is not None
    return user


class _ClientConnection(Connection):
    """A request to sign in, which the test client does not really send."""

    __slots__ = ("_assigned", "_cookies", "_session", "states")

    def __init__(self, cookies: Sequence[str], session: MutableMapping[str, Any] | None) -> None:
        self.states = {}
        self._assigned: dict[str, object] = {}
        self._cookies = cookies
        self._session = session

    def method(self) -> str:
        return "POST"

    def target(self) -> str:
        return "/"

    def cookies(self) -> str:
        return "; ".join(self._cookies)

    def header(self, name: str) -> str | None:
        return "powauth.testing" if name == "user-agent" else None

    def renew_session(self) -> bool:
        return True  # no other client can know this client's session

    def client_ip(self) -> str | None:
        return None

    def session(self) -> MutableMapping[str, Any] | None:
        return self._session

    def assigned(self, key: str) -> object:
        return self._assigned.get(key, MISSING)

    def assign(self, key: str, value: object) -> None:
        self._assigned[key] = value


class _HTTPXJar:
    """The cookies of ``httpx`` clients. The test clients of Starlette, FastAPI and Litestar are such clients."""

    def __init__(self, client: Any) -> None:
        self.client = client

    @contextmanager
    def opened(self, auth: Authenticator[Any, Any]) -> Iterator[_ClientConnection]:
        carrier = _cookie_carrier(auth)
        if carrier is None:
            raise ConfigError("the id travels in the framework's session: sign in through the app's own sign-in")
        url = self.client.base_url
        if not url.host:
            raise ConfigError("give the client a base_url: without one, nobody knows whose cookie it would be")
        if carrier.secure and url.scheme == "http":
            if not hasattr(self.client, "app") and not hasattr(_transport(self.client), "app"):
                raise ConfigError("the client talks http to a server, and the cookie goes over https only")
            self.client.base_url = url.copy_with(scheme="https")
        pairs = [f"{cookie.name}={cookie.value}" for cookie in self.client.cookies.jar if cookie.name == carrier.name]
        yield _ClientConnection(pairs, None)

    def put(self, auth: Authenticator[Any, Any], cookie: str | None) -> None:
        jar = self.client.cookies.jar
        request = Request(str(self.client.base_url))  # noqa: S310 the jar only reads its host
        jar.extract_cookies(_Response(cookie), request)
        pair = (cookie or "").partition(";")[0]
        if pair not in (f"{kept.name}={kept.value}" for kept in jar):
            raise ConfigError(f"a client of {self.client.base_url} does not take the cookie: its Domain is another")


class _FlaskJar:
    """The cookies of Flask's client."""

    def __init__(self, client: Any, base_url: str | None) -> None:
        self.client = client
        self.host = urlsplit(base_url).hostname if base_url is not None else None
        self.host = self.host or client.application.config["SERVER_NAME"] or "localhost"
        self.base_url = base_url

    @contextmanager
    def opened(self, auth: Authenticator[Any, Any]) -> Iterator[_ClientConnection]:
        carrier = _cookie_carrier(auth)
        if carrier is None:
            with self.client.session_transaction(base_url=self.base_url) as session:
                yield _ClientConnection((), session)
        else:
            old = self.client.get_cookie(carrier.name, self.host)
            yield _ClientConnection(() if old is None else [f"{carrier.name}={old.value}"], None)

    def put(self, auth: Authenticator[Any, Any], cookie: str | None) -> None:
        for name, morsel in SimpleCookie(cookie or "").items():
            domain = morsel["domain"] or self.host
            self.client.set_cookie(
                name,
                morsel.value,
                domain=domain,
                path=morsel["path"],
                origin_only=not morsel["domain"],
                secure=bool(morsel["secure"]),
                httponly=bool(morsel["httponly"]),
                samesite=morsel["samesite"] or None,
            )


class _Response:
    """The part of a response that a `http.cookiejar.CookieJar` reads."""

    def __init__(self, cookie: str | None) -> None:
        self._headers = Message()
        if cookie is not None:
            self._headers["Set-Cookie"] = cookie

    def info(self) -> Message:
        return self._headers


def _jar_of(client: Any, base_url: str | None) -> _HTTPXJar | _FlaskJar:
    if hasattr(client, "session_transaction"):
        return _FlaskJar(client, base_url)
    if hasattr(getattr(client, "cookies", None), "jar") and hasattr(client, "base_url"):
        return _HTTPXJar(client)
    raise ConfigError(f"not a test client of Starlette, FastAPI, Litestar, Flask or httpx: {type(client).__name__}")


def _cookie_carrier(auth: Authenticator[Any, Any]) -> CookieCarrier | None:
    if not isinstance(auth, SessionAuth):
        raise ConfigError(f"{type(auth).__name__} keeps no sessions to sign in with")
    return auth.carrier if isinstance(auth.carrier, CookieCarrier) else None


def _transport(client: Any) -> Any:
    return getattr(client, "_transport", None)


def _authenticator_of(client: Any, key: str | None) -> Authenticator[Any, Any]:
    app = getattr(client, "application", None) or getattr(client, "app", None) or getattr(_transport(client), "app", 0)
    found = {auth.current_user_key: auth for auth in authenticators_of(app)}
    wanted = key or ("current_user" if len(found) > 1 else next(iter(found), ""))
    if wanted not in found:
        which = f" for {key!r}" if key is not None else ""
        raise ConfigError(f"no authenticator{which} on the client's app: pass it as auth=")
    return found[wanted]


def _run(client: Any, auth: Authenticator[Any, Any], work: Callable[[], Coroutine[Any, Any, T]]) -> T:
    backend = auth.store.backend.mode if isinstance(auth, SessionAuth) else "inline"
    if "async" not in (auth.users.mode, backend):
        return drive(work())
    with _portal(client) as portal:
        result: T = portal.call(work)
        return result


def _portal(client: Any) -> AbstractContextManager[Any]:
    """Return the portal to the event loop on which the client runs the app, or to a similar loop."""
    portal = getattr(client, "portal", None)
    if callable(portal):  # Litestar's
        return portal()  # type: ignore[no-any-return]
    if portal is not None:
        return nullcontext(portal)
    options = getattr(client, "async_backend", None)
    if options is None:
        raise ConfigError("the app's parts need an event loop: use async_sign_in with an asynchronous client")
    from anyio.from_thread import start_blocking_portal

    return start_blocking_portal(**options)
