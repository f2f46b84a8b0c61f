"""EML-04: somebody registers the address of another person first, and waits (pre-hijacking). A script over HTTP.

Mallory registers the address of Mia, signs in, is remembered, makes an API key, a passkey and the link of an
invitation, and asks for a change of address. Later Mia follows the link in the mail, resets the password, accepts an
invitation, or registers again, in any order. From then on the account is hers alone, and nothing that Mallory holds
opens it.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import permutations
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from harness.authenticator import Authenticator
from harness.confirming import Base, Confirming, Link, confirming, link_in
from harness.pages_support import ORIGIN, Browser, SyncASGI
from powauth import Extension, Remember
from powauth.extensions.api_keys import ApiKeyMixin, ApiKeys
from powauth.extensions.invitation import Invitation
from powauth.extensions.passkeys import PasskeyMixin, Passkeys
from powauth.extensions.reset_password import ResetPassword
from powauth.integrations import asgi, wsgi
from powauth.testing import MemoryMailer

ADA, MIA, EVIL = "ada@example.com", "mia@example.com", "evil@attacker.example"
MALLORYS, MIAS = "seven red herons", "eleven grey geese"
"""The passwords that Mallory and Mia choose."""

SPELLING = "Mia@example.com"
"""Her address as an old app may have stored it."""

SIX_MINUTES, AN_HOUR = 360, 3600
"""The limits of mail are over after the first, an ordinary session after the second."""


class ApiKey(ApiKeyMixin, Base):
    __tablename__ = "api_keys"


class Passkey(PasskeyMixin, Base):
    __tablename__ = "passkeys"


def handler(here: Confirming) -> httpx.BaseTransport:
    """A handler of the app beside the pages: 200 for whoever is signed in by a session or a key."""

    def status(user: object) -> int:
        return 401 if user is None else 200

    if isinstance(here.site.transport, SyncASGI):

        async def asgi_handler(scope: Any, receive: Any, send: Any) -> None:
            found = status(asgi.request_auth(scope).current_user)
            await send({"type": "http.response.start", "status": found, "headers": []})
            await send({"type": "http.response.body", "body": b""})

        transport = SyncASGI(asgi.SessionAuthMiddleware(asgi_handler, here.site.auth))
        transport.run = here.site.transport.run
        return transport

    def wsgi_handler(environ: Any, start_response: Any) -> list[bytes]:
        start_response(f"{status(wsgi.request_auth(environ).current_user)} Told", [])
        return [b""]

    return httpx.WSGITransport(wsgi.SessionAuthMiddleware(wsgi_handler, here.site.auth))


def add_passkey(program: httpx.Client) -> Authenticator:
    """An authenticator with a passkey of the user who is signed in."""
    device = Authenticator(ORIGIN)
    options = program.post("/account/passkeys", json={"action": "options"}).json()["publicKey"]
    passkey = {"action": "add", "credential": device.create(options), "label": "later"}
    assert program.post("/account/passkeys", json=passkey).status_code == 201
    return device


def passkey_works(here: Confirming, device: Authenticator) -> bool:
    """Return whether a passkey signs in."""
    program = here.program()
    options = program.post("/login/passkey", json={"action": "options"}).json()["publicKey"]
    return bool(program.post("/login/passkey", json={"credential": device.get(options)}).status_code == 200)


def make_invitation(program: httpx.Client) -> Link:
    """A link by which the user who is signed in invites somebody."""
    made = program.post("/account/invitations", json={"action": "link"})
    path, _, token = made.json()["link"].removeprefix(ORIGIN).partition("#")
    return Link(path, token)


def invitation_is_open(here: Confirming, link: Link) -> bool:
    """Return whether a link of an inviter is valid. The form lacks an address, so nobody uses it up."""
    answer = here.program().post(link.path, json={"token": link.token})
    assert answer.status_code == 422
    return "token" not in answer.json()["errors"]


def make_key(program: httpx.Client) -> str:
    """An API key of the user who is signed in."""
    made = program.post("/account/keys", json={"name": "later", "scopes": []})
    return str(made.json()["key"])


def key_works(here: Confirming, key: str) -> bool:
    """Return whether a handler of the app takes a key. The ready-made pages take none."""
    with httpx.Client(transport=handler(here), base_url=ORIGIN) as program:
        answer = program.get("/", headers={"authorization": f"Bearer {key}"})
    assert answer.status_code in (200, 401)
    return answer.status_code == 200


class Mallory:
    """Prepares an account with Mia's address, and holds whatever an attacker can get."""

    def __init__(self, here: Confirming) -> None:
        self.here = here
        program = here.program()
        assert program.post("/register", json={"email": MIA, "password": MALLORYS}).status_code == 201
        self.device = add_passkey(program)
        self.key = make_key(program)
        self.invitation = make_invitation(program)
        self.session, self.remembered = here.browser(), here.browser()
        self.session.sign_in(MIA, MALLORYS)
        asked = {"email": MIA, "password": MALLORYS, "remember": "true"}
        assert self.remembered.post("/login", asked).status == 303
        change = {"action": "user_id", "email": EVIL, "current_password": MALLORYS}
        assert self.session.post("/account", change).status == 303
        self.trap = newest(here, EVIL, "/confirm-email/change")
        assert self.holds() == ["session", "remembered session", "password", "API key", "passkey", "invitation"]

    def holds(self) -> list[str]:
        """Return the names of what opens the account, or acts in its name."""
        ways = {
            "session": self.session.is_signed_in(),
            "remembered session": self.remembered.is_signed_in(),
            "password": self.here.browser().sign_in(MIA, MALLORYS).status == 303,
            "API key": key_works(self.here, self.key),
            "passkey": passkey_works(self.here, self.device),
            "invitation": invitation_is_open(self.here, self.invitation),
        }
        return [name for name, opens in ways.items() if opens]


class Mia:
    """The owner of the address. She reads her mail, and has never used the account."""

    def __init__(self, here: Confirming) -> None:
        self.here = here
        self.browser = here.browser()
        self.password = MIAS

    def follows(self, link: Link) -> bool:
        """Follow a link, and choose a password. Return whether that was accepted."""
        page = self.browser.post(link.path, {"token": link.token, "password": self.password})
        assert page.status in (303, 422), page.text
        return page.status == 303

    def confirms(self) -> None:
        """Follow the link that came when Mallory registered. It is void once she has taken the account back."""
        self.follows(newest(self.here, MIA, "/confirm-email"))

    def resets(self) -> None:
        page = self.browser.get("/password/forgot")
        if page.status == 200:
            self.browser.post("/password/forgot", {"email": MIA})
            assert self.follows(newest(self.here, MIA, "/password/reset"))

    def accepts(self) -> None:
        """Accept the invitation from before. If she has proven the address by now, she resets her password."""
        if not self.follows(newest(self.here, MIA, "/invitation")):
            self.resets()

    def registers(self) -> None:
        """Register again. The page says that the address has an account. She follows the link of the mail that comes,
        or resets her password if she has proven the address by now.
        """
        self.browser.post("/logout", {})
        mails = len(self.here.to(MIA))
        page = self.browser.post("/register", {"email": MIA, "password": self.password})
        assert page.status == 422
        assert "has already been taken" in page.text
        if len(self.here.to(MIA)) == mails:
            self.resets()
        else:
            assert self.follows(newest(self.here, MIA, "/confirm-email"))


WAYS: dict[str, Callable[[Mia], None]] = {
    "confirms": Mia.confirms,
    "resets": Mia.resets,
    "accepts": Mia.accepts,
    "registers": Mia.registers,
}
ORDERS = [order for count in (1, 2) for order in permutations(WAYS, count)]


def newest(here: Confirming, address: str, path: str) -> Link:
    """The newest link to a path in the mail to an address."""
    found = [link_in(mail) for mail in here.to(address) if f"{path}#" in mail.as_string()]
    return [link for link in found if link.path == path][-1]


@pytest.fixture(params=["asgi", "wsgi"])
def here(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Confirming]:
    """A site where an account exists as soon as somebody registers. Ada, who may invite, has invited Mia."""
    with site(request.param, tmp_path, password="at_registration") as made:
        yield made


@contextmanager
def site(framework: str, folder: Path, **options: Any) -> Iterator[Confirming]:
    mailer = MemoryMailer()

    def extensions(engine: sa.Engine) -> tuple[Extension[Any], ...]:
        invitation: Invitation[Any] = Invitation(mailer, may_invite=lambda user: user.email in (ADA, MIA))
        return ResetPassword(mailer), invitation, ApiKeys(engine, ApiKey), Passkeys(engine, Passkey)

    options |= {"extensions": extensions, "auth": {"remember": Remember()}}
    with confirming(framework, folder, mailer=mailer, **options) as here:
        yield here


def invite(here: Confirming) -> None:
    here.member(ADA)
    ada = here.browser()
    ada.sign_in(ADA)
    assert ada.post("/account/invitations", {"action": "invite", "email": MIA}).status == 303


@pytest.mark.parametrize("order", ORDERS, ids=" then ".join)
def test_eml_04_whatever_the_owner_does_nothing_that_the_attacker_holds_survives(
    here: Confirming, order: tuple[str, ...]
) -> None:
    invite(here)
    mallory, mia = Mallory(here), Mia(here)
    old = newest(here, MIA, "/confirm-email")
    here.site.clock.advance(SIX_MINUTES)
    for way in order:
        WAYS[way](mia)
        assert mallory.holds() == [], way
        here.site.clock.advance(SIX_MINUTES)
    row = here.row(MIA)
    assert (row["unconfirmed_email"], row["email_confirmed_at"] is not None) == (None, True)
    own = here.browser()
    assert own.sign_in(MIA, MIAS).status == 303
    assert own.get("/account/sessions").text.count("This device") == 1
    for link in (mallory.trap, old):  # also if Mia is made to click, or Mallory tries
        for browser in (own, mallory.session):
            assert not accepted(browser, link)
    assert here.addresses == [ADA, MIA]
    here.site.clock.advance(AN_HOUR)  # a remembered session would come back now
    assert mallory.holds() == []


@pytest.mark.parametrize("password", ["at_registration", "at_confirmation"])
@pytest.mark.parametrize("framework", ["asgi", "wsgi"])
def test_eml_04_an_invitation_takes_an_account_over_that_nobody_has_confirmed(
    framework: str, password: str, tmp_path: Path
) -> None:
    """The mail proves the address, so the account is the owner's as after a confirmation: with a new password."""
    with site(framework, tmp_path, password=password) as here:
        invite(here)
        if password == "at_registration":
            mallory = Mallory(here)
        else:  # such an account is one of the app's own making
            here.member(MIA, MALLORYS, confirmed=False)
            mallory = None
        old, mia = newest(here, MIA, "/invitation"), here.browser()
        assert accepted(mia, old, MIAS)
        assert mia.is_signed_in()
        assert mallory is None or mallory.holds() == []
        assert here.browser().sign_in(MIA, MALLORYS).status == 401
        assert here.browser().sign_in(MIA, MIAS).status == 303
        row = here.row(MIA)
        assert (row["unconfirmed_email"], row["email_confirmed_at"] is not None) == (None, True)
        assert not accepted(here.browser(), old)


@pytest.mark.parametrize("state", ["confirmed", "locked", "another spelling"])
def test_inv_02_an_invitation_never_takes_a_users_own_account(here: Confirming, state: str) -> None:
    """Whoever reads the mail learns nothing either: the link is as invalid as any other."""
    invite(here)
    here.member(MIA, MALLORYS)
    states: dict[str, dict[str, Any]] = {
        "confirmed": {},
        "locked": {"email_confirmed_at": None, "locked": True},
        "another spelling": {"email_confirmed_at": None, "email": SPELLING},
    }
    values = states[state]
    here.change(MIA, **{"locked": False, **values})
    address = values.get("email", MIA)
    before, link = here.row(address), newest(here, MIA, "/invitation")
    asked = {"token": link.token, "password": MIAS}
    answer = here.program().post(link.path, json=asked)
    assert (answer.status_code, list(answer.json()["errors"])) == (422, ["token"])
    assert here.row(address) == before
    assert here.program().post("/login", json={"email": MIA, "password": MIAS}).status_code == 401


@pytest.mark.parametrize("confirmed", [False, True])
def test_inv_02_an_invitation_is_mailed_where_it_can_be_accepted(here: Confirming, confirmed: bool) -> None:
    """An account that nobody has confirmed may be somebody else's. The inviter sees the same in both cases."""
    if confirmed:
        here.member(MIA, MALLORYS)
    else:
        Mallory(here)
    invite(here)
    found = [mail for mail in here.to(MIA) if "/invitation#" in mail.as_string()]
    assert len(found) == (0 if confirmed else 1)


def test_eml_04_a_registration_with_a_taken_address_mails_its_owner_once_it_is_unconfirmed(here: Confirming) -> None:
    here.member(ADA)
    stranger = here.browser()
    assert stranger.post("/register", {"email": ADA, "password": MIAS}).status == 422
    assert here.to(ADA) == []
    mallory = Mallory(here)
    here.site.clock.advance(SIX_MINUTES)
    first = newest(here, MIA, "/confirm-email")
    assert here.browser().post("/register", {"email": MIA, "password": "short"}).status == 422
    assert newest(here, MIA, "/confirm-email") == first, "the registration is wrong anyway"
    assert here.browser().post("/register", {"email": MIA, "password": MIAS}).status == 422
    link = newest(here, MIA, "/confirm-email")
    assert link != first
    mia = Mia(here)
    assert not mia.follows(first), "the newer link replaces it"
    assert mia.follows(link)
    assert mallory.holds() == []


def accepted(browser: Browser, link: Link, password: str = "twelve white swans") -> bool:
    """Return whether a link changes anything in a browser. A visitor is sent to the sign-in page."""
    page = browser.post(link.path, {"token": link.token, "password": password})
    return not (page.status == 422 or (page.location or "").startswith("/login?next="))


@pytest.mark.parametrize("framework", ["asgi", "wsgi"])
@pytest.mark.parametrize("way", ["accepts", "registers"])
def test_eml_04_by_default_the_attacker_gets_no_account_at_all(framework: str, way: str, tmp_path: Path) -> None:
    """A registration only leads to a mail. Whoever reads it chooses the password."""
    with site(framework, tmp_path) as here:
        invite(here)
        mallory, mia = here.browser(), here.browser()
        assert mallory.post("/register", {"email": MIA, "password": MALLORYS}).status == 303
        assert not mallory.is_signed_in()
        assert here.addresses == [ADA]
        prepared = newest(here, MIA, "/register/complete")
        here.site.clock.advance(SIX_MINUTES)
        if way == "registers":
            mia.post("/register", {"email": MIA})
        link = newest(here, MIA, "/invitation" if way == "accepts" else "/register/complete")
        assert mia.post(link.path, {"token": link.token, "password": MIAS}).status == 303
        assert mia.is_signed_in()
        assert here.browser().sign_in(MIA, MALLORYS).status == 401
        assert not accepted(mallory, prepared)
        assert here.row(MIA)["email_confirmed_at"] is not None


@pytest.mark.parametrize("framework", ["asgi", "wsgi"])
def test_eml_04_the_attackers_own_account_never_gets_the_address(framework: str, tmp_path: Path) -> None:
    """Mallory changes the address of an account of her own to that of Mia, and Mia follows each link in her mail."""
    with site(framework, tmp_path, password="at_registration") as here:
        here.member(EVIL, MALLORYS)
        mallory = here.browser()
        mallory.sign_in(EVIL, MALLORYS)
        change = {"action": "user_id", "email": MIA, "current_password": MALLORYS}
        assert mallory.post("/account", change).status == 303
        trap, mia = newest(here, MIA, "/confirm-email/change"), here.browser()
        assert not accepted(mia, trap), "Mia is signed in nowhere"
        mia.register(MIA, MIAS)
        assert not accepted(mia, trap), "Mia is signed in to her own account, and stays there"
        assert not accepted(mallory, trap), "the address is taken"
        assert mia.get("/account").text.count(MIA) >= 1
        assert here.addresses == [EVIL, MIA]
        assert here.browser().sign_in(MIA, MALLORYS).status == 401


@pytest.mark.parametrize("change", ["reset", "password", "user id"])
def test_trm_04_a_reset_ends_api_keys_and_leaves_confirmed_users_passkeys(here: Confirming, change: str) -> None:
    """A user who changes the password keeps the keys, unless the app says otherwise."""
    here.member(MIA, MALLORYS)
    program = here.program()
    program.post("/login", json={"email": MIA, "password": MALLORYS})
    device, key = add_passkey(program), make_key(program)
    assert key_works(here, key)
    if change == "reset":
        here.program().post("/password/forgot", json={"email": MIA})
        new = {"token": newest(here, MIA, "/password/reset").token, "password": MIAS}
        assert here.program().post("/password/reset", json=new).status_code == 204
    else:
        new = {"password": MIAS} if change == "password" else {"email": "mia@new.example"}
        asked = program.post("/account", json={**new, "current_password": MALLORYS})
        assert asked.status_code in (200, 202)
        if change == "user id":
            link = newest(here, "mia@new.example", "/confirm-email/change")
            assert program.post(link.path, json={"token": link.token}).status_code == 200
    assert key_works(here, key) is (change != "reset")
    assert passkey_works(here, device)


def test_trm_04_an_undo_ends_the_api_keys_that_a_thief_has_made(here: Confirming) -> None:
    here.member(MIA, MALLORYS)
    thief = here.program()
    thief.post("/login", json={"email": MIA, "password": MALLORYS})
    key = make_key(thief)
    thief.post("/account", json={"email": EVIL, "current_password": MALLORYS})
    link = newest(here, EVIL, "/confirm-email/change")
    assert thief.post(link.path, json={"token": link.token}).status_code == 200
    assert key_works(here, key)
    undo = newest(here, MIA, "/confirm-email/undo")
    assert here.program().post(undo.path, json={"token": undo.token, "password": MIAS}).status_code == 200
    assert not key_works(here, key)
