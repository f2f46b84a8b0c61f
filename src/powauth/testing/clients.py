"""Sign-in on a test client: it makes a real session in the app's own store, and gives the client its cookie or token.

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
from powauth.http.carriers import BearerCarrier, Carrier, CookieCarrier, each_of
from powauth.http.connection import MISSING, Connection
from powauth.integrations._finding import authenticators_of
from powauth.plug import Authenticator, SessionAuth
from powauth.request_auth import RequestAuth

T = TypeVar("T")

PROVEN = ("pwd", "mfa")
"""What the user of a test client has proven."""


@overload
def sign_in(
    client: Any,
    user: object,
    *,
    auth: Authenticator[Any, I],
    current_user_key: str | None = None,
    base_url: str | None = None,
    bearer: bool = False,
) -> I: ...


@overload
def sign_in(
    client: Any,
    user: object,
    *,
    auth: None = None,
    current_user_key: str | None = None,
    base_url: str | None = None,
    bearer: bool = False,
) -> Any: ...


def sign_in(
    client: Any,
    user: object,
    *,
    auth: Authenticator[Any, Any] | None = None,
    current_user_key: str | None = None,
    base_url: str | None = None,
    bearer: bool = False,
) -> Any:
    """Sign ``user`` in on a synchronous test client, and return the identity in the session.

    For Starlette's and FastAPI's ``TestClient``, Litestar's ``TestClient``, Flask's ``test_client()`` and
    ``httpx.Client``. If the cookie is ``Secure``, a client that calls the app directly over http is switched to https.
    Otherwise it would not send the cookie, like a browser.

    The session counts as proven by a password and a second factor, so no second factor is asked for.

    Args:
        client: the test client.
        user: a user whom the app's users context knows.
        auth: the app's authenticator. It is needed only if it cannot be found on the client's app.
        current_user_key: the key of the authenticator to use, if the app has several.
        base_url: for Flask's client, the address of the test's requests, if it is not ``http://localhost``.
        bearer: give the client a token, as a program has it: its ``Authorization`` header. An app with a
            `BearerCarrier` alone always gives one.

    Raises:
        ConfigError: if no authenticator is found, or the client would not send the cookie.
        NotSignedIn: if the users context does not know the user, or the user is locked.
    """
    found = _authenticator_of(client, current_user_key, auth)
    jar = _jar_of(client, base_url, _token_carrier(found, bearer))
    with jar.opened(found) as connection:
        sent = _run(client, found, lambda: _sign_in(found, connection, user, bearer=isinstance(jar, _TokenHeader)))
        jar.put(found, sent)
    return _signed_in(found, connection)


@overload
async def async_sign_in(
    client: Any, user: object, *, auth: Authenticator[Any, I], current_user_key: str | None = None, bearer: bool = False
) -> I: ...


@overload
async def async_sign_in(
    client: Any, user: object, *, auth: None = None, current_user_key: str | None = None, bearer: bool = False
) -> Any: ...


async def async_sign_in(
    client: Any,
    user: object,
    *,
    auth: Authenticator[Any, Any] | None = None,
    current_user_key: str | None = None,
    bearer: bool = False,
) -> Any:
    """Do what `sign_in` does on an asynchronous client: ``httpx.AsyncClient`` or Litestar's ``AsyncTestClient``."""
    found = _authenticator_of(client, current_user_key, auth)
    jar = _jar_of(client, None, _token_carrier(found, bearer))
    with jar.opened(found) as connection:
        jar.put(found, await _sign_in(found, connection, user, bearer=isinstance(jar, _TokenHeader)))
    return _signed_in(found, connection)


async def _sign_in(auth: Authenticator[Any, I], connection: Connection, user: object, *, bearer: bool) -> str | None:
    bound = RequestAuth(auth, connection)
    if await bound.sign_in_user(user, bearer=bearer, amr=PROVEN) is None:
        raise NotSignedIn("the users context does not know this user (is it saved?), or they may not sign in")
    if bearer:
        return bound.access_token
    cookies = (await auth.respond(connection)).cookies
    return cookies[0] if cookies else None


def _signed_in(auth: Authenticator[Any, I], connection: Connection) -> I:
    user = auth.current_identity(connection)
    assert user is not None
    return user


class _ClientConnection(Connection):
    """A request to sign in, which the test client does not really send."""

    __slots__ = ("_assigned", "_authorization", "_cookies", "_session", "states")

    def __init__(
        self, cookies: Sequence[str], session: MutableMapping[str, Any] | None, authorization: str | None = None
    ) -> None:
        self.states = {}
        self._authorization = authorization
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
        return {"user-agent": "powauth.testing", "authorization": self._authorization}.get(name)

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


class _TokenHeader:
    """The ``Authorization`` header that a client sends with each request."""

    def __init__(self, client: Any, carrier: BearerCarrier) -> None:
        flask = _is_flask(client)
        self.headers: MutableMapping[str, Any] = client.environ_base if flask else client.headers
        self.name = "HTTP_AUTHORIZATION" if flask else "authorization"
        self.scheme = carrier.scheme

    @contextmanager
    def opened(self, auth: Authenticator[Any, Any]) -> Iterator[_ClientConnection]:
        del auth
        yield _ClientConnection((), None, self.headers.get(self.name))

    def put(self, auth: Authenticator[Any, Any], token: str | None) -> None:
        del auth
        self.headers[self.name] = f"{self.scheme} {token}"


class _Response:
    """The part of a response that a `http.cookiejar.CookieJar` reads."""

    def __init__(self, cookie: str | None) -> None:
        self._headers = Message()
        if cookie is not None:
            self._headers["Set-Cookie"] = cookie

    def info(self) -> Message:
        return self._headers


def _jar_of(client: Any, base_url: str | None, token: BearerCarrier | None) -> _HTTPXJar | _FlaskJar | _TokenHeader:
    if token is not None:
        return _TokenHeader(client, token)
    return _FlaskJar(client, base_url) if _is_flask(client) else _HTTPXJar(client)


def _is_flask(client: Any) -> bool:
    return hasattr(client, "session_transaction")


def _carriers(auth: Authenticator[Any, Any]) -> tuple[Carrier, ...]:
    if not isinstance(auth, SessionAuth):
        raise ConfigError(f"{type(auth).__name__} keeps no sessions to sign in with")
    return each_of(auth.carrier)


def _cookie_carrier(auth: Authenticator[Any, Any]) -> CookieCarrier | None:
    browser = _carriers(auth)[0]
    return browser if isinstance(browser, CookieCarrier) else None


def _token_carrier(auth: Authenticator[Any, Any], bearer: bool) -> BearerCarrier | None:
    """Return the carrier of a token, if the client gets one."""
    carriers = _carriers(auth)
    wanted = carriers[-1 if bearer else 0]
    if isinstance(wanted, BearerCarrier):
        return wanted
    if bearer:
        raise ConfigError("bearer=True needs a SessionAuth with a BearerCarrier")
    return None


def _transport(client: Any) -> Any:
    return getattr(client, "_transport", None)


def _authenticator_of(client: Any, key: str | None, given: Authenticator[Any, Any] | None) -> Authenticator[Any, Any]:
    if not _is_flask(client) and not (hasattr(getattr(client, "cookies", None), "jar") and hasattr(client, "base_url")):
        raise ConfigError(f"not a test client of Starlette, FastAPI, Litestar, Flask or httpx: {type(client).__name__}")
    if given is not None:
        return given
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
