"""A site with `SecondFactor` and a factor for tests: a word that is right for its user."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Self

from harness.pages_support import EMAIL, ORIGIN, PASSWORD, Browser, Page, Site, site
from powauth import Account, Extension
from powauth.accounts.base import Params
from powauth.accounts.hooks import Parts
from powauth.accounts.identity import Key
from powauth.backends.base import drive
from powauth.errors import InvalidParams, StoreUnavailable
from powauth.extensions.second_factor import Challenge, EnrolledFactor, Factor, FactorEngine, SecondFactor
from powauth.testing import MemoryMailer

WORD = "open sesame"


class Words(Factor[Any]):
    """A factor that keeps the word of each user in memory. All that are bound from one object share it."""

    name: ClassVar[str] = "word"
    proves: ClassVar[frozenset[str]] = frozenset({"kba"})
    texts: ClassVar[Mapping[str, str]] = {
        "factor_word": "A word",
        "factor_word_code": "The word",
        "factor_word_action": "Continue",
    }

    engine: FactorEngine[Any]
    parts: Parts[Any]

    def __init__(self) -> None:
        self.words: dict[Key, tuple[str, EnrolledFactor]] = {}
        self.broken = False
        self.seen: list[Challenge] = []

    def bind(self, parts: Parts[Any], engine: FactorEngine[Any]) -> Self:
        bound = type(self)()
        bound.words, bound.parts, bound.engine = self.words, parts, engine
        return bound

    def give(self, key: Key, word: str = WORD, created: Any = None) -> None:
        entry = EnrolledFactor(
            factor=self.name, id="1", label="My word", created_at=created or datetime(2026, 1, 1, tzinfo=UTC)
        )
        self.words[key] = word, entry

    async def is_on(self, key: Key) -> bool:
        if self.broken:
            raise StoreUnavailable("the words are away")
        return key in self.words

    async def verify(
        self, account: Account[Any], challenge: Challenge, params: Params, request: Any
    ) -> Collection[str] | None:
        self.seen.append(challenge)
        if params.get("code") in (None, ""):
            raise InvalidParams({"code": ["can't be blank"]})
        return self.proves if params.get("code") == self.words[account.key][0] else None

    async def enrolled(self, key: Key) -> Sequence[EnrolledFactor]:
        return [self.words[key][1]] if key in self.words else []

    async def remove(self, key: Key, id: str) -> bool:  # noqa: A002
        return id == "1" and self.words.pop(key, None) is not None

    async def reset(self, key: Key) -> int:
        return 0 if self.words.pop(key, None) is None else 1


class Others(Words):
    """A second kind of word, which everybody has who has one."""

    name: ClassVar[str] = "other"
    primary: ClassVar[bool] = False
    texts: ClassVar[Mapping[str, str]] = {
        "factor_other": "Another word",
        "factor_other_code": "The other word",
        "factor_other_action": "Continue",
    }

    async def is_on(self, key: Key) -> bool:
        return True

    async def verify(
        self, account: Account[Any], challenge: Challenge, params: Params, request: Any
    ) -> Collection[str] | None:
        return self.proves if params.get("code") == "the other word" else None


class Factored:
    """A site, its mailer and its factor."""

    def __init__(self, here: Site, mailer: MemoryMailer) -> None:
        self.site = here
        self.mailer = mailer
        self.browser = here.browser
        self.program = here.program
        self.auth = here.auth

    @property
    def engine(self) -> SecondFactor[Any]:
        return self.auth.extension(SecondFactor)

    @property
    def words(self) -> Words:
        return self.engine.factor(Words)

    def member(self, email: str = EMAIL, word: str | None = WORD) -> Any:
        """Make a user, with the factor on."""
        identity = drive(self.auth.create_account(email=email, password=PASSWORD))
        if word is not None:
            self.words.give(self.auth.key_of(identity), word)
        return identity

    def password(self, browser: Browser) -> Page:
        """Give the right password, and return the page that follows."""
        page = browser.post("/login", {"email": EMAIL, "password": PASSWORD})
        assert (page.status, page.location) == (303, "/login/factor"), page.text
        return browser.follow(page)

    def answer(self, browser: Browser, code: str, **fields: str) -> Page:
        return browser.post("/login/factor", {"factor": "word", "code": code} | fields)


@contextmanager
def factored(
    framework: str,
    folder: Path,
    *,
    extensions: tuple[Extension[Any], ...] = (),
    auth: Any = None,
    two: bool = False,
    **options: Any,
) -> Iterator[Factored]:
    """A new site. ``options`` are those of `SecondFactor`."""
    mailer = MemoryMailer()
    engine = SecondFactor[Any](*[Words(), *([Others()] if two else [])], **{"mailer": mailer, **options})
    given = {"extensions": [engine, *extensions], "public_url": ORIGIN, **(auth or {})}
    with site(framework, folder, auth_options=given) as here:
        yield Factored(here, mailer)
