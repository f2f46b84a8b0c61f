"""Clients that keep visiting a site during a fault of its engine, and their findings."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field

from benchmarks.site import Answer, Client, Site, sign_in

WORKERS = 64
"""The number of concurrent requests."""

PAUSE_SECONDS = 0.04
"""The pause between two requests of a worker: about 1,000 requests a second in all, to leave the engine its share."""

PATIENCE_SECONDS = 120.0
"""The longest time for a sign-in on a working site, even on a busy machine."""

UNAUTHORIZED, UNAVAILABLE, OK = 401, 503, 200

Fault = Callable[[], Awaitable[float]]
"""Breaks the engine and repairs it. Returns the time, by `time.monotonic`, at which the engine was back."""


@dataclass
class Findings:
    """One row of the table.

    Attributes:
        requests: the number of requests answered during the fault.
        signed_out: clients that were treated as anonymous, or lost their cookie.
        signed_in: answers to a client as another user, or to a signed-out client as a user.
        refused: answers 503, all with ``Retry-After`` and without ``Set-Cookie``.
        errors: other answers that are errors.
        public_failures: failed requests for the public page.
        sign_ins, sign_outs: the numbers of acknowledged and refused ones during the fault.
        slowest: seconds of the slowest answer.
        served_after: seconds from the engine's return until each client had been served.
    """

    engine: str
    fault: str
    requests: int = 0
    signed_out: int = 0
    signed_in: int = 0
    refused: int = 0
    errors: list[str] = field(default_factory=list)
    public_failures: int = 0
    sign_ins: list[int] = field(default_factory=lambda: [0, 0])
    sign_outs: list[int] = field(default_factory=lambda: [0, 0])
    slowest: float = 0.0
    served_after: float = 0.0

    @property
    def harmless(self) -> bool:
        """True if nobody was signed in or out, and no answer was wrong."""
        return not (self.signed_out or self.signed_in or self.errors or self.public_failures)


class Crowd:
    """All clients of a site.

    Attributes:
        clients: the signed-in clients.
        gone: the cookies of clients that have signed out.
    """

    def __init__(self, seed: int = 1) -> None:
        self.clients: list[Client] = []
        self.gone: list[str] = []
        self.dice = random.Random(seed)
        self._names = 0

    def name(self) -> str:
        self._names += 1
        return f"user-{self._names}"

    async def gather(self, site: Site, clients: int, gone: int) -> None:
        """Sign in ``clients`` clients, and ``gone`` more that sign out again."""

        async def one(leaves: bool) -> None:
            name, client, status = self.name(), None, None
            async with asyncio.timeout(PATIENCE_SECONDS):  # the engine is well, but the machine may be busy
                while client is None:
                    client = await sign_in(site, name)
                while leaves and status != OK:
                    status = (await site.ask("/logout", client.cookie)).status
            if leaves:
                self.gone.append(client.cookie)
            else:
                self.clients.append(client)

        await bounded([one(number >= clients) for number in range(clients + gone)], 16)

    async def during(self, site: Site, engine: str, name: str, fault: Fault) -> Findings:
        """Return the findings of the crowd during a fault."""
        found = Findings(engine, name)
        over = asyncio.Event()
        workers = [asyncio.create_task(self._visit(site, found, over)) for _ in range(WORKERS)]
        workers.append(asyncio.create_task(self._come_and_go(site, found, over)))
        await self._until_someone_signs_in(found)
        before = found.requests
        returned = await fault()
        found.requests -= before
        await self._until_someone_signs_in(found)
        over.set()
        await self._serve_all(site, found)
        found.served_after = time.monotonic() - returned
        await asyncio.gather(*workers)
        await bounded([self._check_gone(site, cookie, found) for cookie in self.gone], 16)
        return found

    async def _visit(self, site: Site, found: Findings, over: asyncio.Event) -> None:
        while not over.is_set():
            what = self.dice.random()
            if what < 0.15:
                await self._check_gone(site, self.dice.choice(self.gone), found)
            elif what < 0.3:
                client = self.dice.choice(self.clients)
                answer = await self._ask(site, "/", client.cookie, found)
                client.take(answer)
                found.public_failures += answer.status != OK
            else:
                await self._check(site, self.dice.choice(self.clients), found)
            await asyncio.sleep(PAUSE_SECONDS)

    async def _until_someone_signs_in(self, found: Findings) -> None:
        """Wait for a sign-in: before a fault for the load to begin, after it for the recovery, without a restart."""
        acknowledged = found.sign_ins[0]
        async with asyncio.timeout(PATIENCE_SECONDS):
            while found.sign_ins[0] == acknowledged:  # noqa: ASYNC110 the visitors run meanwhile
                await asyncio.sleep(PAUSE_SECONDS)

    async def _come_and_go(self, site: Site, found: Findings, over: asyncio.Event) -> None:
        """Sign in and out during the fault. Acknowledged changes must persist."""
        while not over.is_set():
            begun = time.monotonic()
            client = await sign_in(site, self.name())
            found.slowest = max(found.slowest, time.monotonic() - begun)
            found.sign_ins[client is None] += 1
            if client is not None and self.dice.random() < 0.5:
                self.clients.append(client)
            elif client is not None:
                begun = time.monotonic()
                answer = await site.ask("/logout", client.cookie)
                found.slowest = max(found.slowest, time.monotonic() - begun)
                found.sign_outs[answer.status != OK] += 1
                if answer.status == OK:
                    self.gone.append(client.cookie)
            await asyncio.sleep(PAUSE_SECONDS)

    async def _ask(self, site: Site, path: str, cookie: str, found: Findings) -> Answer:
        begun = time.monotonic()
        answer = await site.ask(path, cookie)
        found.slowest = max(found.slowest, time.monotonic() - begun)
        found.requests += 1
        if answer.cookie == "":
            found.signed_out += 1
        if answer.status == UNAVAILABLE and answer.retry_after and answer.cookie is None:
            found.refused += 1
        elif answer.status >= 500:
            found.errors.append(f"{path}: {answer}")
        return answer

    async def _check(self, site: Site, client: Client, found: Findings) -> bool:
        """Send a request as a client. Return whether it was served."""
        answer = await self._ask(site, "/private", client.cookie, found)
        client.take(answer)
        found.signed_out += answer.status == UNAUTHORIZED
        found.signed_in += answer.status == OK and answer.name != client.name
        return answer.status in {OK, UNAUTHORIZED}

    async def _check_gone(self, site: Site, cookie: str, found: Findings) -> None:
        answer = await self._ask(site, "/private", cookie, found)
        found.signed_in += answer.status == OK

    async def _serve_all(self, site: Site, found: Findings) -> None:
        async def insist(client: Client) -> None:
            while not await self._check(site, client, found):  # noqa: ASYNC110 clients try again
                await asyncio.sleep(PAUSE_SECONDS)

        await bounded([insist(client) for client in self.clients], WORKERS)


async def bounded(work: Sequence[Awaitable[None]], limit: int) -> None:
    """Await all work, with at most ``limit`` at once."""
    waiting = iter(work)

    async def take() -> None:
        for each in waiting:
            await each

    await asyncio.gather(*(take() for _ in range(limit)))
