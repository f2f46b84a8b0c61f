"""A request that is cancelled in the middle of a change of its user, on asyncio and on trio."""

from collections.abc import Callable
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
        auth = SessionAuth(secret_key=SECRET, users=self.users, backend=self.backend)
        handlers = {"/login": self._login, "/password": self._password, "/delete": self._delete}
        self.app = make_app("asgi", auth, handlers)

    async def _login(self, request: Request) -> object:
        return bool(await request.call("sign_in", {"email": "ada@example.com", "password": PASSWORD}))

    async def _password(self, request: Request) -> object:
        await request.call("update_user", {"current_password": PASSWORD, "password": "nine blue herons"})
        return None

    async def _delete(self, request: Request) -> object:
        await request.call("delete_user", {"current_password": PASSWORD})
        return None

    async def browser(self) -> Browser:
        browser = Browser(self.app, "asgi")
        browser.take(await browser.send_asgi("/login", None, {}))
        return browser

    async def _wait(self, verb: str) -> None:
        if verb == "delete_owner":
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
        answer = await thief.send_asgi("/", thief.cookie_header(), {})
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
