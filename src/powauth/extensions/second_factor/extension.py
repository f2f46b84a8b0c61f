"""`SecondFactor`: the extension."""

from collections.abc import Sequence
from dataclasses import replace

from powauth.accounts.identity import I
from powauth.extensions.second_factor.engine import Engine
from powauth.extensions.second_factor.pages import FactorPages
from powauth.pages.page import Page


class SecondFactor(Engine[I]):
    """Asks for a second factor before every new session, if the user has one.

    Args:
        factors: the kinds of factors, such as `Totp` and `RecoveryCodes`. At least one must be primary.
        required: whether every user must have a second factor, or a function of the identity. Such a user turns the
            first one on during the sign-in, after the password, and cannot remove the last one.
        mailer: sends notices of changes. ``None`` sends none.
        ttl: the time for which a challenge is valid, at most 30 minutes.
        failures: the allowed number of wrong answers of a user, at most 100. Only somebody who knows the password or
            has a session of the user can use them up. The user then waits until the period is over, but keeps existing
            sessions.
        path: the path of the page that asks for a factor.
        manage_path: the path of the page with the user's factors.
        address_field: the field of the identity with the address for notices.
        texts: texts that replace those of the pages and of the mail.
        templates: a folder of the app with templates that replace those of the mail.

    Attributes:
        parts: the parts of the authenticator, after `bind`.
        challenges: the challenges, after `bind`.

    Raises:
        ConfigError: if an option is wrong.
    """

    def pages(self) -> Sequence[Page]:
        """See `Extension.pages`."""
        own = FactorPages(self).own_pages()
        return [*own, *(self._worded(page) for factor in self.factors.values() for page in factor.pages())]

    def _worded(self, page: Page) -> Page:
        """Return a page of a factor with all texts. A page without texts, such as a script, may be shared."""
        return replace(page, messages={**page.messages, **self.texts}) if page.messages else page
