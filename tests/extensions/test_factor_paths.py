"""AUT-06: every path that leads to a session, walked by a user with a factor. None leads past it."""

from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from harness.authenticators import authenticated, secret_on
from harness.confirming import NEW, confirming, link_in
from harness.factors import WORD, Factored, Words, factored
from harness.pages_support import EMAIL, PASSWORD
from harness.support import FakeConnection
from powauth import AnyOf, BearerCarrier, CookieCarrier, MoreNeeded, Refused, Remember, RequestAuth, StoreUnavailable
from powauth.accounts.grant import AS_BEFORE, Grant
from powauth.backends.base import drive
from powauth.extensions.confirm_email import ConfirmEmail
from powauth.extensions.invitation import Invitation
from powauth.extensions.reset_password import ResetPassword
from powauth.extensions.second_factor import MFA, SecondFactor
from powauth.testing import MemoryMailer

BETTER = "eleven grey geese"

Bound = RequestAuth[Any, Any]


class Client:
    """A client with cookies and perhaps a bearer token, which calls the app's own code."""

    def __init__(self, here: Factored) -> None:
        self.here = here
        self.cookies: dict[str, str] = {}
        self.token: str | None = None

    def send(self, work: Callable[[Bound], Coroutine[Any, Any, Any]]) -> Any:
        """Send a request, and return the result or the error of its handler."""
        headers = {} if self.token is None else {"authorization": f"Bearer {self.token}"}
        connection = FakeConnection([f"{name}={value}" for name, value in self.cookies.items()], **headers)
        drive(self.here.auth.call(connection))
        bound: Bound = RequestAuth(self.here.auth, connection)
        try:
            result = drive(work(bound))
        except MoreNeeded as error:
            result = error
        with suppress(Exception):
            self.token = bound.access_token
        for cookie in drive(self.here.auth.respond(connection)).cookies:
            name, _, rest = cookie.partition("=")
            self.cookies[name] = rest.partition(";")[0]
            if "Max-Age=0" in cookie:
                del self.cookies[name]
        return result

    @property
    def session(self) -> Any:
        """The session of this client, if it has one."""

        async def found(bound: Bound) -> Any:
            return bound.session if bound.current_user is not None else None

        return self.send(found)

    def answer(self, challenge: str | None = None) -> Any:
        given = {} if challenge is None else {"challenge": challenge}
        return self.send(lambda bound: self.here.engine.answer(bound, {"code": WORD, **given}))


@contextmanager
def site(folder: Path) -> Iterator[Factored]:
    with pytest.MonkeyPatch.context():
        auth = {"carrier": AnyOf(CookieCarrier(), BearerCarrier()), "remember": Remember()}
        with factored("wsgi", folder, auth=auth) as made:
            yield made


@pytest.fixture
def here(tmp_path: Path) -> Iterator[Factored]:
    with site(tmp_path) as made:
        yield made


def by_password(here: Factored, client: Client, me: Any) -> Any:
    return client.send(lambda bound: bound.sign_in(email=EMAIL, password=PASSWORD))


def remembered(here: Factored, client: Client, me: Any) -> Any:
    return client.send(lambda bound: bound.sign_in(email=EMAIL, password=PASSWORD, remember=True))


def by_bearer(here: Factored, client: Client, me: Any) -> Any:
    return client.send(lambda bound: bound.sign_in({"email": EMAIL, "password": PASSWORD}, bearer=True))


def by_the_app(here: Factored, client: Client, me: Any) -> Any:
    return client.send(lambda bound: bound.sign_in_user(me))


def by_the_app_by_other_means(here: Factored, client: Client, me: Any) -> Any:
    return client.send(lambda bound: bound.sign_in_user(me, amr=["hwk"], fresh=False))


def by_the_app_as_before(here: Factored, client: Client, me: Any) -> Any:
    return client.send(lambda bound: bound.sign_in_user(me, amr=None))


def by_the_plug(here: Factored, client: Client, me: Any) -> Any:
    account: Any = drive(here.auth.accounts.users.get(here.auth.key_of(me)))
    return client.send(lambda bound: bound.auth.do_create(bound.connection, account, AS_BEFORE))


def by_a_grant_of_its_own(here: Factored, client: Client, me: Any) -> Any:
    account: Any = drive(here.auth.accounts.users.get(here.auth.key_of(me)))
    return client.send(lambda bound: bound.auth.do_create(bound.connection, account, Grant(amr={"pwd": None})))


def by_a_new_password(here: Factored, client: Client, me: Any) -> Any:
    """A session from before the factor, which something has left alive."""
    without_a_factor(here, client, me)
    return client.send(lambda bound: bound.update_user(password=BETTER, current_password=PASSWORD))


def by_a_new_user_id(here: Factored, client: Client, me: Any) -> Any:
    without_a_factor(here, client, me)
    return client.send(lambda bound: bound.update_user(email="new@example.com", current_password=PASSWORD))


def after_a_reset(here: Factored, client: Client, me: Any) -> Any:
    drive(here.auth.update_account(me, password=BETTER))
    return client.send(lambda bound: bound.sign_in(email=EMAIL, password=BETTER))


def without_a_factor(here: Factored, client: Client, me: Any) -> None:
    taken = here.words.words.pop(here.auth.key_of(me))
    assert client.send(lambda bound: bound.sign_in(email=EMAIL, password=PASSWORD)) == me
    here.words.words[here.auth.key_of(me)] = taken


PATHS = [
    by_password,
    remembered,
    by_bearer,
    by_the_app,
    by_the_app_by_other_means,
    by_the_app_as_before,
    by_the_plug,
    by_a_grant_of_its_own,
    by_a_new_password,
    by_a_new_user_id,
    after_a_reset,
]


@pytest.mark.parametrize("path", PATHS, ids=lambda path: path.__name__)
def test_aut_06_no_path_leads_past_the_factor(here: Factored, path: Callable[[Factored, Client, Any], Any]) -> None:
    me, client = here.member(), Client(here)
    asked = path(here, client, me)
    assert isinstance(asked, MoreNeeded), asked
    assert asked.factors == ("word",)
    before, done = client.session, client.answer(asked.challenge)
    assert (before, done is not None) == (None, True)
    session = client.session
    assert MFA in session.amr
    assert "kba" in session.amr
    assert session.remembered == (path is remembered)
    assert (client.token is not None) == (path is by_bearer)


def test_an_app_that_has_checked_two_factors_says_so(here: Factored) -> None:
    me, client = here.member(), Client(here)
    assert client.send(lambda bound: bound.sign_in_user(me, amr=["mfa"])) == me
    assert set(client.session.amr) == {"mfa"}


def test_a_registration_has_no_factor_yet(here: Factored) -> None:
    client = Client(here)
    assert client.send(lambda bound: bound.register(email=EMAIL, password=PASSWORD)) is not None
    assert set(client.session.amr) == {"pwd"}


@pytest.mark.parametrize("change", [{"password": BETTER}, {"email": "new@example.com"}], ids=["password", "user id"])
def test_a_change_of_the_account_keeps_what_was_proven(here: Factored, change: dict[str, str]) -> None:
    me, client = here.member(), Client(here)
    by_password(here, client, me)
    client.answer()
    before = client.session
    here.site.clock.now += 60
    client.send(lambda bound: bound.update_user(current_password=PASSWORD, **change))
    after = client.session
    assert after.sid != before.sid
    assert after.amr == before.amr, "a new password makes an old factor fresh"


def test_rem_05_a_remembered_session_keeps_what_it_proved_and_is_not_fresh(here: Factored) -> None:
    me, client = here.member(), Client(here)
    remembered(here, client, me)
    client.answer()
    proven = client.session.amr
    here.site.clock.now += timedelta(days=20).total_seconds()
    assert client.session.amr == proven

    async def fresh(bound: Bound) -> tuple[bool, bool]:
        return bound.is_fresh(timedelta(minutes=15)), bound.is_fresh(timedelta(days=365), ["mfa"])

    assert client.send(fresh) == (False, False)


def test_a_sign_in_in_flight_meets_a_factor_that_is_turned_on_meanwhile(here: Factored) -> None:
    """The engine has allowed it, and then another request turns the factor on and ends the sessions."""
    me, client = here.member(word=None), Client(here)
    key = here.auth.key_of(me)
    asked = here.words.is_on

    async def turned_on_after(each: Any) -> bool:
        was_on = await asked(each)
        if not was_on:
            here.words.give(key)
            await here.engine.parts.end_sessions(key, "second factor on")
        return was_on

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(here.words, "is_on", turned_on_after)
        assert isinstance(by_password(here, client, me), MoreNeeded)
    assert client.session is None


def test_a_reset_by_mail_signs_nobody_in_and_keeps_the_factor(tmp_path: Path) -> None:
    mailer = MemoryMailer()
    with factored("wsgi", tmp_path, extensions=(ResetPassword(mailer),)) as here:
        me = here.member()
        reset = here.auth.extension(ResetPassword)
        token = drive(reset.tokens.issue(here.auth.key_of(me), EMAIL))
        browser = here.browser()
        done = browser.post("/password/reset", {"token": str(token), "password": BETTER})
        assert (done.status, browser.is_signed_in()) == (303, False)
        assert browser.sign_in(password=BETTER).location == "/login/factor"
        assert here.answer(browser, WORD).status == 303
        drive(here.auth.aclose())


def test_an_accepted_invitation_sets_up_the_factor_that_is_required(tmp_path: Path) -> None:
    """INV and AUT-06: the account exists then, and nobody is signed in to it without the factor."""
    mailer = MemoryMailer()
    invitation = Invitation[Any](mailer, may_invite=lambda me: True)
    with authenticated("wsgi", tmp_path, extensions=(invitation,), required=True) as here:
        inviter = here.member("ann@example.com")
        drive(here.auth.extension(Invitation).invitations.make(here.auth.key_of(inviter), inviter, EMAIL))
        drive(here.auth.accounts.hooks.aclose())
        link = link_in([each for each in mailer.messages if each["To"] == EMAIL][-1])
        browser = here.browser()
        done = browser.post(link.path, {"token": link.token, "password": BETTER})
        assert (done.status, done.location, browser.is_signed_in()) == (303, "/login/factor", False), done.text
        secret = secret_on(browser.follow(done))
        assert here.answer(browser, here.code(secret)).status == 303
        assert browser.is_signed_in()


def test_a_confirmed_address_keeps_what_the_session_has_proven(tmp_path: Path) -> None:
    """A change of the user id ends all sessions, and the page signs in again."""
    mailer = MemoryMailer()
    engine = SecondFactor[Any](Words())
    auth = {"extensions": [ConfirmEmail[Any](mailer), engine]}
    with confirming("wsgi", tmp_path, mailer=mailer, confirms=False, auth=auth) as here:
        me = here.member()
        bound = here.site.auth.extension(SecondFactor)
        bound.factor(Words).give(here.site.auth.key_of(me))
        browser = here.browser()
        browser.post("/login", {"email": EMAIL, "password": PASSWORD})
        assert browser.post("/login/factor", {"code": WORD}).status == 303
        fields = {"action": "user_id", "email": NEW, "current_password": PASSWORD}
        browser.post("/account", fields)
        link = here.link(NEW)
        done = here.opened(browser, link)
        assert (done.status, done.location) == (303, "/account?done=confirm_email_changed"), done.text
        key: Any = here.site.auth.key_of(me)
        (session,) = drive(here.site.auth.store.sessions(key.bytes, here.site.auth.now()))
        assert set(session.session.amr) == {"pwd", "kba", MFA}


def test_a_program_with_a_bearer_token_signs_in_and_steps_up_without_a_cookie(here: Factored) -> None:
    me, client = here.member(), Client(here)
    asked = by_bearer(here, client, me)
    assert client.cookies == {}
    program = here.program()
    told = program.post("/login/factor", json={"action": "options", "challenge": asked.challenge})
    assert told.json() == {"factors": ["word"], "options": {}}
    wrong = program.post("/login/factor", json={"code": "x", "challenge": asked.challenge})
    assert (wrong.status_code, wrong.json()["error"]) == (401, "second_factor_refused")
    done = program.post("/login/factor", json={"code": WORD, "challenge": asked.challenge})
    assert done.status_code == 200
    assert "set-cookie" not in done.headers
    program.headers["authorization"] = f"Bearer {done.json()['access_token']}"
    here.site.clock.now += 16 * 60
    fields = {"action": "remove", "factor": "word", "id": "1"}
    stale = program.post("/account/factors", json=fields)
    assert (stale.status_code, stale.json()) == (403, {"error": "fresh_sign_in_required", "methods": ["mfa"]})
    begun = program.get("/login/factor")
    assert "set-cookie" not in begun.headers
    again = program.post("/login/factor", json={"code": WORD, "challenge": begun.json()["challenge"]})
    program.headers["authorization"] = f"Bearer {again.json()['access_token']}"
    assert program.post("/account/factors", json=fields).status_code == 204


def test_a_challenge_of_a_token_is_no_cookie(here: Factored) -> None:
    me, client = here.member(), Client(here)
    asked = by_bearer(here, client, me)
    client.cookies["__Host-auth_factor"] = asked.challenge
    assert isinstance(refused(client, here), Refused)


def refused(client: Client, here: Factored) -> Any:
    async def tried(bound: Bound) -> Any:
        try:
            return await here.engine.answer(bound, {"code": WORD})
        except Refused as error:
            return error

    return client.send(tried)


def test_a_factor_signs_in_alone_only_if_it_counts_as_two(here: Factored) -> None:
    """As a passkey does that has verified its user."""
    me, client = here.member(), Client(here)
    account: Any = drive(here.auth.accounts.users.get(here.auth.key_of(me)))
    asked = client.send(lambda bound: here.engine.sign_in(bound.connection, account, ["hwk"]))
    assert isinstance(asked, MoreNeeded)
    before = client.session
    assert client.send(lambda bound: here.engine.sign_in(bound.connection, account, ["hwk", "mfa"])) == me
    assert (before, set(client.session.amr)) == (None, {"hwk", "mfa"})


def test_a_user_who_is_locked_during_the_answer_is_not_signed_in(here: Factored) -> None:
    me, client = here.member(), Client(here)
    by_password(here, client, me)
    checked = here.words.verify

    async def locked_meanwhile(*given: Any) -> Any:
        here.site.change(locked=True)
        return await checked(*given)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(here.words, "verify", locked_meanwhile)
        assert isinstance(refused(client, here), Refused)
    assert client.session is None


def test_a_store_that_is_away_during_the_answer_costs_no_attempt(here: Factored) -> None:
    me, client = here.member(), Client(here)
    by_password(here, client, me)

    async def away(*given: Any) -> Any:
        raise StoreUnavailable("the words are away")

    async def tried(bound: Bound) -> Any:
        try:
            return await here.engine.answer(bound, {"code": WORD})
        except StoreUnavailable as error:
            return error

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(here.words, "verify", away)
        for _ in range(15):
            assert isinstance(client.send(tried), StoreUnavailable)
    assert client.session is None
    assert client.answer() is not None


def test_a_factor_that_somebody_else_has_turned_on_ends_when_the_owner_claims_the_account(tmp_path: Path) -> None:
    """An attacker registers the victim's address first (better-auth GHSA-qq9h-g4jm-xgf3), and turns a factor on."""
    mailer = MemoryMailer()
    auth = {"extensions": [ConfirmEmail[Any](mailer, password="at_registration"), SecondFactor[Any](Words())]}
    auth["extensions"].append(ResetPassword(mailer))
    with confirming("wsgi", tmp_path, mailer=mailer, confirms=False, auth=auth) as here:
        me = here.member(confirmed=False)
        key: Any = here.site.auth.key_of(me)
        words = here.site.auth.extension(SecondFactor).factor(Words)
        words.give(key)
        token = drive(here.site.auth.extension(ResetPassword).tokens.issue(key, EMAIL))
        browser = here.browser()
        done = browser.post("/password/reset", {"token": str(token), "password": BETTER})
        assert (done.status, words.words) == (303, {})
        assert browser.sign_in(password=BETTER).location == "/account"
        words.give(key)
        again = drive(here.site.auth.extension(ResetPassword).tokens.issue(key, EMAIL))
        browser.post("/password/reset", {"token": str(again), "password": PASSWORD})
        assert words.words, "a reset of an account whose address is confirmed keeps the factor"
