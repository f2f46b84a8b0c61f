"""An extension and an integration outside of the package: each sees the app's own types."""

from collections.abc import MutableMapping
from typing import Any, assert_type

from model import Me, User, auth

from powauth import Extension, Parts, RequestAuth, Step
from powauth.accounts.as_json import as_json, from_json
from powauth.http.answers import Answer, Answers
from powauth.http.connection import Connection, States
from powauth.http.visit import Visit, Visits, bound_in


class Greeter(Extension[Me]):
    name = "greeter"

    def bind(self, parts: Parts[Me]) -> "Greeter":
        return Greeter()

    async def after(self, step: Step[Me]) -> None:
        assert_type(step.identity, Me | None)

    async def credentials_changed(self, key: object, why: str) -> None:
        assert_type(why, str)


class Request(Connection):
    def __init__(self, holder: MutableMapping[str, Any], states: States) -> None:
        self.holder = holder
        self.states = states

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


async def serve(holder: MutableMapping[str, Any]) -> None:
    visit = Visits(auth, Request, Answers()).enter(holder)
    assert_type(visit, Visit | None)
    if visit is not None:
        await visit.begin()
        assert_type(await visit.headers([("a", "b")], failed=False), list[tuple[str, str]])
    visits, states = bound_in(holder, auth.current_user_key, "call serve")
    request_auth = RequestAuth(auth, visits.connect(holder, states))
    assert_type(request_auth, RequestAuth[User, Me])
    assert_type(request_auth.extension(Greeter), Greeter)
    assert_type(from_json(as_json(request_auth.require_user()), Me), Me)
    assert_type(Answer(200, "OK", [], b"").fields, list[tuple[str, str]])


assert_type(auth.extension(Greeter), Greeter)
