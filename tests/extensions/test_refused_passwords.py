"""A password that an extension refuses costs nobody the link in a mail."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.confirming import NEW, OTHER_PASSWORD, confirming
from harness.pages_support import EMAIL, PASSWORD
from powauth import Extension
from powauth.extensions.invitation import Invitation
from powauth.testing import MemoryMailer

KNOWN = "everybody knows this one"


class Knows(Extension[Any]):
    """Refuses a password, as a list of breached passwords does."""

    name = "knows"

    async def check_password(self, password: str, request: Any) -> Sequence[str]:
        del request
        return ["is known"] if password == KNOWN else []


def test_a_refused_password_leaves_each_link_valid(tmp_path: Path) -> None:
    mailer = MemoryMailer()
    extensions = (Knows(), Invitation[Any](mailer, may_invite=lambda _: True))
    with confirming("wsgi", tmp_path, mailer=mailer, extensions=extensions) as here:
        here.program().post("/register", json={"email": "new@example.com"})
        here.member(EMAIL, confirmed=False)
        here.program().post("/confirm-email/again", json={"email": EMAIL})
        here.member("ann@example.com")
        ann = here.program()
        ann.post("/login", json={"email": "ann@example.com", "password": PASSWORD})
        ann.post("/account/invitations", json={"email": "guest@example.com"})
        ann.post("/account", json={"action": "user_id", "email": NEW, "current_password": PASSWORD})
        # An undone change of address ends the invitations of its user, so it comes last.
        for address in ("new@example.com", EMAIL, "guest@example.com", "ann@example.com"):
            link = here.link(address)
            fields = {"token": link.token, "password": KNOWN}
            refused = here.program().post(link.path, json=fields)
            assert (refused.status_code, refused.json()) == (422, {"errors": {"password": ["is known"]}}), link.path
            done = here.program().post(link.path, json={**fields, "password": OTHER_PASSWORD})
            assert done.status_code in (200, 201), link.path
