"""`ConfirmEmail`: changes of address."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa

from harness.confirming import NEW, OTHER_PASSWORD, Confirming, Link, confirming, link_in
from harness.pages_support import EMAIL, PASSWORD, Browser
from harness.support import OTHER_SECRET, SECRET, FakeConnection
from harness.users_databases import statements
from powauth import AnyOf, BearerCarrier, CookieCarrier, Hooks, MoreNeeded, RequestAuth, Step
from powauth.backends.base import drive
from powauth.backends.memory import MemoryBackend
from powauth.extensions.invitation import Invitation
from powauth.testing import MemoryMailer

FRAMEWORKS = ("asgi", "wsgi")


@pytest.fixture(params=FRAMEWORKS)
def here(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Confirming]:
    with confirming(request.param, tmp_path) as made:
        made.member(EMAIL)
        yield made


def signed_in(here: Confirming, email: str = EMAIL, password: str = PASSWORD) -> Browser:
    browser = here.browser()
    assert browser.sign_in(email, password).status == 303
    return browser


def asked(browser: Browser, email: str = NEW, password: str = PASSWORD) -> None:
    page = browser.post("/account", {"action": "user_id", "email": email, "current_password": password})
    assert (page.status, page.location) == (303, "/account?done=confirm_email_change"), page.text


def program(here: Confirming, email: str = EMAIL, password: str = PASSWORD) -> httpx.Client:
    client: httpx.Client = here.program()
    assert client.post("/login", json={"email": email, "password": password}).status_code == 200
    return client


def undo_link(here: Confirming, address: str = EMAIL, number: int = 0) -> Link:
    return link_in(here.to(address)[number])


def test_eml_01_the_old_address_stays_in_force_until_the_new_one_is_confirmed(here: Confirming) -> None:
    browser = signed_in(here)
    for wrong in ("", "six red herons"):
        page = browser.post("/account", {"action": "user_id", "email": NEW, "current_password": wrong})
        assert page.status == 422
    assert here.mails() == []
    asked(browser)
    assert "We have sent a mail to the new address" in browser.get("/account?done=confirm_email_change").text
    assert (here.row()["email"], here.row()["unconfirmed_email"]) == (EMAIL, NEW)
    assert here.browser().sign_in(NEW).status == 401
    assert here.browser().sign_in(EMAIL).status == 303
    (notice,) = here.to(EMAIL)
    assert NEW in str(notice.get_body(("plain",)))
    assert undo_link(here).path == "/confirm-email/undo"
    assert here.link(NEW).path == "/confirm-email/change"
    assert browser.is_signed_in()


def test_trm_03_a_confirmed_change_ends_all_other_sessions_and_renews_this_one(here: Confirming) -> None:
    browser, other = signed_in(here), signed_in(here)
    asked(browser)
    link, before = here.link(NEW), browser.cookies
    done = here.opened(browser, link)
    assert (done.status, done.location) == (303, "/account?done=confirm_email_changed")
    assert NEW in browser.follow(done).text
    assert browser.cookies != before
    assert not other.is_signed_in()
    row = here.row(NEW)
    assert (row["unconfirmed_email"], row["email_confirmed_at"] is not None) == (None, True)
    assert here.browser().sign_in(EMAIL).status == 401
    assert here.browser().sign_in(NEW).status == 303
    assert here.opened(browser, link).status == 422
    told = here.to(EMAIL)[-1]
    assert "#" not in str(told.get_body(("plain",)))  # RST-08: a notice, and no token


def test_a_change_by_a_bearer_token_renews_that_session_and_makes_no_cookie(tmp_path: Path) -> None:
    carrier = AnyOf(CookieCarrier(), BearerCarrier())
    with confirming("wsgi", tmp_path, auth={"carrier": carrier}) as here:
        ann = here.member("ann@example.com")
        here.member(EMAIL)
        bound = RequestAuth(here.site.auth, FakeConnection())
        drive(bound.sign_in({"email": EMAIL, "password": PASSWORD}, bearer=True))
        client = here.program(authorization=f"Bearer {bound.access_token}")
        asking = client.post("/account", json={"action": "user_id", "email": NEW, "current_password": PASSWORD})
        assert asking.status_code == 202
        link = here.link(NEW)
        other = program(here, ann.email)
        client.cookies = other.cookies  # of another user, in the same browser
        done = client.post(link.path, json={"token": link.token})
        assert (done.status_code, done.json()["user"]["email"]) == (200, NEW)
        assert "set-cookie" not in done.headers
        again = here.program(authorization=f"Bearer {done.headers['powauth-token']}")
        assert again.get("/account").json()["user"]["email"] == NEW
        assert other.get("/account").json()["user"]["email"] == ann.email


def test_another_spelling_of_the_own_address_ends_a_pending_change(here: Confirming) -> None:
    browser = signed_in(here)
    asked(browser)
    sent = len(here.mails())
    back = browser.post("/account", {"action": "user_id", "email": "MIA@example.COM", "current_password": PASSWORD})
    assert back.location == "/account?done=user_id"
    assert here.row()["unconfirmed_email"] is None
    assert len(here.mails()) == sent


def test_no_way_leads_around_the_confirmation(here: Confirming) -> None:
    client = program(here)
    fields = {"email": NEW, "current_password": PASSWORD, "unconfirmed_email": "evil@example.com"}
    for action in ("update", "user_id"):
        answer = client.post("/account", json={"action": action, **fields})
        assert (answer.status_code, answer.json()) == (202, {"accepted": "mail_sent"})
    assert (here.addresses, here.row()["unconfirmed_email"]) == ([EMAIL], NEW)
    for wrong in ("mia", None, 7, [NEW], "mia@new.example\0"):
        answer = client.post("/account", json={**fields, "email": wrong})
        assert (answer.status_code, "email" in answer.json()["errors"]) == (422, True), wrong
    assert here.addresses == [EMAIL]


def test_a_new_password_in_the_same_change_takes_effect_at_once(here: Confirming) -> None:
    browser = signed_in(here)
    fields = {"action": "update", "email": NEW, "password": OTHER_PASSWORD, "current_password": PASSWORD}
    assert browser.post("/account", fields).location == "/account?done=confirm_email_change"
    assert browser.is_signed_in()
    assert here.browser().sign_in(EMAIL, OTHER_PASSWORD).status == 303
    assert here.opened(browser, here.link(NEW)).status == 303
    assert here.addresses == [NEW]


def test_a_stranger_cannot_complete_a_change_by_a_click(here: Confirming) -> None:
    here.member("ann@example.com")
    asked(signed_in(here))
    link = here.link(NEW)
    stranger = here.browser()
    page = stranger.get(link.path)
    assert "Sign in to your account first" in page.text
    assert stranger.post(link.path, {"token": link.token}).location == f"/login?next={link.path}"
    assert here.program().post(link.path, json={"token": link.token}).status_code == 401
    ann = signed_in(here, "ann@example.com")
    assert ann.post(link.path, {"token": link.token}).status == 422
    assert "ann@example.com" in ann.get("/account").text
    assert here.row()["unconfirmed_email"] == NEW
    assert here.opened(signed_in(here), link).status == 303  # the link is still good


def test_eml_02_a_token_confirms_only_the_address_to_which_it_was_sent(here: Confirming) -> None:
    browser = signed_in(here)
    asked(browser, "evil@attacker.example")
    first = here.link("evil@attacker.example")
    asked(browser, "victim@example.com")
    second = here.link("victim@example.com")
    assert browser.post(first.path, {"token": first.token}).status == 422
    here.change(EMAIL, unconfirmed_email="evil@attacker.example")  # even if the column says so
    assert browser.post(first.path, {"token": first.token}).status == 422
    assert browser.post(second.path, {"token": second.token}).status == 422
    assert here.addresses == [EMAIL]


def test_eml_02_a_change_back_to_the_same_address_ends_the_pending_one(here: Confirming) -> None:
    browser = signed_in(here)
    asked(browser)
    link = here.link(NEW)
    back = browser.post("/account", {"action": "user_id", "email": EMAIL, "current_password": PASSWORD})
    assert back.location == "/account?done=user_id"
    assert here.row()["unconfirmed_email"] is None
    assert browser.post(link.path, {"token": link.token}).status == 422
    undo = undo_link(here)
    assert here.program().post(undo.path, json={"token": undo.token, "password": OTHER_PASSWORD}).status_code == 422
    assert browser.is_signed_in()


def test_eml_02_the_database_decides_whether_the_address_is_still_free(here: Confirming) -> None:
    browser = signed_in(here)
    asked(browser)
    link = here.link(NEW)
    here.member(NEW)
    refused = here.opened(browser, link)
    assert (refused.status, "is invalid or has expired" in refused.text) == (422, True)
    assert here.addresses == [EMAIL, NEW]
    assert here.browser().sign_in(EMAIL).status == 303


def test_pge_07_a_change_to_a_taken_address_answers_as_one_to_a_free_address(here: Confirming) -> None:
    here.member("ann@example.com")
    asked(signed_in(here), "first@example.com")  # the counters exist from now on
    answers = []
    for address in (NEW, "ann@example.com"):
        client = program(here)
        calls = here.site.backend.calls
        calls.clear()
        answer = client.post("/account", json={"action": "user_id", "email": address, "current_password": PASSWORD})
        shown = client.get("/account").json()["user"]
        answers.append((answer.status_code, answer.content, shown, sorted(calls)))
    assert answers[0] == answers[1]
    (notice,) = here.to("ann@example.com")
    assert "#" not in str(notice.get_body(("plain",)))
    assert here.row()["unconfirmed_email"] == "ann@example.com"


def test_the_old_address_undoes_a_change_that_waits(here: Confirming) -> None:
    thief = signed_in(here)
    asked(thief, "evil@attacker.example")
    trap, undo, owner = here.link("evil@attacker.example"), undo_link(here), here.browser()
    assert here.opened(owner, undo).status == 422
    done = here.opened(owner, undo, password=OTHER_PASSWORD)
    assert "has its old address" in owner.follow(done).text
    assert not thief.is_signed_in()
    assert here.row()["unconfirmed_email"] is None
    assert signed_in(here, password=OTHER_PASSWORD).post(trap.path, {"token": trap.token}).status == 422
    assert here.opened(owner, undo, password=PASSWORD).status == 422


def test_the_old_address_undoes_a_change_even_after_further_changes(here: Confirming) -> None:
    thief = signed_in(here)
    asked(thief, "evil@attacker.example")
    assert here.opened(thief, here.link("evil@attacker.example")).status == 303
    undo = undo_link(here)
    thief.post("/account", {"action": "password", "current_password": PASSWORD, "password": OTHER_PASSWORD})
    asked(thief, "evil2@attacker.example", OTHER_PASSWORD)
    assert here.opened(thief, here.link("evil2@attacker.example")).status == 303
    here.site.clock.advance(6 * 86_400)
    owner = here.browser()
    assert here.opened(owner, undo, password="twelve white swans").status == 303
    assert here.addresses == [EMAIL]
    assert not thief.is_signed_in()
    assert owner.sign_in(EMAIL, "twelve white swans").status == 303
    for address in ("evil@attacker.example", "evil2@attacker.example"):
        assert here.browser().sign_in(address, OTHER_PASSWORD).status == 401


def test_a_change_is_undone_within_seven_days_and_only_by_its_user(here: Confirming) -> None:
    asked(signed_in(here))
    undo = undo_link(here)
    here.site.clock.advance(7 * 86_400 - 1)
    assert here.program().post(undo.path, json={"token": undo.token}).json() == {
        "errors": {"password": ["can't be blank"]}
    }
    here.site.clock.advance(1)
    late = here.program().post(undo.path, json={"token": undo.token, "password": OTHER_PASSWORD})
    assert late.status_code == 422
    asked(signed_in(here))
    newer = undo_link(here, number=-1)
    here.change(EMAIL, locked=True)
    locked = here.program().post(newer.path, json={"token": newer.token, "password": OTHER_PASSWORD})
    assert locked.status_code == 422


def test_a_deleted_users_link_undoes_nothing_of_another_user(here: Confirming) -> None:
    asked(signed_in(here))
    undo = undo_link(here)
    me = drive(here.site.users.find(EMAIL))
    assert me is not None
    drive(here.site.auth.delete_account(me.key))
    here.site.clock.advance(60)
    here.member(EMAIL, OTHER_PASSWORD)
    answer = here.program().post(undo.path, json={"token": undo.token, "password": PASSWORD})
    assert answer.status_code == 422
    assert here.browser().sign_in(EMAIL, OTHER_PASSWORD).status == 303


def test_an_address_that_was_never_confirmed_gets_no_way_back(tmp_path: Path) -> None:
    with confirming("wsgi", tmp_path) as here:
        here.member(EMAIL, confirmed=False)
        browser = signed_in(here)
        asked(browser)
        assert here.opened(browser, here.link(NEW)).status == 303
        assert here.to(EMAIL) == []
        assert here.row(NEW)["email_confirmed_at"] is not None


def test_nobody_registers_an_address_to_which_its_owner_may_come_back(tmp_path: Path) -> None:
    with confirming("wsgi", tmp_path, password="at_registration") as here:
        here.member(EMAIL)
        thief = signed_in(here)
        asked(thief)
        assert here.opened(thief, here.link(NEW)).status == 303
        squat = here.program().post("/register", json={"email": EMAIL, "password": PASSWORD})
        assert squat.json() == {"errors": {"email": ["has already been taken"]}}
        here.change(NEW, locked=True)  # the link works again after the lock
        assert here.program().post("/register", json={"email": EMAIL, "password": PASSWORD}).status_code == 422
        here.change(NEW, locked=False)
        undo = undo_link(here)
        assert here.opened(here.browser(), undo, password=OTHER_PASSWORD).status == 303
        assert here.addresses == [EMAIL]


def test_key_06_an_address_stays_reserved_while_the_secret_is_rotated(tmp_path: Path) -> None:
    backend = MemoryBackend()
    for secrets, folder in (([SECRET], tmp_path), ([OTHER_SECRET, SECRET], tmp_path), ([OTHER_SECRET], tmp_path)):
        options = {"backend": backend, "secret_key": secrets}
        with confirming("wsgi", folder, password="at_registration", auth=options) as here:
            if not here.addresses:
                here.member(EMAIL)
                asked(thief := signed_in(here))
                assert here.opened(thief, here.link(NEW)).status == 303
            squat = here.program().post("/register", json={"email": EMAIL, "password": PASSWORD})
            # When the old secret is gone, so is the link.
            assert squat.status_code == (422 if SECRET in secrets else 201)


def test_a_registration_with_an_address_of_many_void_links_reads_its_user_once(tmp_path: Path) -> None:
    counts = []
    for changes in (2, 5):  # the oldest link is used up
        (folder := tmp_path / str(changes)).mkdir()
        with confirming("wsgi", folder, password="at_registration") as here:
            here.member(EMAIL)
            browser = signed_in(here)
            for number in range(changes):
                asked(browser, f"mia{number}@new.example")
                here.site.clock.advance(1)
            assert here.opened(here.browser(), undo_link(here), password=OTHER_PASSWORD).status == 303
            here.site.backend.calls.clear()
            with statements(here.engine) as seen:
                taken = here.program().post("/register", json={"email": EMAIL, "password": PASSWORD})
            assert taken.json() == {"errors": {"email": ["has already been taken"]}}
            counts.append((len(seen), sorted(here.site.backend.calls)))
    assert counts[0] == counts[1]


@pytest.mark.parametrize("completed", [False, True])
def test_the_old_address_of_a_deleted_user_is_free(completed: bool, tmp_path: Path) -> None:
    with confirming("wsgi", tmp_path, password="at_registration") as here:
        here.member(EMAIL)
        owner = signed_in(here)
        asked(owner)
        if completed:
            assert here.opened(owner, here.link(NEW)).status == 303
        gone = owner.post("/account", {"action": "delete", "current_password": PASSWORD})
        assert (gone.status, here.addresses) == (303, [])
        again = here.program().post("/register", json={"email": EMAIL, "password": OTHER_PASSWORD})
        assert (again.status_code, here.addresses) == (201, [EMAIL]), again.text


def test_a_reserved_address_uses_up_no_invitation(tmp_path: Path) -> None:
    invitation = Invitation[Any](MemoryMailer(), may_invite=lambda _: True)
    with confirming("wsgi", tmp_path, password="at_registration", extensions=(invitation,)) as here:
        here.member(EMAIL)
        owner = signed_in(here)
        asked(owner)
        assert here.opened(owner, here.link(NEW)).status == 303
        made = program(here, NEW).post("/account/invitations", json={"action": "link"})
        given = {"token": made.json()["link"].partition("#")[2], "password": OTHER_PASSWORD}
        for _ in range(2):
            taken = here.program().post("/invitation", json={**given, "email": EMAIL})
            assert taken.json() == {"errors": {"email": ["has already been taken"]}}
        accepted = here.program().post("/invitation", json={**given, "email": "ida@example.org"})
        assert accepted.status_code == 201, accepted.text


def test_the_old_address_is_free_when_the_app_has_voided_the_link(tmp_path: Path) -> None:
    with confirming("wsgi", tmp_path, password="at_registration") as here:
        me = here.member(EMAIL)
        owner = signed_in(here)
        asked(owner)
        assert here.opened(owner, here.link(NEW)).status == 303
        drive(here.extension.end_undos(me))
        again = here.program().post("/register", json={"email": EMAIL, "password": OTHER_PASSWORD})
        assert (again.status_code, here.addresses) == (201, [EMAIL, NEW]), again.text


def test_a_user_asks_for_five_changes_in_an_hour(here: Confirming) -> None:
    client = program(here)
    fields = {"action": "user_id", "current_password": PASSWORD}
    answers = [client.post("/account", json={**fields, "email": f"a{number}@example.com"}) for number in range(6)]
    assert [each.status_code for each in answers] == [*[202] * 5, 429]
    assert here.to("a5@example.com") == []


def test_an_address_gets_three_mails_whoever_asks(here: Confirming) -> None:
    for number in range(3):
        here.member(f"a{number}@example.com")
    here.member("last@example.com")
    for number in range(3):
        asked(signed_in(here, f"a{number}@example.com"))
    fields = {"action": "user_id", "current_password": PASSWORD, "email": NEW}
    assert program(here, "last@example.com").post("/account", json=fields).status_code == 429
    assert len(here.to(NEW)) == 3
    assert here.row("last@example.com")["unconfirmed_email"] is None


def test_the_app_itself_changes_an_address_at_once(here: Confirming) -> None:
    me = drive(here.site.users.find(EMAIL))
    assert me is not None
    drive(here.site.auth.update_account(me.key, email=NEW, email_confirmed_at=None))
    assert here.addresses == [NEW]
    assert here.mails() == []


def test_a_change_that_ends_in_a_refused_sign_in_signs_out(tmp_path: Path) -> None:
    def second_factor(step: Step[Any]) -> None:
        if step.identity is not None and step.identity.email == NEW:
            raise MoreNeeded(["totp"])

    with confirming("wsgi", tmp_path, auth={"hooks": Hooks(before_sign_in=second_factor)}) as here:
        here.member(EMAIL)
        client = program(here)
        fields = {"action": "user_id", "email": NEW, "current_password": PASSWORD}
        assert client.post("/account", json=fields).status_code == 202
        link = here.link(NEW)
        done = client.post(link.path, json={"token": link.token})
        assert (done.status_code, done.json()) == (200, {"user": None, "session": None})
        assert client.get("/account").status_code == 401
        assert here.addresses == [NEW]


def test_trm_04_an_undone_change_leaves_no_way_back_to_a_later_address(here: Confirming) -> None:
    """A thief prepares a link that undoes what the owner will do."""
    thief = signed_in(here)
    asked(thief, "b@attacker.example")
    assert here.opened(thief, here.link("b@attacker.example")).status == 303
    asked(thief, "c@attacker.example")
    asked(thief, EMAIL)
    traps = [link_in(each) for each in here.to("b@attacker.example")[1:]]
    assert {each.path for each in traps} == {"/confirm-email/undo"}
    assert here.opened(here.browser(), undo_link(here), password=OTHER_PASSWORD).status == 303
    for trap in traps:
        assert here.opened(here.browser(), trap, password="twelve white swans").status == 422
    assert here.addresses == [EMAIL]
    assert here.browser().sign_in(EMAIL, OTHER_PASSWORD).status == 303


@contextmanager
def before_update(here: Confirming, work: Callable[[], object]) -> Iterator[None]:
    """Do work once, right before a user is changed."""
    waiting = [work]

    def look(connection: Any, cursor: Any, statement: str, *rest: object) -> None:
        if statement.startswith("UPDATE members") and waiting:
            waiting.pop()()

    sa.event.listen(here.engine, "before_cursor_execute", look)
    yield
    sa.event.remove(here.engine, "before_cursor_execute", look)
    assert not waiting, "no user was about to be changed"


def test_trm_04_a_change_that_begins_during_an_undoing_leaves_no_way_back(tmp_path: Path) -> None:
    with confirming("wsgi", tmp_path) as here:
        here.member(EMAIL)
        thief = signed_in(here)
        asked(thief, "b@attacker.example")
        assert here.opened(thief, here.link("b@attacker.example")).status == 303

        def meanwhile() -> None:
            here.site.clock.advance(1)
            asked(thief, "c@attacker.example")

        owner, undo = here.browser(), undo_link(here)
        with before_update(here, meanwhile):
            assert here.opened(owner, undo, password=OTHER_PASSWORD).status == 303
        trap = link_in(here.to("b@attacker.example")[-1])
        assert trap.path == "/confirm-email/undo"
        assert here.opened(here.browser(), trap, password="twelve white swans").status == 422
        assert here.addresses == [EMAIL]


def test_an_undoing_that_is_overtaken_is_tried_again(tmp_path: Path) -> None:
    """A thief changes the password at the same time. The owner has no second link."""
    with confirming("wsgi", tmp_path) as here:
        here.member(EMAIL)
        asked(signed_in(here))
        me = drive(here.site.users.find(EMAIL))
        assert me is not None
        key, undo = me.key, undo_link(here)
        with before_update(here, lambda: drive(here.site.auth.update_account(key, password="nine white swans"))):
            assert here.opened(here.browser(), undo, password=OTHER_PASSWORD).status == 303
        assert here.browser().sign_in(EMAIL, OTHER_PASSWORD).status == 303


def test_the_app_voids_the_links_that_undo_changes(here: Confirming) -> None:
    asked(signed_in(here))
    undo = undo_link(here)
    me = drive(here.site.users.find(EMAIL))
    assert me is not None
    drive(here.extension.end_undos(me.identity))
    assert here.opened(here.browser(), undo, password=OTHER_PASSWORD).status == 422
    here.site.clock.advance(1)
    asked(signed_in(here), "b@new.example")
    assert here.opened(here.browser(), undo_link(here, number=-1), password=OTHER_PASSWORD).status == 303
