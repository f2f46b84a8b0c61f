"""`Notices`: mail that tells a user of a change of their factors."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from powauth.accounts.base import Account
from powauth.accounts.hooks import Parts
from powauth.extensions.letters import Letters, Words
from powauth.extensions.mail import Mailer
from powauth.extensions.outbox import Outbox

FOLDER: Final = Path(__file__).parent / "templates"


class Notices:
    """Puts notices into an outbox.

    Args:
        mailer: sends them in the background.
        letters: makes them.
        parts: the parts of the authenticator.
        texts: the texts of the mail.
        address_field: the field of the identity with the address.
    """

    def __init__(
        self, mailer: Mailer, letters: Letters, parts: Parts[Any], texts: Mapping[str, str], address_field: str
    ) -> None:
        self.outbox: Final = Outbox(mailer, parts)
        self._letters: Final = letters
        self._texts: Final = texts
        self._address_field: Final = address_field

    async def send(self, account: Account[Any], what: str, words: Words | None, **values: str | int) -> None:
        """Mail a notice later. ``what`` is the first part of the names of its texts.

        ``words`` may be those of another extension's page. They replace the own texts as far as they have them.
        """
        address = getattr(account.identity, self._address_field, None)
        if not isinstance(address, str) or not address:
            return
        words = Words(self._texts, "en", "ltr", "") if words is None else words
        texts = {**self._texts, **words.texts}
        texts |= {f"factor_notice_{name}": texts[f"{what}_{name}"] for name in ("subject", "intro")}
        await self.outbox.notify(
            what,
            address,
            lambda: self._letters.compose("factor_notice", words._replace(texts=texts), to=address, **values),
            key=account.key,
        )
