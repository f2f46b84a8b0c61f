"""The suite's tests, and the methods that a subclass provides."""

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Collection, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import aclosing, contextmanager, suppress
from typing import Any, get_args
from unittest import SkipTest

from powauth import Account, Event, Extension, PowauthError, SessionAuth, StoreUnavailable, UsersContext
from powauth.accounts.changes import CREATED, REVOKED
from powauth.backends.base import Backend, Mode, check_namespace, drive
from powauth.backends.memory import MemoryBackend
from powauth.backends.wrapping import BackendWrapper
from powauth.events import EventName
from powauth.pages.page import Page
from powauth.testing.extension.world import Auth, Browser, People
from powauth.testing.users.suite import BETTER, GOOD, HOSTILE

__all__ = ["Auth", "Suite"]

EMAIL = "mia@example.com"

TAKERS = 20
"""Number of parallel uses of something that is valid for one use."""

MOST_VERBS = 12
"""Upper limit of the calls of the store in one use."""

Change = Callable[[Auth, Browser, Account[Any]], Awaitable[object]]


async def _own(browser: Browser, name: str, **params: object) -> object:
    return await browser.send(lambda auth: getattr(auth, name)({"current_password": GOOD, **params}))


CHANGES: dict[str, Change] = {
    "a user's new password": lambda auth, browser, account: _own(browser, "update_user", password=BETTER),
    "a user's new user id": lambda auth, browser, account: _own(browser, "update_user", email="mia@example.org"),
    "a user's deletion": lambda auth, browser, account: _own(browser, "delete_user"),
    "a user's sign-out everywhere": lambda auth, browser, account: browser.send(lambda bound: bound.revoke_all()),
    "the app's new password": lambda auth, browser, account: auth.update_account(account.key, password=BETTER),
    "the app's new user id": lambda auth, browser, account: auth.update_account(account.key, email="mia@example.org"),
    "a lock": lambda auth, browser, account: auth.update_account(account.key, locked=True),
    "the app's deletion": lambda auth, browser, account: auth.delete_account(account.key),
    "a revocation": lambda auth, browser, account: auth.revoke_user(account.key),
    "a new user with the same key": lambda auth, browser, account: auth.credentials_changed(account.key, CREATED),
    "the app's own reason": lambda auth, browser, account: auth.credentials_changed(account.key, "moved"),
}
"""Everything that changes or ends an account, by name."""


class BreakableBackend(BackendWrapper):
    """A backend that fails when it is told to, or runs something before one of its verbs."""

    def __init__(self, inner: Backend) -> None:
        self.inner = inner
        self.mode: Mode = inner.mode
        self.broken = False
        self._rival: Callable[[], Coroutine[Any, Any, None]] | None = None
        self._verbs_left = 0

    def run_before(self, verb: int, rival: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run something before the verb of that number, counted from 1."""
        self._rival, self._verbs_left = rival, verb

    def here(self) -> Backend:
        """See `BackendWrapper.here`."""
        return self.inner

    async def ask(self, verb: str, call: Callable[[Backend], Coroutine[Any, Any, Any]]) -> Any:
        """See `BackendWrapper.ask`."""
        if self.broken and verb != "close":
            raise StoreUnavailable("the suite has broken the store")
        self._verbs_left -= 1
        if self._rival is not None and self._verbs_left == 0:
            rival, self._rival = self._rival, None
            await rival()
        return await call(self.inner)


class Suite:
    """The methods that a subclass of `powauth.testing.ExtensionConformance` provides, and the tests.

    Attributes:
        survives: names of `CHANGES` that the extension survives on purpose. API keys may survive a new password.
    """

    survives: Collection[str] = ()

    # What a subclass provides

    def make_extension(self) -> Extension[Any]:
        """Return the extension, not yet bound.

        A test may call it several times. If the extension needs something that must be closed, such as an engine, keep
        each one and close all of them after the test, in an ``autouse`` fixture of your class.
        """
        raise NotImplementedError

    async def hold(self, auth: Auth, account: Account[Any]) -> object:
        """Make the extension hold something for a user, such as a token, and return it.

        Without this method, the tests of what an extension holds are skipped.
        """
        raise SkipTest("this extension holds nothing for a user: override `hold` and `is_valid` if it does")

    async def is_valid(self, auth: Auth, held: object) -> bool:
        """Return whether something is valid, and leave it so. ``held`` is a result of `hold`, or input of a client."""
        raise NotImplementedError

    async def use(self, auth: Auth, held: object) -> bool:
        """Use something that is good for one use. Return whether that succeeded.

        Without this method, the tests of one use are skipped.
        """
        raise SkipTest("nothing of this extension is good for one use: override `use` if something is")

    def make_users(self) -> UsersContext[Any, Any]:
        """Return users without any user, if the extension needs columns. Sign-in needs ``email`` and ``password``."""
        return People()

    def make_backend(self) -> Backend:
        """Return an empty store."""
        return MemoryBackend()

    # What the tests use

    def run(self, scenario: Callable[[Auth, BreakableBackend], Coroutine[Any, Any, None]]) -> None:
        """Run a scenario without an event loop, and on one. Each run has an app of its own, which it closes."""
        drive(self._closing(scenario))
        asyncio.run(self._closing(scenario))

    async def _closing(self, scenario: Callable[[Auth, BreakableBackend], Coroutine[Any, Any, None]]) -> None:
        backend = BreakableBackend(self.make_backend())
        async with aclosing(self.auth(backend)) as auth:
            await scenario(auth, backend)

    @contextmanager
    def _opened(self, **options: Any) -> Iterator[Auth]:
        auth = self.auth(self.make_backend(), **options)
        try:
            yield auth
        finally:
            drive(auth.aclose())

    def auth(self, backend: Backend, **options: Any) -> Auth:
        """Return an authenticator with the extension. Close it, or a thread of the extension may outlive the test."""
        given: dict[str, Any] = {"secret_key": secrets.token_bytes(48), "users": self.make_users(), "throttle": None}
        return SessionAuth(**{"extensions": [self.make_extension()], **given, "backend": backend, **options})

    async def person(self, auth: Auth, email: str = EMAIL) -> Account[Any]:
        """Return a new user."""
        account = await auth.accounts.users.create({"email": email, "password": GOOD})
        assert isinstance(account, Account)
        return account

    async def holder(self, auth: Auth, email: str = EMAIL) -> tuple[Account[Any], object]:
        """Return a new user, and what the extension holds for them."""
        account = await self.person(auth, email)
        held = await self.hold(auth, account)
        assert await self.is_valid(auth, held) is True, "what the extension holds is not valid at first"
        return account, held

    # The tests

    def test_it_has_a_name(self) -> None:
        """The name is part of the names of its keys and records."""
        name = self.make_extension().name
        assert name, "the extension has no name"
        check_namespace(f"credentials.{name}")

    def test_bind_leaves_the_given_extension_as_it_is(self) -> None:
        """An app may give one object to several authenticators."""
        given = self.make_extension()
        before = dict(vars(given))
        with self._opened(extensions=[given]) as auth:
            assert auth.extension(type(given)).name == given.name
        assert dict(vars(given)) == before, "bind changed the object that the app gave: return a new one"

    def test_its_pages_are_pages_with_paths_of_their_own(self) -> None:
        """Two pages of one path would hide one of them."""
        with self._opened() as auth:
            pages = [page for extension in auth.accounts.hooks.extensions for page in extension.pages()]
        assert all(isinstance(page, Page) for page in pages), "what pages returns is no Page"
        assert len({page.path for page in pages}) == len(pages), "two pages have one path"

    def test_each_flow_works_or_is_refused(self) -> None:
        """An extension must raise only errors of powauth. Any other error would be a 500."""

        async def scenario(auth: Auth, backend: BreakableBackend) -> None:
            del backend
            await self._flows(auth)

        self.run(scenario)

    async def _flows(self, auth: Auth) -> None:
        await self.person(auth)
        browser, params = Browser(auth), {"email": EMAIL, "password": GOOD}
        flows: list[Callable[[Any], Awaitable[object]]] = [
            lambda bound: bound.register({"email": "new@example.com", "password": GOOD}),
            lambda bound: bound.sign_in({**params, "password": BETTER}),
            lambda bound: bound.sign_in({"email": ["x"], "password": None}),
            lambda bound: bound.sign_in(params),
            lambda bound: bound.update_user(current_password=GOOD, password=BETTER),
            lambda bound: bound.sign_out(),
            lambda bound: bound.sign_in({**params, "password": BETTER}),
            lambda bound: bound.delete_user(current_password=BETTER),
        ]
        for flow in flows:
            with suppress(PowauthError):
                await browser.send(flow)

    def test_it_emits_only_events_that_it_declares(self) -> None:
        """Operators set alarms by the declared events."""
        seen: list[Event] = []
        with self._opened(on_event=seen.append) as auth:
            drive(self._flows(auth))
            with suppress(SkipTest):
                _, held = drive(self.holder(auth, "ben@example.com"))
                for value in (held, *HOSTILE):
                    drive(self.use(auth, value))
        declared = {kind.name for extension in auth.accounts.hooks.extensions for kind in extension.events}
        others = {event.name for event in seen} - declared - {*get_args(EventName)}
        assert not others, f"add {', '.join(sorted(others))} to the extension's events"

    def test_trm_what_it_holds_ends_with_each_change(self) -> None:
        """TRM-02, TRM-03, TRM-04: whoever holds something from before the change holds nothing after it."""
        for name, change in CHANGES.items():
            if name in self.survives:
                continue

            async def scenario(auth: Auth, _: BreakableBackend, name: str = name, change: Change = change) -> None:
                account, held = await self.holder(auth)
                browser = Browser(auth)
                await browser.send(lambda bound: bound.sign_in_user(account))
                await change(auth, browser, account)
                assert await self.is_valid(auth, held) is False, f"what the extension holds survives {name}"

            self.run(scenario)

    def test_trm_a_change_without_powauth_ends_it_too(self) -> None:
        """Another program may change the users table. The user's proof then differs."""

        async def scenario(auth: Auth, backend: BreakableBackend) -> None:
            del backend
            account, held = await self.holder(auth)
            await auth.accounts.users.update(account.key, {"password": BETTER}, trusted=True)
            assert await self.is_valid(auth, held) is False, "what the extension holds survives a change elsewhere"

        if "a change elsewhere" not in self.survives:
            self.run(scenario)

    def test_trm_a_deletion_without_powauth_ends_it_too(self) -> None:
        """What a user held must not be valid after another program deleted the user."""

        async def scenario(auth: Auth, backend: BreakableBackend) -> None:
            del backend
            account, held = await self.holder(auth)
            await auth.accounts.users.delete(account.key)
            assert await self.is_valid(auth, held) is False, "what the extension holds survives its user"

        self.run(scenario)

    def test_a_change_of_one_user_leaves_the_others_alone(self) -> None:
        """A sign-out everywhere of one user must not end anything of another user."""

        async def scenario(auth: Auth, backend: BreakableBackend) -> None:
            del backend
            account, _ = await self.holder(auth)
            _, theirs = await self.holder(auth, "ben@example.com")
            await auth.revoke_user(account.key)
            await auth.delete_account(account.key)
            assert await self.is_valid(auth, theirs) is True, "another user's change ended it"

        self.run(scenario)

    def test_a_user_of_whom_it_holds_nothing_is_no_error(self) -> None:
        """Powauth calls every extension for every user, also for users who are gone."""

        async def scenario(auth: Auth, backend: BreakableBackend) -> None:
            del backend
            account = await self.person(auth)
            for _ in range(2):
                await auth.revoke_user(account.key)
            await auth.delete_account(account.key)
            await auth.revoke_user(account.key)

        self.run(scenario)

    def test_a_store_that_fails_is_an_error_if_anything_may_still_be_valid(self) -> None:
        """`Extension.credentials_changed` must not hide it: the caller would believe that everything has ended."""

        async def scenario(auth: Auth, backend: BreakableBackend) -> None:
            account, held = await self.holder(auth)
            backend.broken = True
            raised = False
            try:
                for extension in auth.accounts.hooks.extensions:
                    await extension.credentials_changed(account.key, REVOKED)
            except StoreUnavailable:
                raised = True
            backend.broken = False
            assert raised or await self.is_valid(auth, held) is False, "a failure of the store was hidden"

        self.run(scenario)

    def test_it_serves_two_authenticators(self) -> None:
        """One object may be given to two authenticators. What one of them issued is invalid at the other."""

        async def scenario(auth: Auth, backend: BreakableBackend) -> None:
            given = self.make_extension()
            options = {"extensions": [given], "users": auth.users, "secret_key": auth.keyring}
            async with (
                aclosing(self.auth(backend, session_key="site", **options)) as site,
                aclosing(self.auth(backend, session_key="admin", **options)) as admin,
            ):
                account = await self.person(auth)
                held = await self.hold(site, account)
                assert await self.is_valid(site, held) is True, "the second authenticator took the extension over"
                assert await self.is_valid(admin, held) is False, "what one authenticator issued is valid at another"

        self.run(scenario)

    def test_input_of_any_kind_is_refused_without_an_error(self) -> None:
        """A client may send anything in the place of what the extension holds."""

        async def scenario(auth: Auth, backend: BreakableBackend) -> None:
            del backend
            await self.holder(auth)
            for value in HOSTILE:
                try:
                    valid = await self.is_valid(auth, value)
                except Exception as error:
                    raise AssertionError(f"{ascii(value)[:60]} breaks the extension: {error!r}") from error
                assert valid is False, f"{ascii(value)[:60]} is valid"

        self.run(scenario)

    def test_it_is_used_once(self) -> None:
        """What has been used is invalid."""

        async def scenario(auth: Auth, backend: BreakableBackend) -> None:
            del backend
            _, held = await self.holder(auth)
            assert await self.use(auth, held) is True, "the first use fails"
            assert await self.use(auth, held) is False, "a second use succeeds"
            assert await self.is_valid(auth, held) is False, "it is valid after its use"

        self.run(scenario)

    def test_of_parallel_uses_one_wins(self) -> None:
        """Another request may run between the check and the use."""
        with self._opened() as auth, ThreadPoolExecutor(TAKERS) as pool:
            _, held = drive(self.holder(auth))
            won = list(pool.map(lambda _: drive(self.use(auth, held)), range(TAKERS)))
        assert sum(won) == 1, f"{sum(won)} of {TAKERS} parallel uses succeed"

    def test_of_two_uses_at_once_one_wins_at_every_step(self) -> None:
        """The second use runs before the first one's next call of the store, whichever that is."""
        for verb in range(1, MOST_VERBS + 1):

            async def scenario(auth: Auth, backend: BreakableBackend, verb: int = verb) -> None:
                _, held = await self.holder(auth)
                won: list[bool] = []

                async def rival() -> None:
                    won.append(await self.use(auth, held))

                backend.run_before(verb, rival)
                won.append(await self.use(auth, held))
                assert won.count(True) == 1, f"of two uses at once {won.count(True)} succeed"

            self.run(scenario)

    def test_it_closes_and_can_be_used_again(self) -> None:
        """`SessionAuth.aclose` closes what runs in the background. Later use opens it again."""

        async def scenario(auth: Auth, backend: BreakableBackend) -> None:
            del backend
            for _ in range(2):
                for extension in auth.accounts.hooks.extensions:
                    await extension.aclose()

        self.run(scenario)
