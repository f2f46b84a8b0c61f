"""The mail of `Passkeys`."""

from pathlib import Path
from typing import Any, Final

from powauth.accounts.base import Account
from powauth.extensions.letters import Letters, Words
from powauth.extensions.outbox import Outbox

FOLDER: Final = Path(__file__).parent / "templates"


class Post:
    """Puts the notices of `Passkeys` into an outbox.

    Args:
        outbox: sends them in the background.
        letters: makes the mail.
        words: the texts of the mail.
        link: the address of the page with the passkeys.
        field: the field of the identity with the address.
    """

    def __init__(self, outbox: Outbox, letters: Letters, words: Words, link: str, field: str) -> None:
        self._outbox: Final = outbox
        self._letters: Final = letters
        self._words: Final = words
        self._link: Final = link
        self._field: Final = field

    async def send(self, kind: str, account: Account[Any], label: str) -> None:
        """Send a notice later.

        Args:
            kind: ``added`` or ``removed``.
            account: the user.
            label: the name of the passkey.
        """
        address = getattr(account.identity, self._field, None)
        if not isinstance(address, str) or not address:
            return
        await self._outbox.notify(
            f"passkey_{kind}",
            address,
            lambda: self._letters.compose(
                f"passkey_mail_{kind}", self._words, to=address, label=label, link=self._link
            ),
            key=account.key,
        )
