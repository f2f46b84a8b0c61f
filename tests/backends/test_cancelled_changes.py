"""A request that is cancelled in the middle of a change of a user, on asyncio and on trio."""

from collections.abc import Awaitable, Callable
from typing import Any

import anyio
import pytest
from anyio.lowlevel import checkpoint

from harness.support import SECRET, Browser, CountingBackend, MemoryUsers, Request, make_app
from powauth import SessionAuth
from powauth.backends.memory import MemoryBackend

PASSWORD = "correct horse"


class Scene:
    """A victim and a thief, each with a session of one user, and a backend that waits before it ends sessions."""

    def __init__(self) -> None:
        self.users = MemoryUsers()
        self.user = self.users.add("ada@example.com", PASSWORD)
        self.backend = CountingBackend(MemoryBackend())
        self.backend.mode = "async"
        self.revoking = anyio.Event()
        self.revoked = anyio.Event()
        self.auth = SessionAuth(secret_key=SECRET, users=self.users, backend=self.backend)
        self.verb = "delete_owner"
        handlers = {"/login": self._login, "/password": self._password, "/delete": self._delete}
        handlers |= {"/app": self._app, "/sign-out": self._sign_out, "/others": self._others, "/all": self._all}
        self.app = make_app("asgi", self.auth, handlers)
        self.change: Callable[[], Awaitable[object]] | None = None

    async def _login(self, request: Request) -> object:
        return bool(await request.call("sign_in", {"email": "ada@example.com", "password": PASSWORD}))

    async def _password(self, request: Request) -> object:
        await request.call("update_user", {"current_password": PASSWORD, "password": "nine blue herons"})
        return None

    async def _delete(self, request: Request) -> object:
        await request.call("delete_user", {"current_password": PASSWORD})
        return None

    async def _app(self, request: Request) -> object:
        """What an administrator's view does."""
        assert self.change is not None
        await self.change()
        return None

    async def _sign_out(self, request: Request) -> object:
        await request.call("sign_out")
        return None

    async def _others(self, request: Request) -> object:
        await request.call("revoke_others")
        return None

    async def _all(self, request: Request) -> object:
        await request.call("revoke_all")
        return None

    async def browser(self) -> Browser:
        browser = Browser(self.app, "asgi")
        browser.take(await browser.send_asgi("/login", None, {}))
        return browser

    async def _wait(self, verb: str) -> None:
        if verb == self.verb:
            self.revoking.set()
            for _ in range(3):
                await checkpoint()
            self.revoked.set()

    async def cut_off(self, path: str) -> None:
        """Cancel the victim's request when the change is made and the sessions are about to be ended."""
        victim, thief = await self.browser(), await self.browser()
        self.backend.before = self._wait
        async with anyio.create_task_group() as group:
            group.start_soon(victim.send_asgi, path, victim.cookie_header(), {})
            await self.revoking.wait()
            group.cancel_scope.cancel()
        with anyio.fail_after(5):
            await self.revoked.wait()
            await checkpoint()
        self.backend.before = None
        for other in (victim,) if path == "/sign-out" else (thief,):
            answer = await other.send_asgi("/", other.cookie_header(), {})
            assert answer.json() == {"user": None}


def _run(backend: str, scene: Callable[[], Any]) -> None:
    anyio.run(scene, backend=backend)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_new_password_ends_the_sessions_although_the_request_is_cancelled(backend: str) -> None:
    async def run() -> None:
        scene = Scene()
        before = scene.user.password_hash
        await scene.cut_off("/password")
        assert scene.users.rows[scene.user.id].password_hash != before

    _run(backend, run)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_deletion_ends_the_sessions_although_the_request_is_cancelled(backend: str) -> None:
    async def run() -> None:
        scene = Scene()
        await scene.cut_off("/delete")
        assert not scene.users.rows

    _run(backend, run)


CHANGES: dict[str, Callable[[Scene], Awaitable[object]]] = {
    "a new password": lambda scene: scene.auth.update_account(scene.user.id, password="nine blue herons"),
    "a lock": lambda scene: scene.auth.update_account(scene.user.id, locked=True),
    "a deletion": lambda scene: scene.auth.delete_account(scene.user.id),
    "changed credentials": lambda scene: scene.auth.credentials_changed(scene.user.id),
    "a revocation": lambda scene: scene.auth.revoke_user(scene.user.id),
    "a revocation of everyone": lambda scene: scene.auth.revoke_everyone(),
    "a flow of an extension": lambda scene: scene.auth.accounts.delete_account(scene.user.id),
}


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
def test_a_change_by_the_app_ends_the_sessions_although_the_request_is_cancelled(
    backend: str, change: Callable[[Scene], Awaitable[object]]
) -> None:
    async def run() -> None:
        scene = Scene()
        scene.change = lambda: change(scene)
        await scene.cut_off("/app")

    _run(backend, run)


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize(
    ("path", "verb"), [("/sign-out", "delete"), ("/others", "delete_owner"), ("/all", "delete_owner")]
)
def test_sessions_end_although_the_request_that_ends_them_is_cancelled(backend: str, path: str, verb: str) -> None:
    async def run() -> None:
        scene = Scene()
        scene.verb = verb
        await scene.cut_off(path)

    _run(backend, run)
