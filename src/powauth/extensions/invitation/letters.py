"""The mail of `Invitation`."""

from email.message import EmailMessage
from pathlib import Path
from typing import Final

from powauth.accounts.identity import Key
from powauth.extensions.letters import Letters, Words
from powauth.extensions.links import Links
from powauth.extensions.outbox import Outbox

FOLDER: Final = Path(__file__).parent / "templates"


class Post:
    """Puts invitations into an outbox.

    Args:
        outbox: sends them in the background.
        links: makes links.
        letters: makes the mail.
        words: the texts of the mail.
        path: the path of the page to accept.
        days: the time for which an invitation is valid.
    """

    def __init__(self, outbox: Outbox, links: Links, letters: Letters, words: Words, path: str, *, days: int) -> None:
        self._outbox: Final = outbox
        self._links: Final = links
        self._letters: Final = letters
        self._words: Final = words
        self._path: Final = path
        self._days: Final = days

    def link(self, token: str) -> str:
        """Return the link of an invitation."""
        return self._links.to(self._path, token)

    def send(self, to: str | None, *, token: str, key: Key) -> None:
        """Mail an invitation later. Without an address, do the same without a mail."""

        def make() -> EmailMessage | None:
            if to is None:
                return None
            return self._letters.compose("invitation_mail", self._words, to=to, link=self.link(token), days=self._days)

        self._outbox.post("invitation", make, key=key)
