"""Reset of a password: what everybody gets, what a link is good for, and what a new password ends."""

import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import httpx
import pytest

from harness.pages_support import EMAIL, FIREFOX, ORIGIN, PASSWORD, Site, site
from harness.smtp import smtp_server
from harness.support import SECRET, MemoryUsers
from powauth import ConfigError, Event, Extension, Limit, Remember, SessionAuth, Throttle
from powauth.backends.base import drive
from powauth.backends.memory import MemoryBackend
from powauth.extensions import Mailer, SMTPMailer
from powauth.extensions.outbox import NOTICES
from powauth.extensions.reset_password import ResetPassword
from powauth.pages import Messages
from powauth.testing import MemoryMailer

NEW = "eleven grey geese"
UNKNOWN = "nobody@example.com"
LINK = re.compile(r"https://app\.example\S*/password/reset#([A-Za-z0-9_-]{72})\s*$", re.MULTILINE)


class World:
    """A site with the extension, and a user."""

    def __init__(self, here: Site, mailer: MemoryMailer, events: list[Event]) -> None:
        self.here, self.mailer, self.events = here, mailer, events
        self.program = here.program()
        self.program.headers["x-source"] = "1"
        here.browser().register()

    @property
    def extension(self) -> ResetPassword:
        return self.here.auth.extension(ResetPassword)

    def settle(self) -> None:
        drive(self.extension.aclose())

    def ask(self, email: object = EMAIL, **headers: str) -> httpx.Response:
        answer = self.program.post("/password/forgot", json={"email": email}, headers=headers)
        self.settle()
        return answer

    def token(self, email: str = EMAIL) -> str:
        before = len(self.mailer.messages)
        assert self.ask(email).status_code == 202
        (message,) = self.mailer.messages[before:]
        return token_in(message)

    def reset(self, token: object, password: object = NEW) -> httpx.Response:
        return self.program.post("/password/reset", json={"token": token, "password": password})

    def signs_in(self, password: str, email: str = EMAIL) -> bool:
        return self.here.program().post("/login", json={"email": email, "password": password}).status_code == 200

    def named(self, name: str) -> list[Event]:
        return [event for event in self.events if event.name == name]


def text_of(message: EmailMessage, kind: str = "plain") -> str:
    body = message.get_body((kind,))
    assert body is not None
    return str(body.get_content())


def token_in(message: EmailMessage) -> str:
    found = LINK.search(text_of(message))
    assert found is not None
    return found[1]


def world_on(framework: str, folder: Path, mailer: Mailer | None = None, **options: Any) -> Iterator[World]:
    events: list[Event] = []
    kept = MemoryMailer()
    auth_options = {"public_url": ORIGIN, "on_event": events.append, "throttle": None, **options.pop("auth", {})}
    pages = options.pop("pages", {})
    extension = ResetPassword(mailer or kept, **options)
    with site(framework, folder, auth_options={"extensions": [extension], **auth_options}, **pages) as here:
        made = World(here, kept, events)
        yield made
        made.settle()  # otherwise a letter that waits would open the database again


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    yield from world_on("wsgi", tmp_path)


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Callable[..., World]]:
    """Return a function that makes a world with options."""
    open_worlds: list[Iterator[World]] = []

    def made(framework: str = "wsgi", mailer: Mailer | None = None, **options: Any) -> World:
        folder = tmp_path / str(len(open_worlds))
        folder.mkdir()
        open_worlds.append(world_on(framework, folder, mailer, **options))
        return next(open_worlds[-1])

    yield made
    for each in open_worlds:
        assert next(each, None) is None


INVALID = {"errors": {"token": ["is no longer valid"]}}


# --- RST-01 -----------------------------------------------------------------------------------------------------------


def test_rst_01_everybody_who_asks_gets_the_same_answer(world: World) -> None:
    for email in ("locked@example.com", "none@example.com"):
        world.here.browser().register(email)
    world.here.change("locked@example.com", locked=True)
    world.here.change("none@example.com", password_hash=None)
    emails = (EMAIL, UNKNOWN, "locked@example.com", "none@example.com", "no mail")
    answers = {email: world.ask(email) for email in emails}
    assert {answer.status_code for answer in answers.values()} == {202}
    assert {answer.content for answer in answers.values()} == {b"{}"}
    kept = [{name: value for name, value in answer.headers.items() if name != "date"} for answer in answers.values()]
    assert all(each == kept[0] for each in kept)
    assert [message["To"] for message in world.mailer.messages] == [EMAIL, "none@example.com"]


def test_rst_01_the_request_makes_the_same_calls_for_everybody(make: Callable[..., World]) -> None:
    class Gate:
        def __init__(self) -> None:
            self.may = threading.Event()

        def send(self, message: EmailMessage) -> None:
            assert self.may.wait(30)

    gate = Gate()
    world = make(mailer=gate)
    world.program.post("/password/forgot", json={"email": EMAIL})  # the outbox's thread waits in the mailer
    while not world.named("token_issued"):
        pass
    calls = []
    for email in (EMAIL, UNKNOWN):
        world.here.backend.calls.clear()
        assert world.program.post("/password/forgot", json={"email": email}).status_code == 202
        calls.append(list(world.here.backend.calls))
    gate.may.set()
    assert calls[0] == calls[1]
    assert calls[0] != []


@pytest.mark.parametrize("answer", ["accept", "refuse", "fail", "hang"])
def test_rst_01_mail_is_not_in_the_way_of_the_response(make: Callable[..., World], answer: Any) -> None:
    with smtp_server() as server:
        server.answer = answer
        mailer = SMTPMailer(
            "127.0.0.1", sender="no-reply@app.example", port=server.port, security="none", timeout=timedelta(seconds=1)
        )
        world = make(mailer=mailer)
        answers = [world.program.post("/password/forgot", json={"email": email}) for email in (EMAIL, UNKNOWN)]
        assert {(each.status_code, each.content) for each in answers} == {(202, b"{}")}
        world.settle()
        assert len(server.messages) == (answer == "accept")
        failed = [event.detail for event in world.named("mail_failed")]
        assert len(failed) == (answer != "accept")
        assert all(str(detail).startswith("reset: ") and EMAIL not in str(detail) for detail in failed)
        if answer == "accept":
            assert world.reset(token_in(server.messages[0])).status_code == 204


# --- RST-02 -----------------------------------------------------------------------------------------------------------


def test_rst_02_a_token_ends_and_the_store_has_only_a_hash_of_it(world: World) -> None:
    token = world.token()
    namespace = "credentials.reset_password"
    (record,) = drive(world.here.backend.scan(namespace, None, 10, world.here.auth.now())).records
    assert token.encode() not in record.value
    world.here.clock.advance(3599)
    assert world.reset(token, "short").status_code == 422
    world.here.clock.advance(2)
    assert (world.reset(token).status_code, world.reset(token).json()) == (422, INVALID)
    assert world.signs_in(PASSWORD)


def test_rst_02_the_life_of_a_token_is_limited() -> None:
    with pytest.raises(ConfigError, match="the ttl of ResetPassword"):
        ResetPassword(MemoryMailer(), ttl=timedelta(days=2))


# --- RST-03 -----------------------------------------------------------------------------------------------------------


def test_rst_03_following_a_link_changes_nothing_and_one_of_many_posts_succeeds(world: World) -> None:
    token = world.token()
    browser = world.here.browser()
    for _ in range(25):
        assert browser.get("/password/reset").status == 200
        assert world.program.head(f"/password/reset?token={token}").status_code == 200
    clients = [world.here.program() for _ in range(20)]
    with ThreadPoolExecutor(20) as pool:
        sent = [
            pool.submit(client.post, "/password/reset", json={"token": token, "password": f"{NEW} {number}"})
            for number, client in enumerate(clients)
        ]
        answers = [each.result() for each in sent]
    statuses = sorted(answer.status_code for answer in answers)
    assert statuses == [204] + [422] * 19
    assert all(answer.json() == INVALID for answer in answers if answer.status_code == 422)
    assert [world.signs_in(f"{NEW} {number}") for number in range(20)].count(True) == 1
    assert not world.signs_in(PASSWORD)


# --- RST-04 -----------------------------------------------------------------------------------------------------------

CHANGES: dict[str, Callable[[World], object]] = {
    "a newer token": lambda world: world.token(),
    "a reset": lambda world: world.reset(world.token(), "twelve white swans"),
    "a new password": lambda world: drive(world.here.auth.update_account(key_of(world), password="twelve white swans")),
    "a new address": lambda world: drive(world.here.auth.update_account(key_of(world), email="mia@example.org")),
    "a change in the database": lambda world: world.here.change(password_hash=None),
    "a lock": lambda world: world.here.change(locked=True),
    "a revocation": lambda world: drive(world.here.auth.revoke_user(key_of(world))),
    "a deletion": lambda world: drive(world.here.auth.delete_account(key_of(world))),
}


def key_of(world: World) -> Any:
    account = drive(world.here.users.find(EMAIL))
    assert account is not None
    return account.key


@pytest.mark.parametrize("change", CHANGES)
def test_rst_04_a_token_is_void_after(world: World, change: str) -> None:
    token = world.token()
    CHANGES[change](world)
    assert (world.reset(token).status_code, world.reset(token).json()) == (422, INVALID)
    assert not world.signs_in(NEW)


# --- RST-05 -----------------------------------------------------------------------------------------------------------


def test_rst_05_a_reset_signs_nobody_in_and_the_rules_for_passwords_apply(world: World) -> None:
    token = world.token()
    for bad in ("short", "password", "mia@example.com", "", None, 7, ["x"], "x" * 5000):
        refused = world.reset(token, bad)
        assert (refused.status_code, list(refused.json()["errors"])) == (422, ["password"])
    assert world.signs_in(PASSWORD)
    done = world.reset(token)
    assert (done.status_code, done.content, done.headers.get("set-cookie")) == (204, b"", None)
    assert world.program.get("/account").status_code == 401
    assert world.signs_in(NEW)
    assert not world.signs_in(PASSWORD)


def test_a_user_without_a_password_sets_one(world: World) -> None:
    world.here.change(password_hash=None)
    assert world.reset(world.token()).status_code == 204
    assert world.signs_in(NEW)


# --- RST-06 -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "forged",
    [
        {"host": "evil.example"},
        {"x-forwarded-host": "evil.example"},
        {"forwarded": "host=evil.example;proto=http"},
        {"host": "app.example@evil.example"},
        {"host": "app.example:80@evil.example", "x-forwarded-proto": "http"},
    ],
)
@pytest.mark.parametrize("framework", ["wsgi", "flask"])
def test_rst_06_no_header_of_a_request_gets_into_a_link(
    make: Callable[..., World], framework: str, forged: dict[str, str]
) -> None:
    world = make(framework)
    world.ask(**forged)
    for message in world.mailer.messages:
        assert "evil" not in message.as_string()
        assert LINK.search(text_of(message)) is not None
        assert f'href="{ORIGIN}/password/reset#' in text_of(message, "html")


def test_rst_06_the_extension_needs_the_public_address() -> None:
    with pytest.raises(ConfigError, match=r"^ResetPassword sends links, so SessionAuth needs public_url"):
        SessionAuth(
            secret_key=SECRET, users=MemoryUsers(), backend=MemoryBackend(), extensions=[ResetPassword(MemoryMailer())]
        )


# --- RST-07 -----------------------------------------------------------------------------------------------------------


def test_rst_07_mails_to_one_address_are_limited_and_nothing_shows_it(make: Callable[..., World]) -> None:
    world = make(per_source=Limit(1000, timedelta(minutes=5)))
    assert {world.ask().status_code for _ in range(100)} == {202}
    assert len(world.mailer.messages) == 3
    assert world.signs_in(PASSWORD)
    assert world.reset(token_in(world.mailer.messages[-1])).status_code == 204
    world.here.clock.advance(301)
    world.ask()
    assert [message["Subject"] for message in world.mailer.messages][-1] == "Reset your password"


def test_rst_07_requests_of_one_source_are_limited(make: Callable[..., World]) -> None:
    world = make()
    answers = [world.ask(f"user{number}@example.com").status_code for number in range(12)]
    assert answers == [202] * 10 + [429] * 2
    refused = world.ask()
    assert (refused.status_code, refused.headers["retry-after"]) == (429, "300")
    assert world.mailer.messages == []
    assert {event.detail for event in world.named("throttled")} == {"reset_password.source"}
    world.here.clock.advance(301)
    assert world.ask().status_code == 202


def test_rst_07_guesses_of_tokens_are_limited_and_lock_nobody_out(make: Callable[..., World]) -> None:
    world = make(auth={"throttle": Throttle()})
    token = world.token()
    for _ in range(3):
        assert world.reset(token, "short").status_code == 422  # a valid token is no guess
    statuses = [world.reset(token[:-2] + "AA").status_code for _ in range(25)]
    assert statuses == [422] * 20 + [429] * 5
    assert world.signs_in(PASSWORD)
    world.here.clock.advance(901)
    assert world.reset(token).status_code == 204


# --- RST-08 -----------------------------------------------------------------------------------------------------------


def test_rst_08_a_notice_without_password_or_token_follows(world: World) -> None:
    token = world.token()
    world.reset(token)
    world.settle()
    notice = world.mailer.messages[-1]
    assert (notice["To"], notice["Subject"]) == (EMAIL, "Your password was changed")
    assert token not in notice.as_string()
    assert NEW not in notice.as_string()
    assert f"{ORIGIN}/password/forgot" in text_of(notice)


def test_rst_08_a_notice_follows_a_change_by_the_user_at_the_old_address(world: World) -> None:
    program = world.here.program()
    program.post("/login", json={"email": EMAIL, "password": PASSWORD})
    change = {"action": "password", "current_password": PASSWORD, "password": NEW}
    wrong = program.patch("/account", json={**change, "current_password": "wrong"})
    sent = program.patch("/account", json=change) if wrong.status_code == 405 else None
    auth = program.post("/account", json=change) if sent is None or sent.status_code == 405 else sent
    assert auth.status_code == 200
    world.settle()
    assert [message["Subject"] for message in world.mailer.messages] == ["Your password was changed"]
    assert [message["To"] for message in world.mailer.messages] == [EMAIL]


def test_rst_07_a_user_who_changes_the_password_again_and_again_fills_no_mailbox(world: World) -> None:
    program = world.here.program()
    assert program.post("/login", json={"email": EMAIL, "password": PASSWORD}).status_code == 200
    change = {"action": "password", "current_password": PASSWORD, "password": PASSWORD}
    for _ in range(NOTICES.attempts + 3):
        assert program.post("/account", json=change).status_code == 200
    world.settle()
    assert len(world.mailer.messages) == NOTICES.attempts
    world.here.clock.advance(NOTICES.period.total_seconds())
    assert program.post("/login", json={"email": EMAIL, "password": PASSWORD}).status_code == 200
    assert program.post("/account", json=change).status_code == 200
    world.settle()
    assert len(world.mailer.messages) == NOTICES.attempts + 1


def test_rst_08_the_page_of_the_link_names_itself_to_nobody_and_loads_nothing_foreign(world: World) -> None:
    page = world.here.browser().get("/password/reset")
    assert page.header("referrer-policy") == "no-referrer"
    assert page.header("cache-control") == "no-store"
    assert "default-src 'none'" in str(page.header("content-security-policy"))
    assert re.findall(r'(?:src|href)="([^"/][^"]*|//[^"]*)"', page.html) == []
    assert page.find("script", src="/powauth-link.js")


# --- TRM-04 -----------------------------------------------------------------------------------------------------------


def test_trm_04_a_reset_ends_all_that_an_attacker_holds(make: Callable[..., World]) -> None:
    world = make(auth={"remember": Remember()})
    attacker, remembered = world.here.program(), world.here.program()
    attacker.post("/login", json={"email": EMAIL, "password": PASSWORD})
    remembered.post("/login", json={"email": EMAIL, "password": PASSWORD, "remember": True})
    assert attacker.get("/account").status_code == remembered.get("/account").status_code == 200
    second = world.token()
    assert world.reset(world.token()).status_code == 204
    assert attacker.get("/account").status_code == remembered.get("/account").status_code == 401
    assert world.reset(second, "twelve white swans").json() == INVALID
    assert world.signs_in(NEW)


# --- pages for people -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("framework", ["wsgi", "flask"])
def test_a_person_resets_a_password(make: Callable[..., World], framework: str) -> None:
    world = make(framework)
    browser = world.here.browser(user_agent=FIREFOX)
    page = browser.get("/login")
    assert "Forgot your password?" in page.text
    assert page.find("a", href="/password/forgot")
    form = browser.get("/password/forgot")
    sent = browser.send(form, email=EMAIL)
    assert sent.status == 202
    assert "a mail is on its way" in sent.text
    world.settle()
    token = token_in(world.mailer.messages[-1])
    form = browser.get("/password/reset")
    refused = browser.send(form, token=f"{ORIGIN}/password/reset#{token}", password="short")
    assert refused.status == 422
    assert refused.find("input", name="token", value=token, type="hidden")
    done = browser.follow(browser.send(refused, password=NEW))
    assert "Your password has been changed." in done.text
    assert done.find("a", href="/login")
    assert world.signs_in(NEW)
    again = browser.post("/password/reset", {"token": token, "password": NEW})
    assert "no longer valid" in again.text
    assert token not in again.html


def test_an_empty_form_is_refused(world: World) -> None:
    for value in ("", None):
        refused = world.ask(value)
        assert (refused.status_code, refused.json()) == (422, {"errors": {"email": ["can't be blank"]}})
    for wrong in (7, ["x"], "x" * 2000):
        refused = world.ask(wrong)
        assert (refused.status_code, refused.json()) == (422, {"errors": {"email": ["is invalid"]}})
    assert world.program.get("/password/forgot").json() == {"fields": ["email"]}
    assert world.program.get("/password/reset").json() == {"fields": ["token", "password"]}


def test_the_texts_of_pages_and_mails_can_be_replaced(make: Callable[..., World]) -> None:
    more = {"reset_subject": "Neues Passwort", "forgot_password_link": "Passwort vergessen?"}
    world = make(texts={"reset_intro": "Guten Tag!"}, pages={"messages": Messages(lang="de", more=more)})
    assert "Passwort vergessen?" in world.here.browser().get("/login").text
    world.ask()
    (message,) = world.mailer.messages
    assert message["Subject"] == "Neues Passwort"
    assert text_of(message).startswith("Guten Tag!")
    assert '<html lang="de"' in text_of(message, "html")


# --- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"mailer": object()}, "^mailer must be an object with a method send"),
        ({"ttl": timedelta(0)}, "^the ttl of ResetPassword"),
        ({"per_address": None}, "^per_address must be a Limit"),
        ({"per_source": (3, 5)}, "^per_source must be a Limit"),
        ({"guesses": Limit(0, timedelta(minutes=1))}, "^the attempts of guesses"),
        ({"forgot_path": "forgot"}, "^the path of the page forgot_password"),
        ({"reset_path": "/a b"}, "^the path of the page reset_password"),
        ({"templates": "/nowhere/at/all"}, "^the templates of mail must be a folder"),
    ],
)
def test_wrong_options_fail_at_once(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        ResetPassword(**{"mailer": MemoryMailer(), **options})


def test_the_identity_must_have_the_address() -> None:
    with pytest.raises(ConfigError, match="sends mail to the field 'mail' of the identity, and Me has none"):
        SessionAuth(
            secret_key=SECRET,
            users=MemoryUsers(),
            backend=MemoryBackend(),
            public_url=ORIGIN,
            extensions=[ResetPassword(MemoryMailer(), address_field="mail")],
        )


# --- other extensions -------------------------------------------------------------------------------------------------


class Confirms(Extension[Any]):
    """Notes the addresses that were proven."""

    name = "confirms"

    def __init__(self) -> None:
        self.proven: list[str] = []

    async def address_proven(self, key: Any, address: str) -> None:
        self.proven.append(address)


def test_a_reset_proves_the_address(tmp_path: Path) -> None:
    mailer, confirms = MemoryMailer(), Confirms()
    options = {"extensions": [ResetPassword(mailer), confirms], "public_url": ORIGIN}
    with site("wsgi", tmp_path, auth_options=options) as here:
        world = World(here, mailer, [])
        token = world.token()
        world.reset(token, "short")
        assert confirms.proven == []
        world.reset(token)
        assert confirms.proven == [EMAIL]


def test_events_name_the_user_after_the_reset_and_nobody_before(world: World) -> None:
    world.ask(UNKNOWN)
    world.reset(world.token())
    assert [event.user_key for event in world.named("reset_requested")] == [None, None]
    assert [event.user_key for event in world.named("password_reset")] == [key_of(world)]
