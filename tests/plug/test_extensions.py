"""Extensions: features around the plug, built from public names alone, as an app builds its own."""

import logging
from collections.abc import Callable
from typing import Self

import pytest

from harness.support import SECRET, Me, MemoryUsers
from harness.visits import PASSWORD, Auth, Client, SmallApp
from powauth import (
    ConfigError,
    Extension,
    Hooks,
    MoreNeeded,
    Parts,
    Refused,
    SessionAuth,
    Step,
    StoreUnavailable,
)
from powauth.backends.base import drive

ADA = "ada@example.org"


class Noting(Extension[Me]):
    """Notes what it is told in a list that several share. It fails, or refuses, where it is asked to."""

    def __init__(self, said: list[str], raises: dict[str, Exception] | None = None) -> None:
        self.said = said
        self.raises = raises or {}
        self.parts: Parts[Me] | None = None

    def bind(self, parts: Parts[Me]) -> Self:
        bound = type(self)(self.said, self.raises)
        bound.parts = parts
        return bound

    def _note(self, what: str) -> None:
        self.said.append(f"{self.name} {what}")
        if what in self.raises:
            raise self.raises[what]

    async def before(self, step: Step[Me]) -> None:
        self._note(f"before {step.flow}")

    async def after(self, step: Step[Me]) -> None:
        self._note(f"after {step.flow}")

    async def credentials_changed(self, key: object, why: str) -> None:
        self._note(f"changed: {why}")

    async def sessions_ended(self, key: object, why: str) -> None:
        self._note(f"ended: {why}")


class First(Noting):
    name = "first"


class Second(Noting):
    name = "second"


def noting(first: dict[str, Exception] | None = None, second: dict[str, Exception] | None = None) -> SmallApp:
    """An app with two extensions and hooks, which all note what they are told in ``app.said``."""
    said: list[str] = []

    def hook(when: str) -> Callable[[Step[Me]], None]:
        return lambda step: said.append(f"hook {when} {step.flow}")

    names = [name for name in Hooks.__dataclass_fields__ if name.startswith(("before_", "after_"))]
    hooks = Hooks[Me](**{name: hook(name.partition("_")[0]) for name in names})
    return SmallApp(extensions=[First(said, first), Second(said, second)], hooks=hooks)


def said(app: SmallApp) -> list[str]:
    return app.auth.extension(First).said


def signed_in(app: SmallApp) -> Client:
    client = app.client()
    client.sign_in()
    said(app).clear()
    return client


FLOWS: dict[str, Callable[[Auth], object]] = {
    "sign_in": lambda auth: auth.sign_in(email=ADA, password=PASSWORD),
    "register": lambda auth: auth.register(email="bob@example.org", password=PASSWORD),
    "update": lambda auth: auth.update_user(current_password=PASSWORD, name="Ada L."),
    "deletion": lambda auth: auth.delete_user(current_password=PASSWORD),
    "sign_out": lambda auth: auth.sign_out(),
}
STEPS: dict[str, list[str]] = {
    "sign_in": ["before authentication", "before sign_in", "after sign_in"],
    "register": [
        "before registration",
        "changed: user created",
        "ended: user created",
        "after registration",
        "before sign_in",
        "after sign_in",
    ],
    "update": ["before update", "after update"],
    "deletion": ["before deletion", "changed: user deleted", "ended: user deleted", "after deletion"],
    "sign_out": ["before sign_out", "after sign_out"],
}


# --- around each flow -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("flow", FLOWS)
def test_extensions_run_in_their_order_and_then_the_apps_hooks(flow: str) -> None:
    app = noting()
    client = signed_in(app)
    assert client.send(FLOWS[flow]).status == 200
    told = ["first", "second", "hook"]
    expected = [f"{who} {step}" for step in STEPS[flow] for who in told]
    assert said(app) == [line for line in expected if not line.startswith(("hook changed", "hook ended"))]


@pytest.mark.parametrize("flow", FLOWS)
def test_an_extension_refuses_a_flow_and_nothing_else_is_asked(flow: str) -> None:
    step = STEPS[flow][0]
    app = noting(first={step: Refused("not today")})
    client = app.client()
    if flow != "sign_in":
        client.sign_in()
    said(app).clear()
    rows, sessions = dict(app.users.rows), app.stored()
    reply = client.send(FLOWS[flow])
    assert reply.status == 403
    assert str(reply.result) == "not today"
    assert said(app) == [f"first {step}"]
    assert (app.users.rows, app.stored()) == (rows, sessions)
    assert (app.events[-1].name, app.events[-1].detail) == ("refused", step.removeprefix("before "))


def test_an_extension_asks_for_a_second_factor() -> None:
    app = noting(second={"before sign_in": MoreNeeded(["code"])})
    client = app.client()
    reply = client.send(FLOWS["sign_in"])
    assert reply.status == 401
    assert isinstance(reply.result, MoreNeeded)
    assert reply.result.factors == ("code",)
    assert client.who() is None
    assert app.event_names == ["second_factor_required"]


@pytest.mark.parametrize("flow", FLOWS)
def test_an_extension_that_fails_afterwards_is_logged_and_stops_nobody(
    flow: str, caplog: pytest.LogCaptureFixture
) -> None:
    step = STEPS[flow][-1]
    app = noting(first={step: RuntimeError("the disk is full")})
    client = signed_in(app)
    caplog.clear()
    assert client.send(FLOWS[flow]).status == 200
    assert said(app)[-3:] == [f"{who} {step}" for who in ("first", "second", "hook")]
    (record,) = [record for record in caplog.records if record.levelno == logging.ERROR]
    assert record.getMessage() == f"the extension first failed after {step.removeprefix('after ')}"
    assert record.exc_info is not None


# --- the fan-out ------------------------------------------------------------------------------------------------------


CHANGES: dict[str, tuple[str, Callable[[SmallApp], object]]] = {
    "a new password": (
        "credentials changed",
        lambda app: drive(app.auth.update_account(app.ada, password="staple battery")),
    ),
    "a lock": ("credentials changed", lambda app: drive(app.auth.update_account(app.ada, {"locked": True}))),
    "a deletion": ("user deleted", lambda app: drive(app.auth.delete_account(app.ada))),
    "a revocation": ("all", lambda app: drive(app.auth.revoke_user(app.ada))),
    "the app's own": ("changed by the app", lambda app: drive(app.auth.credentials_changed(app.ada))),
    "for a reason": ("moved", lambda app: drive(app.auth.credentials_changed(app.ada.id, "moved"))),
}


@pytest.mark.parametrize("change", CHANGES)
def test_what_changes_an_account_tells_the_extensions_first_and_ends_the_sessions_last(change: str) -> None:
    why, work = CHANGES[change]
    app = noting()
    client = signed_in(app)
    user = app.ada
    alive: list[int] = []

    class Looking(Noting):
        name = "looking"

        async def credentials_changed(self, key: object, why: str) -> None:
            assert key == user.id
            alive.append(len(app.stored(user)))
            await super().credentials_changed(key, why)

    app = SmallApp(
        extensions=[*app.auth.accounts.hooks.extensions, Looking(said(app))],
        backend=app.backend,
        users=app.users,
        clock=app.clock,
    )
    work(app)
    names = ("first", "second", "looking")
    assert said(app) == [*(f"{who} changed: {why}" for who in names), *(f"{who} ended: {why}" for who in names)]
    assert alive == [1]
    assert app.stored(user) == []
    assert client.copy(app).who() is None


@pytest.mark.parametrize("change", [{"password": "staple battery"}, {"email": "ada@example.com"}])
def test_a_user_who_changes_password_or_address_tells_them_too(change: dict[str, str]) -> None:
    app = noting()
    client = signed_in(app)
    assert client.send(lambda auth: auth.update_user({"current_password": PASSWORD} | change)).status == 200
    assert [line for line in said(app) if line.endswith(": credentials changed")] == [
        "first changed: credentials changed",
        "second changed: credentials changed",
        "first ended: credentials changed",
        "second ended: credentials changed",
    ]
    assert client.who() is not None


OWN_CHANGES: dict[str, Callable[[Auth], object]] = {
    "a new password": lambda auth: auth.update_user(current_password=PASSWORD, password="staple battery"),
    "a new address": lambda auth: auth.update_user(current_password=PASSWORD, email="ada@example.com"),
    "a deletion": lambda auth: auth.delete_user(current_password=PASSWORD),
    "a sign-out everywhere": lambda auth: auth.revoke_all(),
}


@pytest.mark.parametrize("change", OWN_CHANGES)
def test_a_users_own_change_tells_the_extensions_first_and_ends_the_sessions_last(change: str) -> None:
    alive: list[int] = []

    class Looking(Noting):
        name = "looking"

        async def credentials_changed(self, key: object, why: str) -> None:
            assert key == user.id
            alive.append(len(app.stored(user)))

    app = SmallApp(extensions=[Looking([])])
    user = app.ada
    client, other = app.client(), app.client()
    client.sign_in()
    other.sign_in()
    assert client.send(OWN_CHANGES[change]).status == 200
    assert alive == [2]
    assert other.who() is None


def test_a_user_who_signs_out_everywhere_tells_them_first() -> None:
    app = noting()
    client = signed_in(app)
    other = app.client()
    other.sign_in()
    said(app).clear()
    assert client.send(lambda auth: auth.revoke_all()).result == 2
    told = [line for line in said(app) if line.endswith(": all")]
    assert told == ["first changed: all", "second changed: all", "first ended: all", "second ended: all"]
    assert (client.who(), other.who()) == (None, None)


def test_one_that_fails_keeps_no_session_of_a_user_who_signs_out_everywhere() -> None:
    app = noting(first={"changed: all": StoreUnavailable("first is down")})
    client, other = signed_in(app), app.client()
    other.sign_in()
    assert client.send(lambda auth: auth.revoke_all()).status == 503
    assert (client.who(), other.who()) == (None, None)


def test_a_change_of_the_name_alone_tells_nobody() -> None:
    app = noting()
    client = signed_in(app)
    client.send(FLOWS["update"])
    drive(app.auth.update_account(app.ada, name="Ada"))
    assert not [line for line in said(app) if "changed" in line]


@pytest.mark.parametrize("step", ["changed: all", "ended: all"])
def test_one_that_fails_keeps_no_other_from_being_told_and_no_session_alive(step: str) -> None:
    down, worse = StoreUnavailable("first is down"), RuntimeError("second is broken")
    app = noting(first={step: down}, second={step: worse})
    client = signed_in(app)
    with pytest.raises(StoreUnavailable, match="first is down"):
        drive(app.auth.revoke_user(app.ada))
    assert said(app) == ["first changed: all", "second changed: all", "first ended: all", "second ended: all"]
    assert client.who() is None


# --- what an extension gets -------------------------------------------------------------------------------------------


class Tokens(Extension[Me]):
    """Keeps one number for each user, in the sessions' own backend."""

    name = "tokens"
    parts: Parts[Me]

    def bind(self, parts: Parts[Me]) -> Self:
        bound = type(self)()
        bound.parts = parts
        return bound

    async def remind(self, email: str) -> None:
        account = await self.parts.users.find(email)
        self.parts.emit("refused", None if account is None else account.key, "a reminder")


def test_an_extension_gets_the_parts_of_the_authenticator_that_it_is_bound_to() -> None:
    app = SmallApp(extensions=[Tokens()], session_key="admin")
    tokens = app.auth.extension(Tokens)
    assert tokens.parts.namespace == app.auth.store.namespace == "credentials.admin"
    assert tokens.parts.backend is app.auth.store.backend
    assert tokens.parts.keyring is app.auth.keyring
    assert tokens.parts.now() == app.auth.now()
    drive(tokens.remind(ADA))
    drive(tokens.remind("nobody@example.org"))
    assert [(event.name, event.user_key, event.detail) for event in app.events] == [
        ("refused", app.ada.id, "a reminder"),
        ("refused", None, "a reminder"),
    ]


def test_an_extension_belongs_to_the_authenticator_that_bound_it() -> None:
    tokens = Tokens()
    apps = [SmallApp(extensions=[tokens]) for _ in range(2)]
    found = [app.auth.extension(Tokens) for app in apps]
    assert found[0] is not found[1]
    assert not hasattr(tokens, "parts")


def test_a_handler_finds_an_extension_by_its_class() -> None:
    app = noting()
    client = app.client()
    assert client.send(lambda auth: auth.extension(Second)).result is app.auth.extension(Second)
    with pytest.raises(ConfigError, match="there is no Tokens among the extensions"):
        client.send(lambda auth: auth.extension(Tokens))


class ResetColumns:
    """Columns of an extension, as a mixin."""


class Reset(Extension[Me]):
    name = "reset"
    needs = (ResetColumns,)


def test_an_extension_needs_mixins_of_the_apps_model() -> None:
    with pytest.raises(ConfigError, match="'reset' needs columns: derive the users context's model from ResetColumns"):
        SmallApp(extensions=[Reset()])


def test_the_model_that_lacks_a_mixin_is_named() -> None:
    class WithModel(MemoryUsers):
        model: type = Me

    with pytest.raises(ConfigError, match="'reset' needs columns: derive Me from ResetColumns"):
        SessionAuth(secret_key=SECRET, users=WithModel(), backend="memory://", extensions=[Reset()])


def test_a_model_with_the_mixin_will_do() -> None:
    class Row(ResetColumns): ...

    class WithModel(MemoryUsers):
        model: type = Row

    reset = Reset()
    auth = SessionAuth(secret_key=SECRET, users=WithModel(), backend="memory://", extensions=[reset])
    assert auth.extension(Reset) is reset


def test_a_carrier_that_is_none_is_refused() -> None:
    with pytest.raises(ConfigError, match="carrier must be a carrier such as CookieCarrier"):
        SessionAuth(secret_key=SECRET, users=MemoryUsers(), backend="memory://", carrier="cookie")  # type: ignore[arg-type]


def test_what_is_no_extension_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"an object of an Extension, such as Lock\(\), not the class Tokens$"):
        SmallApp(extensions=[Tokens])
    with pytest.raises(ConfigError, match="extensions must be a list of extensions, not Tokens"):
        SmallApp(extensions=Tokens())


def test_an_extension_that_adds_nothing_changes_nothing() -> None:
    class Idle(Extension[Me]):
        name = "idle"

    app = SmallApp(extensions=[Idle()])
    idle = app.auth.extension(Idle)
    assert idle.pages() == ()
    client = app.client()
    client.sign_in()
    for flow in ("update", "sign_out", "register", "deletion"):
        work = FLOWS[flow]
        if flow == "deletion":
            client.sign_in()
        assert client.send(work).status == 200
    assert app.users.rows == {key: row for key, row in app.users.rows.items() if row.email == "bob@example.org"}


def test_an_extension_does_not_take_the_name_of_the_counters() -> None:
    class Counting(Extension[Me]):
        name = "throttle"

    with pytest.raises(ConfigError, match="must not have the name 'throttle'"):
        SmallApp(extensions=[Counting()])
