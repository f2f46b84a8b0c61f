"""`ConfirmEmail`: registrations by mail, confirmations, and sign-ins that wait for one."""

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
import sqlalchemy as sa
from sqlalchemy.orm import DeclarativeBase

from harness.confirming import OTHER_PASSWORD, Confirming, Link, Member, confirming
from harness.pages_support import EMAIL, PASSWORD, User
from harness.support import SECRET, FakeConnection
from harness.users_databases import cheap_hasher, statements
from powauth import ConfigError, Limit, Refused, RequestAuth, SessionAuth
from powauth.accounts.sqlalchemy import SQLAlchemyUsers, UserMixin, UsernameMixin
from powauth.backends.base import Record, drive
from powauth.backends.memory import MemoryBackend
from powauth.errors import Overtaken
from powauth.extensions.confirm_email import ConfirmEmail, ConfirmEmailMixin, Paths
from powauth.testing import MemoryMailer

FRAMEWORKS = ("asgi", "wsgi")
UNKNOWN = "nobody@example.com"


@pytest.fixture(params=FRAMEWORKS)
def here(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Confirming]:
    with confirming(request.param, tmp_path) as made:
        yield made


@pytest.fixture
def early(tmp_path: Path) -> Iterator[Confirming]:
    with confirming("asgi", tmp_path, password="at_registration") as made:
        yield made


def posted(client: httpx.Client, path: str, **fields: object) -> httpx.Response:
    return client.post(path, json=fields)


def same(*answers: httpx.Response) -> None:
    """Check that a client cannot tell answers apart."""
    shown = [(each.status_code, each.content, sorted(each.headers.items())) for each in answers]
    assert all(each == shown[0] for each in shown), shown


# --- registering ------------------------------------------------------------------------------------------------------


def test_a_registration_goes_on_by_mail(here: Confirming) -> None:
    browser = here.browser()
    page = browser.get("/register")
    assert not page.find("input", name="password")
    told = browser.follow(browser.send(page, email="Mia@Example.com"))
    assert "we have sent a mail" in told.text
    assert here.addresses == []
    assert not browser.is_signed_in()
    link = here.link()
    done = here.opened(browser, link, password=PASSWORD)
    assert (done.status, done.location) == (303, "/account?done=registered")
    assert browser.is_signed_in()
    assert here.row()["email_confirmed_at"] is not None
    assert here.browser().sign_in().status == 303
    again = here.opened(here.browser(), link, password=PASSWORD)
    assert (again.status, "is invalid or has expired" in again.text) == (422, True)


def test_the_json_twin_does_the_same(here: Confirming) -> None:
    program = here.program()
    assert program.get("/register").json() == {"fields": ["email"]}
    sent = posted(program, "/register", email=EMAIL, password=PASSWORD, email_confirmed_at="2020-01-01T00:00:00Z")
    assert (sent.status_code, sent.json()) == (202, {"accepted": "mail_sent"})
    assert "set-cookie" not in sent.headers
    link = here.link()
    assert program.get(link.path).json() == {"fields": ["token", "password"]}
    short = posted(program, link.path, token=link.token, password="short")
    assert (short.status_code, [*short.json()["errors"]]) == (422, ["password"])
    other = posted(program, link.path, token=link.token, password=PASSWORD, email="evil@example.com", locked=True)
    assert (other.status_code, other.json()["user"]["email"]) == (201, EMAIL)
    assert here.addresses == [EMAIL]
    wrong = posted(program, "/register", email="mia")
    assert wrong.status_code == 403  # somebody is signed in
    assert posted(here.program(), "/register", email="mia").json() == {"errors": {"email": ["has invalid format"]}}


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_last_step_asks_for_all_that_a_registration_needs(framework: str, tmp_path: Path) -> None:
    with confirming(framework, tmp_path, named=True) as here:
        browser = here.browser()
        browser.send(browser.get("/register"), email=EMAIL)
        link = here.link()
        page = browser.get(link.path)
        assert page.by_id("confirm_email_complete-full_name")["maxlength"] == "40"
        assert here.program().get(link.path).json() == {"fields": ["token", "full_name", "password"]}
        missing = here.opened(browser, link, password=PASSWORD)
        assert (missing.status, "blank" in missing.text) == (422, True)
        assert here.opened(browser, link, password=PASSWORD, full_name="Mia").status == 303
        assert here.row()["full_name"] == "Mia"


def test_pge_07_a_taken_address_answers_as_a_free_one_and_its_owner_gets_a_notice(here: Confirming) -> None:
    here.member(EMAIL)
    here.member("new@example.com", confirmed=False)
    here.member("locked@example.com")
    here.change("locked@example.com", locked=True)
    posted(here.program(), "/register", email="first@example.com")  # the counter of the source exists from now on
    work = {}
    for address in (EMAIL, UNKNOWN, "new@example.com", "locked@example.com"):
        here.site.backend.calls.clear()
        with statements(here.engine) as seen:
            program = here.program()
            answers = [posted(program, "/register", email=address, password=PASSWORD)]
        page = here.browser().post("/register", {"email": address})
        work[address] = (answers, page.location, sorted(seen), sorted(here.site.backend.calls))
    (first, *others) = work.values()
    same(*(answer for each in work.values() for answer in each[0]))
    assert all(each[1:] == first[1:] for each in others), work
    (notice, _) = here.to(EMAIL)
    assert "#" not in text_of(notice)
    assert here.link(UNKNOWN).path == "/register/complete"
    assert here.link("new@example.com").path == "/confirm-email"
    assert here.to("locked@example.com") == []


def text_of(message: Any) -> str:
    body = message.get_body(("plain",))
    return str(body.get_content())


def test_registering_again_sends_a_newer_link_and_ends_the_older_one(here: Confirming) -> None:
    program = here.program()
    posted(program, "/register", email=EMAIL)
    older = here.link()
    posted(program, "/register", email=EMAIL)
    newer = here.link()
    assert posted(program, older.path, token=older.token, password=PASSWORD).status_code == 422
    assert posted(program, newer.path, token=newer.token, password=PASSWORD).status_code == 201


def test_an_address_gets_three_mails_in_five_minutes_and_a_source_may_ask_ten_times(here: Confirming) -> None:
    program = here.program()
    answers = [posted(program, "/register", email=EMAIL) for _ in range(5)]
    same(*answers)
    assert len(here.to(EMAIL)) == 3
    for number in range(5):
        assert posted(program, "/confirm-email/again", email=f"a{number}@example.com").status_code == 202
    assert posted(program, "/register", email=UNKNOWN).status_code == 429
    here.site.clock.advance(301)
    assert posted(program, "/register", email=EMAIL).status_code == 202
    assert len(here.to(EMAIL)) == 4


def test_whoever_is_signed_in_stays_so_and_registers_nobody(here: Confirming) -> None:
    here.member("ann@example.com")
    posted(here.program(), "/register", email=EMAIL)
    link = here.link()
    browser = here.browser()
    browser.sign_in("ann@example.com")
    page = browser.get(link.path)
    assert (page.status, "Sign out first" in page.text) == (403, True)
    assert browser.post(link.path, {"token": link.token, "password": PASSWORD}).status == 403
    assert "ann@example.com" in browser.get("/account").text
    assert here.opened(here.browser(), link, password=PASSWORD).status == 303  # the link is still good


def test_of_20_parallel_uses_one_registers(tmp_path: Path) -> None:
    with confirming("wsgi", tmp_path) as here:
        posted(here.program(), "/register", email=EMAIL)
        link = here.link()
        with ThreadPoolExecutor(20) as pool:
            answers = list(
                pool.map(
                    lambda _: posted(here.program(), link.path, token=link.token, password=PASSWORD).status_code,
                    range(20),
                )
            )
        assert sorted(answers) == [201, *[422] * 19]
        assert here.addresses == [EMAIL]


# --- confirming -------------------------------------------------------------------------------------------------------


def test_a_user_without_a_confirmed_address_gets_a_link_and_chooses_a_password(here: Confirming) -> None:
    here.member(EMAIL, confirmed=False)
    thief = here.browser()
    thief.sign_in()
    page = here.browser().get("/confirm-email/again")
    told = here.browser().follow(here.browser().send(page, email=EMAIL))
    assert "we have sent a mail" in told.text
    link = here.link()
    browser = here.browser()
    assert here.opened(browser, link).status == 422
    done = here.opened(browser, link, password=OTHER_PASSWORD)
    assert "Your e-mail address is confirmed" in browser.follow(done).text
    assert not browser.is_signed_in()
    assert not thief.is_signed_in()
    assert here.row()["email_confirmed_at"] is not None
    assert browser.sign_in(password=OTHER_PASSWORD).status == 303
    assert here.browser().sign_in().status == 401


def test_another_mail_goes_only_to_who_waits_for_one(here: Confirming) -> None:
    here.member(EMAIL)
    here.member("ann@example.com", confirmed=False)
    here.member("locked@example.com", confirmed=False)
    here.change("locked@example.com", locked=True)
    addresses = (EMAIL, UNKNOWN, "ann@example.com", "locked@example.com")
    same(*(posted(here.program(), "/confirm-email/again", email=each) for each in addresses))
    assert [each["To"] for each in here.mails()] == ["ann@example.com"]
    for wrong in ("mia\0", None, 7, ["mia@example.com"], ""):
        assert posted(here.program(), "/confirm-email/again", email=wrong).status_code == 422


def test_another_mail_after_a_registration_has_a_link_that_works(here: Confirming) -> None:
    """Otherwise anybody could end the link of a registration, and nothing would take its place."""
    program = here.program()
    for _ in range(2):  # nobody has asked to register yet
        posted(program, "/confirm-email/again", email=EMAIL)
    assert here.mails() == []
    here.site.clock.advance(301)
    posted(program, "/register", email=EMAIL)
    older = here.link()
    posted(program, "/confirm-email/again", email=EMAIL)
    newer = here.link()
    assert (newer.path, len(here.mails())) == (older.path, 2)
    assert posted(program, older.path, token=older.token, password=PASSWORD).status_code == 422
    assert posted(program, newer.path, token=newer.token, password=PASSWORD).status_code == 201


def test_in_the_browser_where_the_user_registered_confirming_is_one_click(early: Confirming) -> None:
    browser = early.browser()
    browser.register()
    assert browser.is_signed_in()
    assert early.row()["email_confirmed_at"] is None
    link = early.link()
    page = browser.get(link.path)
    assert not page.find("input", name="password")
    other = early.browser()
    assert other.get(link.path).find("input", name="password")
    done = browser.follow(early.opened(browser, link))
    assert "Your e-mail address is confirmed" in done.text
    assert browser.is_signed_in()
    assert early.row()["email_confirmed_at"] is not None
    assert early.opened(browser, link).status == 422


def test_a_source_that_registers_too_often_sends_no_more_mail(early: Confirming) -> None:
    for number in range(12):
        fields = {"email": f"a{number}@example.com", "password": PASSWORD}
        assert posted(early.program(), "/register", **fields).status_code == 201
    assert len(early.mails()) == 10


def test_with_a_password_at_registration_a_taken_address_is_told(early: Confirming) -> None:
    early.member(EMAIL)
    answer = posted(early.program(), "/register", email=EMAIL, password=PASSWORD)
    assert answer.json() == {"errors": {"email": ["has already been taken"]}}


def test_eml_03_no_other_value_is_a_token_and_a_token_is_good_for_one_use(here: Confirming) -> None:
    here.member(EMAIL, confirmed=False)
    here.member("ann@example.com", confirmed=False)
    here.change("ann@example.com", unconfirmed_email="")
    program = here.program()
    for path in ("/confirm-email", "/confirm-email/undo", "/register/complete"):
        values: tuple[object, ...] = ("", None, [], {}, 0, "x" * 72, "A" * 72, "\ud7ff", "null")
        for value in values:
            answer = posted(program, path, token=value, password=OTHER_PASSWORD)
            assert (answer.status_code, [*answer.json()["errors"]]) == (422, ["token"]), (path, value)
        assert posted(program, path, password=OTHER_PASSWORD).status_code == 422
    posted(program, "/confirm-email/again", email=EMAIL)
    older = here.link()
    posted(program, "/confirm-email/again", email=EMAIL)
    newer = here.link()
    for changed in (newer.token[:-1], newer.token[1:] + "A", newer.token.swapcase(), newer.token + "="):
        assert posted(program, newer.path, token=changed, password=OTHER_PASSWORD).status_code == 422
    assert posted(program, older.path, token=older.token, password=OTHER_PASSWORD).status_code == 422
    assert len(re.sub(r"[^A-Za-z0-9_-]", "", newer.token)) == 72
    assert len(records(here)) == 1
    assert newer.token.encode() not in b"".join(each.value + each.key for each in records(here))
    here.site.clock.advance(24 * 3600 - 1)
    assert posted(program, newer.path, token=newer.token, password=OTHER_PASSWORD).status_code == 200
    assert posted(program, newer.path, token=newer.token, password=OTHER_PASSWORD).status_code == 422
    posted(program, "/confirm-email/again", email="ann@example.com")
    link = here.link("ann@example.com")
    here.site.clock.advance(24 * 3600)
    assert posted(program, link.path, token=link.token, password=OTHER_PASSWORD).status_code == 422


def records(here: Confirming) -> list[Record]:
    return drive(here.site.backend.inner.scan("credentials.confirm_email", None, 100, here.site.auth.now())).records


@pytest.mark.parametrize("kind", ["a new password", "a new address", "a lock", "a deletion", "a sign-out everywhere"])
def test_trm_02_trm_03_a_link_ends_with_each_change_of_its_user(tmp_path: Path, kind: str) -> None:
    with confirming("wsgi", tmp_path) as here:
        me = here.member(EMAIL, confirmed=False)
        posted(here.program(), "/confirm-email/again", email=EMAIL)
        link, auth = here.link(), here.site.auth
        if kind == "a new password":
            drive(auth.update_account(me, password=OTHER_PASSWORD))
        elif kind == "a new address":
            drive(auth.update_account(me, email="mia@other.example"))
        elif kind == "a lock":
            drive(auth.update_account(me, locked=True))
        elif kind == "a deletion":
            drive(auth.delete_account(me))
        else:
            drive(auth.revoke_user(me))
        used = posted(here.program(), link.path, token=link.token, password="twelve white swans")
        assert used.status_code == 422
        if kind != "a deletion":
            address = "mia@other.example" if kind == "a new address" else EMAIL
            assert here.row(address)["email_confirmed_at"] is None


# --- who is not confirmed does not sign in ----------------------------------------------------------------------------


@pytest.fixture(params=FRAMEWORKS)
def strict(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Confirming]:
    with confirming(request.param, tmp_path, required=True, password="at_registration") as made:
        yield made


def test_aut_06_an_unconfirmed_user_signs_in_on_no_path(strict: Confirming) -> None:
    me = strict.member(EMAIL)
    inside = strict.browser()
    inside.sign_in()
    strict.change(EMAIL, email_confirmed_at=None)
    wrong, nobody = strict.program(), strict.program()
    same(
        posted(wrong, "/login", email=EMAIL, password="six red herons"),
        posted(nobody, "/login", email=UNKNOWN, password="six red herons"),
    )
    refused = posted(strict.program(), "/login", email=EMAIL, password=PASSWORD)
    assert (refused.status_code, refused.json()["error"]) == (403, "address_not_confirmed")
    assert "set-cookie" not in refused.headers
    browser = strict.browser()
    told = browser.follow(browser.sign_in())
    assert "Confirm your e-mail address before you sign in" in told.text
    assert not browser.is_signed_in()
    changed = inside.post("/account", {"action": "password", "current_password": PASSWORD, "password": OTHER_PASSWORD})
    assert (changed.status, changed.location) == (303, "/confirm-email/again?done=confirm_email_refused")
    assert not inside.is_signed_in()
    registered = posted(strict.program(), "/register", email="ann@example.com", password=PASSWORD)
    assert (registered.status_code, registered.json()["error"]) == (403, "address_not_confirmed")
    assert [each["To"] for each in strict.mails()] == ["ann@example.com"]
    browser.send(told, email=EMAIL)
    link = strict.link()
    strict.opened(browser, link, password="twelve white swans")
    assert browser.sign_in(password="twelve white swans").status == 303
    assert me.email == EMAIL


def test_aut_06_a_sign_in_by_the_app_itself_is_refused_too(tmp_path: Path) -> None:
    with confirming("wsgi", tmp_path, required=True) as here:
        me = here.member(EMAIL, confirmed=False)
        bound = RequestAuth(here.site.auth, FakeConnection())
        with pytest.raises(Refused) as refusal:
            drive(bound.sign_in_user(me))
        assert refusal.value.code == "address_not_confirmed"
        assert bound.current_user is None
        drive(here.extension.address_proven(me.id, "mia@elsewhere.example"))
        with pytest.raises(Refused):
            drive(bound.sign_in_user(me))
        drive(here.extension.address_proven(me.id, EMAIL))
        assert drive(bound.sign_in_user(me)) is not None


@pytest.mark.parametrize(("times", "marked"), [(2, True), (3, False)])
def test_a_proven_address_is_noted_although_the_account_changes_meanwhile(
    here: Confirming, monkeypatch: pytest.MonkeyPatch, times: int, marked: bool
) -> None:
    me, addresses, left = here.member(EMAIL, confirmed=False), here.extension.addresses, [times]
    read = addresses.state

    async def overtaken(key: Any) -> Any:
        found = await read(key)
        if left[0]:
            left[0] -= 1
            here.change(password_hash=f"another hash {left[0]}")
        return found

    monkeypatch.setattr(addresses, "state", overtaken)
    with nullcontext() if marked else pytest.raises(Overtaken):
        drive(here.extension.address_proven(me.id, EMAIL))
    assert (here.row()["email_confirmed_at"] is not None) is marked


# --- attacks ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("framework", FRAMEWORKS)
@pytest.mark.parametrize("later", ["confirms", "asks for another mail"])
def test_eml_04_what_an_attacker_prepared_is_void_once_the_owner_confirms(
    tmp_path: Path, framework: str, later: str
) -> None:
    with confirming(framework, tmp_path, password="at_registration") as here:
        attacker, other = here.browser(), here.browser()
        attacker.register(EMAIL, PASSWORD)
        assert other.sign_in().status == 303
        evil = "evil@attacker.example"
        asked = attacker.post("/account", {"action": "user_id", "email": evil, "current_password": PASSWORD})
        assert asked.status == 303
        trap = here.link(evil)
        owner = here.browser()
        if later == "asks for another mail":
            taken = posted(here.program(), "/register", email=EMAIL, password=OTHER_PASSWORD)
            assert taken.status_code == 422
            owner.post("/confirm-email/again", {"email": EMAIL})
        link = here.link(EMAIL)
        assert link.path == "/confirm-email"
        assert here.opened(owner, link).status == 422  # not without a password of the owner's
        assert here.opened(owner, link, password=OTHER_PASSWORD).status == 303
        assert not attacker.is_signed_in()
        assert not other.is_signed_in()
        assert here.browser().sign_in(EMAIL, PASSWORD).status == 401
        assert owner.sign_in(EMAIL, OTHER_PASSWORD).status == 303
        assert attacker.post(trap.path, {"token": trap.token}).status == 303  # to the sign-in page
        assert owner.post(trap.path, {"token": trap.token}).status == 422
        assert here.row()["unconfirmed_email"] is None
        assert here.addresses == [EMAIL]


def test_eml_04_by_default_nobody_gets_an_account_with_the_address_of_somebody_else(here: Confirming) -> None:
    attacker, owner = here.browser(), here.browser()
    attacker.post("/register", {"email": EMAIL, "password": PASSWORD})
    assert attacker.sign_in().status == 401
    assert here.addresses == []
    link = here.link()
    here.opened(owner, link, password=OTHER_PASSWORD)
    assert owner.is_signed_in()
    assert here.browser().sign_in(EMAIL, PASSWORD).status == 401


def test_eml_04_a_user_who_opens_the_link_of_another_stays_who_they_are(early: Confirming) -> None:
    early.browser().register(EMAIL)
    ben = early.browser()
    ben.register("ben@example.com")
    link = early.link(EMAIL)
    refused = early.opened(ben, link)
    assert (refused.status, bool(refused.find("input", name="password"))) == (422, True)
    assert early.row(EMAIL)["email_confirmed_at"] is None
    done = early.opened(ben, link, password=OTHER_PASSWORD)
    assert done.status == 303
    assert "ben@example.com" in ben.get("/account").text
    assert early.row("ben@example.com")["email_confirmed_at"] is None


def test_links_begin_with_the_public_url_whatever_a_request_says(here: Confirming) -> None:
    for headers in (
        {"host": "evil.example"},
        {"x-forwarded-host": "evil.example"},
        {"forwarded": "host=evil.example"},
    ):
        here.program(**headers).post("/register", json={"email": EMAIL})
    for message in here.to(EMAIL):
        assert "evil.example" not in message.as_string()
    link: Link = here.link()
    assert link.path == "/register/complete"


# --- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "wrong",
    [
        {"mailer": None},
        {"required": "yes"},
        {"password": "later"},
        {"ttl": 60},
        {"undo_ttl": timedelta(0)},
        {"per_address": 3},
        {"per_address": None},
        {"per_source": (1, 2)},
        {"per_source": None},
        {"mail_texts": {"unknown": "x"}},
        {"mail_templates": "/nowhere"},
    ],
)
def test_wrong_options_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        ConfirmEmail(**{"mailer": MemoryMailer(), **wrong})


def test_a_site_that_cannot_confirm_is_refused(tmp_path: Path) -> None:
    engine = sa.create_engine("sqlite://")

    def auth(model: Any = Member, url: str | None = "https://app.example", **options: Any) -> object:
        users = SQLAlchemyUsers(engine, model, hasher=cheap_hasher(), **options)
        extensions: list[ConfirmEmail[Any]] = [ConfirmEmail(MemoryMailer(), per_address=Limit(1, timedelta(minutes=1)))]
        return SessionAuth(
            secret_key=SECRET, users=users, backend=MemoryBackend(), extensions=extensions, public_url=url
        )

    assert auth() is not None
    with pytest.raises(ConfigError, match="public_url"):
        auth(url=None)
    with pytest.raises(ConfigError, match="derive User from ConfirmEmailMixin"):
        auth(User)
    with pytest.raises(ConfigError, match="only ConfirmEmail may set"):
        auth(fields=["email_confirmed_at"])
    engine.dispose()


@pytest.mark.parametrize("wrong", [{"again": "again"}, {"confirm": "/a", "undo": "/a"}])
def test_wrong_paths_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ConfigError):
        Paths(**wrong)


def test_users_without_addresses_cannot_be_confirmed(tmp_path: Path) -> None:
    class Others(DeclarativeBase):
        pass

    class Named(ConfirmEmailMixin, UsernameMixin, UserMixin, Others):
        __tablename__ = "named"

    engine = sa.create_engine("sqlite://")
    users = SQLAlchemyUsers(engine, Named, user_id_field="username", hasher=cheap_hasher())
    extensions: list[ConfirmEmail[Any]] = [ConfirmEmail(MemoryMailer())]
    with pytest.raises(ConfigError, match="sign in with an e-mail address"):
        SessionAuth(
            secret_key=SECRET,
            users=users,
            backend=MemoryBackend(),
            extensions=extensions,
            public_url="https://app.example",
        )
    engine.dispose()


def test_the_app_replaces_the_texts_and_the_templates_of_the_mail(tmp_path: Path) -> None:
    own = tmp_path / "own"
    own.mkdir()
    (own / "confirm_email_mail_register.txt").write_text("{{ texts.confirm_email_mail_register_text }} {{ link }}")
    texts = {
        "confirm_email_mail_register_subject": "Willkommen bei {title}",
        "confirm_email_mail_register_text": "Noch {hours} Stunden:",
    }
    options: dict[str, Any] = {"mail_texts": texts, "mail_templates": own, "title": "Haus", "ttl": timedelta(hours=2)}
    with confirming("wsgi", tmp_path, paths=Paths(complete="/weiter"), **options) as here:
        posted(here.program(), "/register", email=EMAIL)
        (message,) = here.to(EMAIL)
        assert message["Subject"] == "Willkommen bei Haus"
        assert text_of(message).startswith("Noch 2 Stunden: https://app.example/weiter#")
        assert here.link().path == "/weiter"
