"""An authenticator of an extension beside the sessions, built from public names: users whom a trusted proxy names."""

from typing import Any, Self

import pytest

from harness.support import SECRET, FakeConnection, Me, MemoryUsers
from powauth import Authenticator, ConfigError, Extension, Parts, Refused, RequestAuth, SessionAuth
from powauth.accounts.base import Account
from powauth.accounts.service import AS_BEFORE, Grant
from powauth.backends.base import drive
from powauth.backends.memory import MemoryBackend
from powauth.http.connection import Connection
from powauth.http.guards import require_access
from powauth.integrations.asgi import SessionAuthMiddleware

ADA = "ada@example.org"


class ProxyAuth(Authenticator[Any, Me]):
    """Believes the header of a proxy."""

    credential = "proxy"
    vary = (b"X-User", b"Cookie")

    def presents(self, connection: Connection) -> bool:
        return connection.header("x-user") is not None

    async def fetch(self, connection: Connection) -> Me | None:
        account = await self.users.find(connection.header("x-user"))
        return account.identity if account is not None and account.active else None

    async def create(self, connection: Connection, account: Account[Me], grant: Grant = AS_BEFORE) -> None:
        raise Refused

    async def delete(self, connection: Connection) -> None:
        raise Refused


class Proxy(Extension[Me]):
    name = "proxy"

    def bind(self, parts: Parts[Me]) -> Self:
        bound = type(self)()
        bound.authenticator = ProxyAuth(parts.users, current_user_key=parts.current_user_key)
        return bound


class NoAuthenticator(Extension[Me]):
    name = "broken"
    authenticator = "proxy"


def an_auth(*extensions: Extension[Me], **options: Any) -> SessionAuth[Any, Me]:
    users = MemoryUsers()
    users.add(ADA)
    users.add("bo@example.org", locked=True)
    given: dict[str, Any] = {"backend": MemoryBackend(), "throttle": None, "extensions": extensions}
    return SessionAuth(secret_key=SECRET, users=users, **given | options)


def asked(auth: SessionAuth[Any, Me], **headers: str) -> RequestAuth[Any, Me]:
    connection = FakeConnection(None, **headers)
    if not auth.call_at_once(connection):
        drive(auth.call(connection))
    return RequestAuth(auth, connection)


def test_it_alone_decides_whose_request_it_is() -> None:
    auth = an_auth(Proxy())
    for who, email in ((ADA, ADA), ("bo@example.org", None), ("nobody", None), ("", None)):
        bound = asked(auth, x_user=who)
        assert (None if bound.identity is None else bound.identity.email) == email
        assert bound.signed_in_by == (None if email is None else "proxy")
        assert bound.session is None
        with pytest.raises(Refused) as refused:
            drive(bound.sign_in(email=ADA, password="correct horse"))
        assert refused.value.code == "session_required"
    plain = asked(auth)
    assert plain.identity is None
    assert drive(plain.sign_in(email=ADA, password="correct horse")) is not None
    assert plain.signed_in_by == "session"
    assert auth.credentials == ("session", "proxy")
    assert auth.vary == (b"Cookie", b"X-User")
    assert [type(each) for each in auth.others] == [ProxyAuth]


def test_its_credentials_are_ambient_unless_it_says_otherwise() -> None:
    """A proxy adds its header to requests that pages of other sites make, too."""
    auth = an_auth(Proxy())
    assert auth.is_ambient(FakeConnection(x_user=ADA))
    assert auth.is_ambient(FakeConnection())


def test_without_scopes_and_challenges_there_are_none() -> None:
    auth = an_auth(Proxy())
    bound = asked(auth, x_user=ADA)
    assert bound.scopes is None
    assert auth.challenge(bound.connection) is None
    assert require_access(bound, by="proxy") == bound.identity
    assert asked(auth).scopes == frozenset()


def test_the_apps_own_rule_holds_for_it_too() -> None:
    class Closed(SessionAuth[Any, Me]):
        def admits(self, connection: Any, identity: Any) -> bool:
            return False

    users = MemoryUsers()
    users.add(ADA)
    auth = Closed(secret_key=SECRET, users=users, backend=MemoryBackend(), extensions=[Proxy()])
    assert asked(auth, x_user=ADA).identity is None


def test_a_row_that_refutes_it_makes_the_request_anonymous() -> None:
    auth = an_auth(Proxy())
    bound = asked(auth, x_user=ADA)
    drive(auth.dismiss(bound.connection))
    assert bound.identity is None
    assert bound.signed_in_by is None


def test_it_works_alone_too() -> None:
    """By default an authenticator has credentials of one kind, and no other authenticator beside it."""

    class Plain(ProxyAuth):
        presents = Authenticator.presents

    users = MemoryUsers()
    users.add(ADA)
    alone = Plain(users)
    connection = FakeConnection(x_user=ADA)
    drive(alone.call(connection))
    bound = RequestAuth(alone, connection)
    assert alone.credentials == ("proxy",)
    assert bound.signed_in_by == "proxy"
    assert require_access(bound, by="proxy") == bound.identity
    assert not alone.presents(connection)
    assert alone.challenge(connection) is None
    assert alone.others == ()
    alone.check_session(connection)


def test_what_is_no_authenticator_is_refused() -> None:
    with pytest.raises(ConfigError, match="the authenticator of an extension must be an Authenticator, not str"):
        an_auth(NoAuthenticator())
    with pytest.raises(ConfigError, match="the same kind of credentials"):
        an_auth(Proxy(), Proxy())


class QuietAuth(ProxyAuth):
    """Believes a header that no browser adds."""

    def is_ambient(self, connection: Connection) -> bool:
        return False


class Quiet(Proxy):
    def bind(self, parts: Parts[Me]) -> Self:
        bound = type(self)()
        bound.authenticator = QuietAuth(parts.users, current_user_key=parts.current_user_key)
        return bound


@pytest.mark.parametrize(
    ("extension", "headers", "checked"),
    [
        (Proxy(), {"origin": "https://evil.example"}, True),
        (Proxy(), {"cookie": "theme=dark"}, True),
        (Proxy(), {}, False),
        (Quiet(), {"origin": "https://evil.example", "cookie": "theme=dark"}, False),
    ],
)
def test_csr_07_it_says_whether_the_origin_of_a_handshake_is_checked(
    extension: Proxy, headers: dict[str, str], checked: bool
) -> None:
    cookies = [headers["cookie"]] if "cookie" in headers else None
    others = {name: value for name, value in headers.items() if name != "cookie"}
    connection = FakeConnection(cookies, x_user=ADA, **others)
    auth = an_auth(extension)
    assert auth.is_presented(connection) is checked
    assert auth.others[0].is_presented(connection) is checked


@pytest.mark.anyio
async def test_csr_07_a_page_of_another_site_opens_no_socket_by_its_credentials() -> None:
    auth = an_auth(Proxy())
    sent: list[Any] = []
    heard: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        heard.append("handshake")
        await send({"type": "websocket.accept"})

    async def receive() -> Any:
        return {"type": "websocket.disconnect", "code": 1000}

    async def send(message: Any) -> None:
        sent.append(message["type"])

    async def handshake(origin: bytes) -> list[str]:
        headers = [(b"host", b"app.example"), (b"origin", origin), (b"x-user", ADA.encode())]
        scope = {"type": "websocket", "path": "/", "query_string": b"", "headers": headers}
        sent.clear()
        await SessionAuthMiddleware(app, auth)(scope, receive, send)
        return sent

    assert await handshake(b"https://evil.example") == ["websocket.close"]
    assert heard == []
    assert await handshake(b"https://app.example") == ["websocket.accept"]
