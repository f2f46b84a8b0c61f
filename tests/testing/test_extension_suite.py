"""The suite for extensions: good extensions pass it, and each planted fault is found by one of its tests."""

import asyncio
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any, ClassVar, Self
from unittest import SkipTest

import pytest
from audit_log import AuditLog

from harness.token_scenarios import Links
from powauth import Account, EventKind, Extension, Parts, StoreUnavailable
from powauth.accounts.changes import CHANGED, CREATED
from powauth.accounts.identity import Key
from powauth.backends.base import Record, make_key, make_owner, shard_of
from powauth.extensions import Claim, OneTimeTokens, Outbox
from powauth.pages.page import Page
from powauth.pages.visit import PageAnswer, PageVisit
from powauth.testing import ExtensionConformance, MemoryMailer
from powauth.testing.extension import Auth

Tokens = OneTimeTokens[Any]


class Good(Extension[Any]):
    """One-time tokens, mail and pages, as an app may write them. The mutants below change one thing each."""

    name: ClassVar[str] = "good"
    kind: ClassVar[type[Tokens]] = OneTimeTokens
    tokens: Tokens
    outbox: Outbox
    parts: Parts[Any]

    def bind(self, parts: Parts[Any]) -> Self:
        bound = type(self)()
        bound.tokens, bound.outbox, bound.parts = self.kind(parts, self.name), Outbox(MemoryMailer(), parts), parts
        return bound

    async def credentials_changed(self, key: Key, why: str) -> None:
        await self.tokens.end(key)

    async def aclose(self) -> None:
        await self.outbox.aclose()


class HoldsTokens(ExtensionConformance):
    """The suite for an extension of a class."""

    kind: type[Any] = Good

    def make_extension(self) -> Extension[Any]:
        made: Extension[Any] = self.kind()
        return made

    async def hold(self, auth: Auth, account: Account[Any]) -> object:
        return await auth.extension(self.kind).tokens.issue(account.key, account.identity.email)

    async def is_valid(self, auth: Auth, held: object) -> bool:
        return await auth.extension(self.kind).tokens.find(held) is not None

    async def use(self, auth: Auth, held: object) -> bool:
        return await auth.extension(self.kind).tokens.take(held) is not None


class TestGood(HoldsTokens):
    pass


class TestLinks(HoldsTokens):
    kind = Links


class TestAuditLog(ExtensionConformance):
    """The example holds nothing for a user."""

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        self.path = tmp_path / "audit"

    def make_extension(self) -> Extension[Any]:
        return AuditLog(self.path)


# --- mutants ----------------------------------------------------------------------------------------------------------


class EndsNothing(Good):
    async def credentials_changed(self, key: Key, why: str) -> None:
        pass


class EndsOnlyAfterAPassword(Good):
    async def credentials_changed(self, key: Key, why: str) -> None:
        if why == CHANGED:
            await super().credentials_changed(key, why)


class OutlivesItsUser(Good):
    async def credentials_changed(self, key: Key, why: str) -> None:
        if why != CREATED:
            await super().credentials_changed(key, why)


class HidesFailures(Good):
    async def credentials_changed(self, key: Key, why: str) -> None:
        with suppress(StoreUnavailable):
            await super().credentials_changed(key, why)


class EndsEverybodys(Good):
    async def credentials_changed(self, key: Key, why: str) -> None:
        for each in range(1, 10):
            await self.tokens.end(each)


class KnowsNobodyElse(Good):
    async def credentials_changed(self, key: Key, why: str) -> None:
        if not await self.tokens.end(key):
            raise LookupError(f"it holds nothing for {key}")


class ChangesItself(Good):
    def bind(self, parts: Parts[Any]) -> Self:
        self.tokens, self.outbox = self.kind(parts, self.name), Outbox(MemoryMailer(), parts)
        return self


class Nameless(Good):
    name = ""

    def bind(self, parts: Parts[Any]) -> Self:
        bound = type(self)()
        bound.tokens, bound.outbox = self.kind(parts, "nameless"), Outbox(MemoryMailer(), parts)
        return bound


class NeedsALoop(Good):
    async def credentials_changed(self, key: Key, why: str) -> None:
        await asyncio.sleep(0)
        await super().credentials_changed(key, why)


class BreaksFlows(Good):
    async def before(self, step: Any) -> None:
        if step.flow == "authentication":
            step.params["email"].casefold()


async def nothing(visit: PageVisit) -> PageAnswer:
    raise NotImplementedError


class TwoPagesOfOnePath(Good):
    def pages(self) -> list[Page]:
        return [Page(name=name, path="/same", get=nothing) for name in ("one", "other")]


class NoPages(Good):
    def pages(self) -> Any:
        return ["/same"]


class FailsToOpenAgain(Good):
    closed = False

    async def aclose(self) -> None:
        if self.closed:
            raise RuntimeError("closed already")
        self.closed = True


class Unproven(Good):
    """A token is a record under a key of its own, without the user's proof."""

    def bind(self, parts: Parts[Any]) -> Self:
        bound = super().bind(parts)
        bound.tokens = PlainTokens(parts, self.name)
        return bound


class PlainTokens(Tokens):
    """Tokens as one may write them first: ``<owner>.<name>``, in one namespace for all authenticators."""

    space = "plain"

    def __init__(self, parts: Parts[Any], purpose: str) -> None:
        super().__init__(parts, purpose)
        self.parts = parts

    def owner(self, key: Key) -> bytes:
        return make_owner(self.space, str(key))

    async def issue(self, key: Key, address: str, *, request: Any = None) -> str:
        now, owner = self.parts.now(), self.owner(key)
        record = make_key(self.space, shard_of(owner) + b"token")
        await self.parts.backend.create(Record(record, owner, 0, now, now + 3_600_000, b""), None, now)
        return record.hex()

    async def find(self, token: object, *, request: Any = None) -> Any:
        assert isinstance(token, str)
        return await self.parts.backend.get(bytes.fromhex(token), self.parts.now())

    async def take(self, token: object, *, request: Any = None) -> Any:
        found = await self.find(token)
        if found is not None:
            await self.parts.backend.delete(found.key, self.parts.now())
        return found

    async def end(self, key: Key) -> int:
        return await self.parts.backend.delete_owner(self.owner(key), self.parts.now())


class KeepsUsed(Tokens):
    async def take(self, token: object, *, request: Any = None) -> Claim[Any] | None:
        return await self.find(token)


class UsesTwice(Good):
    kind = KeepsUsed


class LooksFirst(Tokens):
    async def take(self, token: object, *, request: Any = None) -> Claim[Any] | None:
        claim = await self.find(token)
        await super().take(token)
        return claim


class TwoWinners(Good):
    kind = LooksFirst


class NeverIssues(Tokens):
    async def issue(self, key: Key, address: str, *, request: Any = None) -> str | None:
        return None


class Undeclared(Good):
    async def after(self, step: Any) -> None:
        self.parts.emit(EventKind("step_taken", "a flow ended"), step.key)


class UndeclaredUse(Tokens):
    def __init__(self, parts: Parts[Any], purpose: str) -> None:
        super().__init__(parts, purpose)
        self.parts = parts

    async def take(self, token: object, *, request: Any = None) -> Claim[Any] | None:
        self.parts.emit(EventKind("link_opened", "a link was opened"))
        return await super().take(token)


class TakesUndeclared(Good):
    kind = UndeclaredUse


class HoldsNothing(Good):
    kind = NeverIssues


ENDS = "test_trm_what_it_holds_ends_with_each_change"

FOUND: dict[type[Good], dict[str, str]] = {
    EndsNothing: {ENDS: "survives a user's sign-out everywhere"},
    EndsOnlyAfterAPassword: {ENDS: "survives a user's sign-out everywhere"},
    OutlivesItsUser: {ENDS: "survives a new user with the same key"},
    HidesFailures: {
        "test_a_store_that_fails_is_an_error_if_anything_may_still_be_valid": "a failure of the store was hidden"
    },
    EndsEverybodys: {"test_a_change_of_one_user_leaves_the_others_alone": "another user's change ended it"},
    KnowsNobodyElse: {"test_a_user_of_whom_it_holds_nothing_is_no_error": "holds nothing for 1"},
    ChangesItself: {
        "test_bind_leaves_the_given_extension_as_it_is": "bind changed the object",
        "test_it_serves_two_authenticators": "is valid at another",
    },
    Nameless: {"test_it_has_a_name": "the extension has no name"},
    NeedsALoop: {ENDS: "waits on an event loop that is not there"},
    BreaksFlows: {"test_each_flow_works_or_is_refused": "has no attribute 'casefold'"},
    NoPages: {"test_its_pages_are_pages_with_paths_of_their_own": "what pages returns is no Page"},
    Undeclared: {"test_it_emits_only_events_that_it_declares": "add step_taken to the extension's events"},
    TakesUndeclared: {"test_it_emits_only_events_that_it_declares": "add link_opened to the extension's events"},
    TwoPagesOfOnePath: {"test_its_pages_are_pages_with_paths_of_their_own": "two pages have one path"},
    FailsToOpenAgain: {"test_it_closes_and_can_be_used_again": "closed already"},
    Unproven: {
        "test_trm_a_change_without_powauth_ends_it_too": "survives a change elsewhere",
        "test_trm_a_deletion_without_powauth_ends_it_too": "survives its user",
        "test_input_of_any_kind_is_refused_without_an_error": "None breaks the extension",
        "test_it_serves_two_authenticators": "is valid at another",
        "test_of_two_uses_at_once_one_wins_at_every_step": "of two uses at once 2 succeed",
    },
    UsesTwice: {
        "test_it_is_used_once": "a second use succeeds",
        "test_of_parallel_uses_one_wins": "20 of 20 parallel uses succeed",
    },
    TwoWinners: {"test_of_two_uses_at_once_one_wins_at_every_step": "of two uses at once 2 succeed"},
    HoldsNothing: {ENDS: "is not valid at first", "test_it_is_used_once": "is not valid at first"},
}


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in FOUND.items() for name in names])
def test_a_planted_fault_is_found(kind: type[Good], name: str) -> None:
    suite = HoldsTokens()
    suite.kind = kind
    test: Callable[[], None] = getattr(suite, name)
    with pytest.raises(Exception, match=FOUND[kind][name]):
        test()


TESTS = sorted(name for name in dir(ExtensionConformance) if name.startswith("test_"))


def test_each_test_of_the_suite_finds_something() -> None:
    assert {name for names in FOUND.values() for name in names} == {*TESTS}


@pytest.mark.parametrize("name", TESTS)
def test_each_test_of_the_suite_closes_the_extension(name: str) -> None:
    """Otherwise a thread of it could still use an engine that the app's fixture has disposed of."""
    bound, closed = list[Extension[Any]](), list[Extension[Any]]()

    class Noted(Good):
        def bind(self, parts: Parts[Any]) -> Self:
            bound.append(made := super().bind(parts))
            return made

        async def aclose(self) -> None:
            await super().aclose()
            closed.append(self)

    suite = HoldsTokens()
    suite.kind = Noted
    getattr(suite, name)()
    assert [each for each in bound if each not in closed] == []


def test_what_an_extension_does_not_offer_is_skipped_with_what_to_do() -> None:
    class Bare(ExtensionConformance):
        def make_extension(self) -> Extension[Any]:
            class Idle(Extension[Any]):
                name = "idle"

            return Idle()

    with pytest.raises(SkipTest, match="override `hold` and `is_valid` if it does"):
        Bare().test_trm_what_it_holds_ends_with_each_change()

    class Holds(HoldsTokens):
        use = ExtensionConformance.use

    with pytest.raises(SkipTest, match="override `use` if something is"):
        Holds().test_it_is_used_once()


def test_what_an_extension_survives_on_purpose_is_not_tested() -> None:
    class Documented(HoldsTokens):
        kind = EndsOnlyAfterAPassword
        survives = (
            *("a revocation", "the app's own reason", "a user's sign-out everywhere"),
            *("a user's deletion", "the app's deletion", "a new user with the same key"),
        )

    Documented().test_trm_what_it_holds_ends_with_each_change()
