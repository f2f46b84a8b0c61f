"""A site with authenticator apps and recovery codes, and an app that shows codes."""

import base64
import hashlib
import hmac
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase

from harness.pages_support import EMAIL, ORIGIN, PASSWORD, Browser, Page, Site, site
from powauth import Extension
from powauth.backends.base import drive
from powauth.extensions.second_factor import RecoveryCodeMixin, RecoveryCodes, SecondFactor, Totp, TotpMixin
from powauth.testing import MemoryMailer


class Base(DeclarativeBase):
    pass


class Authenticator(TotpMixin, Base):
    __tablename__ = "authenticators"


class Code(RecoveryCodeMixin, Base):
    __tablename__ = "recovery_codes"


def code_at(secret: str, seconds: float, step: int = 0) -> str:
    """The code of RFC 6238, by its text alone: what a phone would show."""
    plain = secret.replace(" ", "").upper()
    key = base64.b32decode(plain + "=" * (-len(plain) % 8))
    digest = hmac.new(key, (int(seconds) // 30 + step).to_bytes(8), hashlib.sha1).digest()
    at = digest[-1] & 15
    return f"{(int.from_bytes(digest[at : at + 4]) & 0x7FFFFFFF) % 1_000_000:06d}"


class Authenticated:
    """A site, its mailer, and the tables of factors."""

    def __init__(self, here: Site, mailer: MemoryMailer, engine: sa.Engine) -> None:
        self.site = here
        self.mailer = mailer
        self.engine = engine
        self.browser = here.browser
        self.program = here.program
        self.auth = here.auth
        self.clock = here.clock

    @property
    def factors(self) -> SecondFactor[Any]:
        return self.auth.extension(SecondFactor)

    @property
    def totp(self) -> Totp[Any]:
        return self.factors.factor(Totp)

    def key_of(self, email: str = EMAIL) -> Any:
        account = drive(self.auth.accounts.users.find(email))
        assert account is not None
        return account.key

    def member(self, email: str = EMAIL) -> Any:
        return drive(self.auth.create_account(email=email, password=PASSWORD))

    def signed_in(self, email: str = EMAIL) -> Browser:
        """A browser of a new user without a factor."""
        self.member(email)
        browser = self.browser()
        assert browser.sign_in(email).status == 303
        return browser

    def code(self, secret: str, step: int = 0) -> str:
        return code_at(secret, self.clock(), step)

    def enrol(self, browser: Browser) -> str:
        """Set up an authenticator app, and return its secret."""
        page = browser.send(browser.get("/account/factors/totp"), "begin")
        secret = secret_on(page)
        done = browser.send(page, "confirm", code=self.code(secret))
        assert (done.status, done.location) == (303, "/account/factors?done=factor_enrolled"), done.text
        return secret

    def enrolled(self, email: str = EMAIL) -> str:
        """A new user with an app; return its secret. The code of the enrolment is used up."""
        secret = self.enrol(self.signed_in(email))
        self.clock.now += 60
        return secret

    def answer(self, browser: Browser, code: str, factor: str = "totp") -> Page:
        return browser.post("/login/factor", {"factor": factor, "code": code})

    def sign_in(self, browser: Browser, secret: str, email: str = EMAIL) -> Page:
        assert browser.sign_in(email).location == "/login/factor"
        return self.answer(browser, self.code(secret))

    def codes(self, browser: Browser) -> list[str]:
        """Make recovery codes."""
        page = browser.post("/account/factors/recovery", {"action": "make"})
        assert page.status == 200, page.text
        return re.findall(r"<code>([a-z2-7-]{19})</code>", page.html)

    def rows(self, model: Any = Authenticator) -> list[dict[str, Any]]:
        with self.engine.connect() as connection:
            return [dict(row) for row in connection.execute(sa.select(model.__table__)).mappings()]


def secret_on(page: Page) -> str:
    assert page.status == 200, page.text
    (found,) = re.findall(r"<code>([A-Z2-7 ]+)</code>", page.html)
    return str(found)


@contextmanager
def authenticated(
    framework: str,
    folder: Path,
    *,
    extensions: tuple[Extension[Any], ...] = (),
    auth: Any = None,
    engine: sa.Engine | None = None,
    pages: Any = None,
    **options: Any,
) -> Iterator[Authenticated]:
    """A new site. ``options`` are those of `SecondFactor`, ``pages`` those of the pages."""
    own = engine or sa.create_engine(f"sqlite:///{folder / 'factors.sqlite3'}")
    Base.metadata.create_all(own)
    mailer = MemoryMailer()
    factors = SecondFactor[Any](Totp(own, Authenticator), RecoveryCodes(own, Code), **{"mailer": mailer, **options})
    given = {"extensions": [factors, *extensions], "public_url": ORIGIN, **(auth or {})}
    with site(framework, folder, auth_options=given, **(pages or {})) as here:
        yield Authenticated(here, mailer, own)
    own.dispose()
