"""Hooks before and after each flow, and the signals of events."""

import logging
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from blinker import ANY

from harness.core_support import KINDS, Site
from harness.support import SECRET, Kind, Me, MemoryUsers, Request, User
from powauth import ConfigError, Event, Hooks, InvalidParams, Refused, SessionAuth, Step
from powauth.accounts.hooks import Hook
from powauth.backends.memory import MemoryBackend
from powauth.integrations.signals import Signals

RIGHT = "correct horse"
FLOWS: dict[str, tuple[object, ...]] = {
    "sign_in": ({"email": "ada@example.org", "password": RIGHT},),
    "register": ({"email": "new@example.org", "password": RIGHT},),
    "update_user": ({"current_password": RIGHT, "name": "Ada"},),
    "delete_user": ({"current_password": RIGHT},),
    "sign_out": (),
}
STEPS = {
    "sign_in": ["before authentication", "before sign_in", "after sign_in"],
    "register": ["before registration", "after registration", "before sign_in", "after sign_in"],
    "update_user": ["before update", "after update"],
    "delete_user": ["before deletion", "after deletion"],
    "sign_out": ["before sign_out", "after sign_out"],
}
NAMES = list(Hooks.__dataclass_fields__)


class Notes:
    """Hooks that note what they were told."""

    def __init__(self, kind: Kind) -> None:
        self.steps: list[tuple[str, Step[Me]]] = []
        self.hooks: Hooks[Me] = Hooks(**{name: self._hook(name, kind == "asgi") for name in NAMES})

    def _hook(self, name: str, asynchronous: bool) -> Hook[Me]:
        def plain(step: Step[Me]) -> None:
            self.steps.append((name.partition("_")[0], step))

        async def coroutine(step: Step[Me]) -> None:
            plain(step)

        return coroutine if asynchronous else plain

    @property
    def names(self) -> list[str]:
        return [f"{when} {step.flow}" for when, step in self.steps]


def work(flow: str) -> Callable[[Request], Any]:
    async def run(request: Request) -> object:
        await request.call(flow, *FLOWS[flow])
        return "done"

    return run


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("flow", FLOWS)
def test_each_flow_has_its_hooks(kind: Kind, flow: str) -> None:
    notes = Notes(kind)
    site = Site(MemoryBackend(), kind, hooks=notes.hooks)
    browser = site.signed_in()
    notes.steps.clear()
    assert site.serve({"/run": work(flow)}, browser).get("/run").json() == "done"
    assert notes.names == STEPS[flow]
    for when, step in notes.steps:
        assert RIGHT not in repr(step)
        known = when == "after" or step.flow not in ("authentication", "registration")
        assert isinstance(step.identity, Me) is known
        given = when == "before" and step.flow in ("authentication", "registration", "update", "deletion")
        assert isinstance(step.params, Mapping) is given
    if flow == "update_user":
        assert [step.identity.name for _, step in notes.steps if step.identity] == ["", "Ada"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("flow", FLOWS)
def test_a_hook_before_refuses_and_nothing_happens(kind: Kind, flow: str) -> None:
    def refuse(step: Step[Me]) -> None:
        raise Refused("not today")

    name = STEPS[flow][0].replace(" ", "_")
    calm = Site(MemoryBackend(), kind)
    browser = calm.signed_in()
    rows = dict(calm.users.rows)
    options: dict[str, Any] = {"users": calm.users, "clock": calm.clock, "hooks": Hooks(**{name: refuse})}
    site = Site(calm.backend, kind, **options)
    response = site.serve({"/run": work(flow)}, browser).get("/run")
    assert (response.status, response.json()) == (403, {"error": "refused", "reason": "not today"})
    assert response.set_cookies == []
    assert calm.users.rows == rows
    assert calm.serve({}, browser).get().json() == {"user": "ada@example.org"}
    (event,) = site.events
    assert (event.name, event.detail, event.ip) == ("refused", name.removeprefix("before_"), "192.0.2.1")
    assert "today" not in repr(event)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("flow", FLOWS)
def test_a_hook_after_that_fails_is_logged_and_undoes_nothing(
    kind: Kind, flow: str, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(step: Step[Me]) -> None:
        raise Refused("too late")

    after = [name for name in NAMES if name.startswith("after_")]
    site = Site(MemoryBackend(), kind, hooks=Hooks(**dict.fromkeys(after, fail)))
    browser = site.signed_in()
    caplog.clear()
    assert site.serve({"/run": work(flow)}, browser).get("/run").json() == "done"
    failed = [step.replace(" ", "_") for step in STEPS[flow] if step.startswith("after")]
    errors = [record.getMessage() for record in caplog.records if record.levelno == logging.ERROR]
    assert errors == [f"the hook {name} failed; the flow before it stands" for name in failed]


def test_another_error_of_a_hook_before_ends_the_flow_too() -> None:
    def captcha(step: Step[Me]) -> None:
        assert step.params is not None
        raise InvalidParams({"captcha": ["is wrong"]})

    site = Site(MemoryBackend(), hooks=Hooks(before_authentication=captcha))
    response = site.browser().get("/login")
    assert (response.status, response.json()) == (422, {"errors": {"captcha": ["is wrong"]}})
    assert site.backend.calls == []


def test_a_sign_in_refused_after_a_change_of_password_signs_out() -> None:
    def refuse(step: Step[Me]) -> None:
        if step.identity is not None and step.identity.name == "changed":
            raise Refused

    site = Site(MemoryBackend(), hooks=Hooks(before_sign_in=refuse))
    browser = site.signed_in()

    async def change(request: Request) -> object:
        params = {"current_password": RIGHT, "password": "seven red herons", "name": "changed"}
        return await request.call("update_user", params)

    response = site.serve({"/change": change}, browser).get("/change")
    assert (response.status, response.json(), browser.jar) == (403, {"error": "refused"}, {})
    assert site.users.rows[site.user.id].name == "changed"


def test_hooks_that_are_none_and_hooks_that_wait_are_refused() -> None:
    parts: Any = {"secret_key": SECRET, "users": MemoryUsers(), "backend": "memory://"}
    with pytest.raises(ConfigError, match="after_update must be a function"):
        Hooks(after_update="print")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="hooks must be Hooks"):
        SessionAuth(**parts | {"hooks": print})

    async def wait(step: Step[Me]) -> None:
        del step

    class Waiter:
        async def __call__(self, step: Step[Me]) -> None:
            del step

    for hook in (wait, Waiter()):
        auth: SessionAuth[User, Me] = SessionAuth(**parts, hooks=Hooks(after_sign_in=hook))
        with pytest.raises(ConfigError, match="after_sign_in is a coroutine function"):
            auth.check_wsgi()


@pytest.mark.parametrize("kind", KINDS)
def test_signals_tell_of_each_event_whatever_one_receiver_does(kind: Kind, caplog: pytest.LogCaptureFixture) -> None:
    signals = Signals()
    heard: list[tuple[object, str]] = []

    def fail(sender: object, event: Event) -> None:
        raise RuntimeError(event.name)

    def hear(sender: object, event: Event) -> None:
        heard.append((sender, event.name))

    for name in ("signed_in", "signed_out"):
        signals[name].connect(fail, sender=ANY)
        signals[name].connect(hear, sender=ANY)
    site = Site(MemoryBackend(), kind, on_event=signals)
    browser = site.signed_in()
    assert browser.get("/logout").status == 200
    assert heard == [(signals, "signed_in"), (signals, "signed_out")]
    assert sum("a receiver of the signal" in record.getMessage() for record in caplog.records) == 2
    with pytest.raises(KeyError):
        signals["sung"]  # type: ignore[index]
    assert Signals(sender="shop").sender == "shop"
