"""The mail of `ConfirmEmail`."""

from collections.abc import Callable, Coroutine
from email.message import EmailMessage
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

from powauth.accounts.identity import Key
from powauth.extensions.letters import Letters, Words
from powauth.extensions.links import Links
from powauth.extensions.outbox import Outbox

Kind = Literal["register", "confirm", "taken", "change", "change_notice", "changed"]
"""The kinds of mail.

- ``register``: somebody wants to register with the address. The link leads on.
- ``confirm``: a user's address is not confirmed yet. The link confirms it.
- ``taken``: somebody wants to use the address of a user. The link leads to the sign-in page, and has no token.
- ``change``: to a new address, which the link confirms.
- ``change_notice``: to the old address, about a change that waits. The link undoes it.
- ``changed``: to the old address, about a change that is done. It has no link.
"""

FOLDER: Final = Path(__file__).parent / "templates"


class Letter(NamedTuple):
    """A mail of `ConfirmEmail` that is not made yet.

    Attributes:
        kind: the kind of mail; ``None`` for work without a mail.
        to: the address.
        token: the token in the link.
        key: the key of the user whom it concerns, for the event of a mail that was not sent.
        address: another address, which the mail names.
    """

    kind: Kind | None
    to: str
    token: str | None = None
    key: Key | None = None
    address: str = ""

    def __repr__(self) -> str:  # error reporters record what local variables look like
        return object.__repr__(self)


class Post:
    """Puts the mail of `ConfirmEmail` into an outbox.

    Args:
        outbox: sends it in the background.
        links: makes links.
        letters: makes the mail.
        words: the texts of the mail.
        paths: the path of the page to which the link of each kind leads.
        hours: the time for which a link is valid.
        days: the time for which a change can be undone.
    """

    def __init__(
        self,
        outbox: Outbox,
        links: Links,
        letters: Letters,
        words: Words,
        paths: dict[Kind, str],
        *,
        hours: int,
        days: int,
    ) -> None:
        self._outbox: Final = outbox
        self._links: Final = links
        self._letters: Final = letters
        self._words: Final = words
        self._paths: Final = paths
        self._times: Final = {"hours": hours, "days": days}

    def send(self, letter: Letter) -> None:
        """Make and send a mail later."""
        self._outbox.post(letter.kind or "nothing", lambda: self._made(letter), key=letter.key)

    def prepare(self, find: Callable[[], Coroutine[Any, Any, Letter | None]]) -> None:
        """Find out later what mail to send, make it and send it. Neither shows in the time of the response."""

        async def make() -> EmailMessage | None:
            letter = await find()
            return None if letter is None else self._made(letter)

        self._outbox.prepare("link", make)

    def _made(self, letter: Letter) -> EmailMessage | None:
        if letter.kind is None:
            return None
        path = self._paths.get(letter.kind)
        return self._letters.compose(
            f"confirm_email_mail_{letter.kind}",
            self._words,
            to=letter.to,
            link="" if path is None else self._links.to(path, letter.token),
            address=letter.address,
            **self._times,
        )
