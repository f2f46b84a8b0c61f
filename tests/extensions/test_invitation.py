"""`Invitation`: invitations by mail and by a link."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest

from harness.confirming import NEW, OTHER_PASSWORD, Confirming, Link, confirming, link_in
from harness.pages_support import EMAIL, PASSWORD, Browser
from powauth import Account, ConfigError, Extension, Hooks, Limit, MoreNeeded
from powauth.backends.base import drive
from powauth.extensions.invitation import Invitation, Paths
from powauth.testing import ExtensionConformance, MemoryMailer
from powauth.testing.extension import Auth

FRAMEWORKS = ("asgi", "wsgi")
PAGE = "/account/invitations"


def allowed(user: Any) -> bool:
    return str(user.email).endswith("@example.com")


def inviting(framework: str, folder: Path, *, confirm: bool = False, named: bool = False, **options: Any) -> Any:
    """A site with `Invitation`, and with `ConfirmEmail` if asked. Its user mia may invite."""
    mailer = MemoryMailer()
    auth = options.pop("auth", None)
    extension: Invitation[Any] = Invitation(mailer, **{"may_invite": allowed, **options})
    return confirming(
        framework, folder, mailer=mailer, extensions=(extension,), auth=auth, confirms=confirm, named=named
    )


@pytest.fixture(params=FRAMEWORKS)
def here(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Confirming]:
    with inviting(request.param, tmp_path) as made:
        made.member(EMAIL, confirmed=False)
        yield made


def program(here: Confirming, email: str = EMAIL) -> httpx.Client:
    client: httpx.Client = here.program()
    assert client.post("/login", json={"email": email, "password": PASSWORD}).status_code == 200
    return client


def signed_in(here: Confirming, email: str = EMAIL) -> Browser:
    browser: Browser = here.browser()
    assert browser.sign_in(email).status == 303
    return browser


def invited(here: Confirming, address: str = NEW) -> Link:
    answer = program(here).post(PAGE, json={"email": address})
    assert answer.status_code == 201, answer.text
    return here.link(address)


def accepted(here: Confirming, link: Link, **fields: object) -> httpx.Response:
    answer: httpx.Response = here.program().post(
        link.path, json={"token": link.token, "password": OTHER_PASSWORD, **fields}
    )
    return answer


def test_the_account_page_leads_those_who_may_invite_to_the_page(here: Confirming) -> None:
    here.member("kim@other.example", confirmed=False)
    assert signed_in(here).get("/account").find("a", href=PAGE)
    other = signed_in(here, "kim@other.example")
    assert not other.get("/account").find("a", href=PAGE)
    assert other.get(PAGE).status == 403


def test_an_invitation_by_mail_is_accepted_once_and_signs_in(here: Confirming) -> None:
    browser = signed_in(here)
    page = browser.get(PAGE)
    assert "You have no open invitations" in page.text
    told = browser.follow(browser.post(PAGE, {"action": "invite", "email": "Mia@New.example"}))
    assert "on its way" in told.text
    assert NEW in told.text
    assert here.addresses == [EMAIL]
    link = here.link(NEW)
    assert link.token not in told.html
    guest = here.browser()
    shown = guest.get(link.path)
    assert (shown.status, bool(shown.find("input", name="password"))) == (200, True)
    done = here.opened(guest, link, password=OTHER_PASSWORD)
    assert (done.status, done.location) == (303, "/account?done=registered")
    assert NEW in guest.follow(done).text
    assert here.addresses == [EMAIL, NEW]
    again = here.opened(here.browser(), link, password=OTHER_PASSWORD)
    assert (again.status, "is invalid or has expired" in again.text) == (422, True)
    assert "You have no open invitations" in browser.get(PAGE).text


def test_an_invitation_by_link_is_shown_once_and_is_for_one_account(here: Confirming) -> None:
    client = program(here)
    answer = client.post(PAGE, json={"action": "link"})
    assert (answer.status_code, sorted(answer.json())) == (201, ["id", "link"])
    path, _, token = answer.json()["link"].removeprefix("https://app.example").partition("#")
    listed = client.get(PAGE)
    assert token not in listed.text
    assert listed.json()["invitations"][0]["email"] is None
    missing = here.program().post(path, json={"token": token, "password": OTHER_PASSWORD})
    assert (missing.status_code, [*missing.json()["errors"]]) == (422, ["email"])
    taken = here.program().post(path, json={"token": token, "password": OTHER_PASSWORD, "email": EMAIL})
    assert taken.json() == {"errors": {"email": ["has already been taken"]}}
    done = here.program().post(path, json={"token": token, "password": OTHER_PASSWORD, "email": NEW})
    assert (done.status_code, done.json()["user"]["email"]) == (201, NEW)
    more = here.program().post(path, json={"token": token, "password": OTHER_PASSWORD, "email": "b@example.com"})
    assert more.status_code == 422
    shown = signed_in(here).post(PAGE, {"action": "link"})
    assert (shown.status, "https://app.example/invitation#" in shown.text) == (201, True)
    assert here.mails() == []


def test_several_invitations_are_listed_ended_and_sent_again(here: Confirming) -> None:
    client = program(here)
    for address in ("a@example.org", "b@example.org"):
        client.post(PAGE, json={"email": address})
    listed = client.get(PAGE).json()["invitations"]
    assert {each["email"] for each in listed} == {"a@example.org", "b@example.org"}
    older = here.link("a@example.org")
    names = {each["email"]: each["id"] for each in listed}
    again = client.post(PAGE, json={"action": "again", "id": names["a@example.org"]})
    assert (again.status_code, sorted(again.json())) == (201, ["id"])
    newer = here.link("a@example.org")
    assert accepted(here, older).status_code == 422
    assert client.post(PAGE, json={"action": "end", "id": names["b@example.org"]}).status_code == 204
    assert accepted(here, here.link("b@example.org")).status_code == 422
    assert accepted(here, newer).status_code == 201
    for action in ("again", "end"):
        for wrong in (names["b@example.org"], "", None, 7):
            assert client.post(PAGE, json={"action": action, "id": wrong}).json() == {"error": "not_found"}
    assert client.post(PAGE, json={"action": "burn"}).status_code == 422
    assert client.post(PAGE, json={"action": ["end"]}).status_code == 422
    browser = signed_in(here)
    gone = browser.post(PAGE, {"action": "end", "id": "x"})
    assert (gone.status, "This invitation no longer exists" in gone.text) == (404, True)


def test_inv_01_a_token_is_random_hashed_and_ends_after_seven_days(here: Confirming) -> None:
    first, second = invited(here), invited(here, "b@example.org")
    assert (len(first.token), first.token != second.token) == (72, True)
    page = drive(here.site.backend.inner.scan("credentials.invitation", None, 10, here.site.auth.now()))
    assert len(page.records) == 2
    assert all(first.token.encode() not in each.key + each.value for each in page.records)
    values: tuple[object, ...] = (None, "", "x" * 72, [], {}, 7, first.token[:-1], first.token.swapcase())
    for value in values:
        answer = here.program().post(first.path, json={"token": value, "password": OTHER_PASSWORD})
        assert (answer.status_code, [*answer.json()["errors"]]) == (422, ["token"]), value
    for _ in range(50):
        assert here.program().get(first.path).status_code == 200
    here.site.clock.advance(7 * 86_400 - 1)
    assert accepted(here, first).status_code == 201
    here.site.clock.advance(1)
    assert accepted(here, second).status_code == 422


def test_inv_01_of_20_parallel_accepts_one_wins(tmp_path: Path) -> None:
    with inviting("wsgi", tmp_path) as here:
        here.member(EMAIL, confirmed=False)
        answer = program(here).post(PAGE, json={"action": "link"})
        path, _, token = answer.json()["link"].removeprefix("https://app.example").partition("#")
        with ThreadPoolExecutor(20) as pool:
            statuses = list(
                pool.map(
                    lambda number: accepted(here, Link(path, token), email=f"a{number}@example.org").status_code,
                    range(20),
                )
            )
        assert sorted(statuses) == [201, *[422] * 19]
        assert len(here.addresses) == 2


@pytest.mark.parametrize("kind", ["a lock", "a deletion", "another program's deletion", "another program's lock"])
def test_inv_01_an_invitation_ends_with_its_inviter(tmp_path: Path, kind: str) -> None:
    with inviting("wsgi", tmp_path) as here:
        me, auth = here.member(EMAIL, confirmed=False), here.site.auth
        link = invited(here)
        if kind == "a lock":
            drive(auth.update_account(me, locked=True))
            drive(auth.update_account(me, locked=False))
        elif kind == "a deletion":
            drive(auth.delete_account(me))
        elif kind == "another program's lock":
            here.change(EMAIL, locked=True)
        else:
            drive(here.site.users.delete(me.id))
        assert accepted(here, link).status_code == 422
        assert NEW not in here.addresses


def test_inv_02_protected_and_foreign_fields_are_ignored(here: Confirming) -> None:
    link = invited(here)
    fields = {"email": "evil@example.com", "locked": True, "email_confirmed_at": "2020-01-01", "inviter_key": 7}
    done = accepted(here, link, **fields, id="00000000-0000-0000-0000-000000000001")
    assert (done.status_code, done.json()["user"]["email"]) == (201, NEW)
    row = here.row(NEW)
    assert (row["locked"], row["email_confirmed_at"]) == (False, None)
    assert str(row["id"]) != "00000000-0000-0000-0000-000000000001"


def test_inv_02_a_visitor_who_is_signed_in_is_asked_to_sign_out(here: Confirming) -> None:
    here.member("ben@example.org", confirmed=False)
    link = invited(here)
    ben = signed_in(here, "ben@example.org")
    shown = ben.get(link.path)
    assert (shown.status, "Sign out first" in shown.text) == (403, True)
    assert ben.post(link.path, {"token": link.token, "password": OTHER_PASSWORD}).status == 403
    assert "ben@example.org" in ben.get("/account").text
    assert accepted(here, link).status_code == 201  # the invitation is still open


def test_inv_02_only_who_may_invites_and_only_so_many(tmp_path: Path) -> None:
    limits: dict[str, Any] = {"most": 3, "per_inviter": Limit(5, timedelta(hours=1))}
    with inviting("wsgi", tmp_path, **limits) as here:
        here.member(EMAIL, confirmed=False)
        here.member("ben@example.org", confirmed=False)
        stranger = here.program()
        assert stranger.get(PAGE).status_code == 401
        assert stranger.post(PAGE, json={"email": NEW}).status_code == 401
        ben = program(here, "ben@example.org")
        assert ben.get(PAGE).status_code == 403
        for action in ("invite", "link", "again", "end"):
            assert ben.post(PAGE, json={"action": action, "email": NEW, "id": "x"}).status_code == 403
        assert here.mails() == []
        client = program(here)
        answers = [client.post(PAGE, json={"email": f"a{number}@example.org"}) for number in range(6)]
        assert [each.status_code for each in answers] == [201, 201, 201, 422, 422, 429]
        for wrong in ("a", None, 7, ["a@example.org"]):
            assert client.post(PAGE, json={"email": wrong}).status_code == 422
        assert len(here.mails()) == 3


def test_inv_02_an_address_gets_three_mails_whoever_invites(tmp_path: Path) -> None:
    with inviting("wsgi", tmp_path) as here:
        here.member(EMAIL, confirmed=False)
        here.member("ann@example.com", confirmed=False)
        mia, ann = program(here), program(here, "ann@example.com")
        assert [mia.post(PAGE, json={"email": NEW}).status_code for _ in range(2)] == [201, 201]
        assert [ann.post(PAGE, json={"email": NEW}).status_code for _ in range(2)] == [201, 429]
        name = ann.get(PAGE).json()["invitations"][0]["id"]
        assert ann.post(PAGE, json={"action": "again", "id": name}).status_code == 429
        assert len(here.to(NEW)) == 3
        assert accepted(here, here.link(NEW)).status_code == 201  # a refused mail ends no link


def test_inv_02_the_answer_does_not_tell_who_has_an_account(here: Confirming) -> None:
    here.member("ann@example.org", confirmed=False)
    client = program(here)
    client.post(PAGE, json={"email": "first@example.org"})  # the counter exists from now on
    calls, answers = here.site.backend.calls, []
    for address in ("nobody@example.org", "ann@example.org"):
        calls.clear()
        answer = client.post(PAGE, json={"email": address})
        answers.append((answer.status_code, len(answer.content), sorted(calls)))
    assert answers[0] == answers[1]
    assert here.to("ann@example.org") == []
    assert len(client.get(PAGE).json()["invitations"]) == 3


def test_a_mailed_invitation_confirms_the_address_and_a_link_does_not(tmp_path: Path) -> None:
    with inviting("wsgi", tmp_path, confirm=True) as here:
        here.member(EMAIL)
        assert accepted(here, invited(here)).status_code == 201
        assert here.row(NEW)["email_confirmed_at"] is not None
        made = program(here).post(PAGE, json={"action": "link"})
        path, _, token = made.json()["link"].removeprefix("https://app.example").partition("#")
        by_link = here.program().post(path, json={"token": token, "email": "c@example.org"})
        assert (by_link.status_code, by_link.json()) == (202, {"accepted": "mail_sent"})
        assert "c@example.org" not in here.addresses
        assert link_in(here.to("c@example.org")[0]).path == "/register/complete"


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_the_form_asks_for_all_that_a_registration_needs(framework: str, tmp_path: Path) -> None:
    with inviting(framework, tmp_path, named=True) as here:
        here.member(EMAIL, confirmed=False, full_name="Mia")
        link = invited(here)
        browser = here.browser()
        assert browser.get(link.path).by_id("invitation-full_name")["maxlength"] == "40"
        missing = here.opened(browser, link, password=OTHER_PASSWORD, email=NEW)
        assert (missing.status, "blank" in missing.text) == (422, True)
        assert here.opened(browser, link, password=OTHER_PASSWORD, email=NEW, full_name="Ben").status == 303
        assert here.row(NEW)["full_name"] == "Ben"


def test_aut_06_whoever_accepts_passes_the_checks_of_every_sign_in(tmp_path: Path) -> None:
    def second_factor(step: Any) -> None:
        if step.identity.email == NEW:
            raise MoreNeeded(["totp"])

    with inviting("wsgi", tmp_path, auth={"hooks": Hooks(before_sign_in=second_factor)}) as here:
        here.member(EMAIL, confirmed=False)
        done = accepted(here, invited(here))
        assert (done.status_code, done.json()["error"]) == (401, "second_factor_required")
        assert "set-cookie" not in done.headers
        assert here.addresses == [EMAIL, NEW]


def test_a_coroutine_function_may_decide_who_invites(tmp_path: Path) -> None:
    async def decide(user: Any) -> bool:
        return allowed(user)

    with inviting("asgi", tmp_path, may_invite=decide) as here:
        here.member(EMAIL, confirmed=False)
        assert accepted(here, invited(here)).status_code == 201


@pytest.mark.parametrize(
    "wrong",
    [
        {"mailer": None},
        {"may_invite": True},
        {"ttl": 7},
        {"most": 0},
        {"per_inviter": 20},
        {"per_inviter": None},
        {"per_address": 3},
        {"per_address": None},
        {"mail_texts": {"unknown": "x"}},
        {"mail_templates": "/nowhere"},
    ],
)
def test_wrong_options_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        Invitation(**{"mailer": MemoryMailer(), "may_invite": allowed, **wrong})


@pytest.mark.parametrize("wrong", [{"accept": "invitation"}, {"accept": "/a", "invitations": "/a"}])
def test_wrong_paths_are_refused(wrong: dict[str, str]) -> None:
    with pytest.raises(ConfigError):
        Paths(**wrong)


class TestInvitation(ExtensionConformance):
    """The suite. An invitation belongs to its inviter, and survives a new password and a new user id."""

    survives = (
        *("a user's new password", "a user's new user id", "the app's new password", "the app's new user id"),
        "a change elsewhere",
    )

    def make_extension(self) -> Extension[Any]:
        return Invitation(MemoryMailer(), may_invite=lambda _: True, per_inviter=Limit(100, timedelta(hours=1)))

    def auth(self, backend: Any, **options: Any) -> Auth:
        return super().auth(backend, **{"public_url": "https://app.example", **options})

    async def hold(self, auth: Auth, account: Account[Any]) -> object:
        made = await auth.extension(Invitation).invitations.make(account.key, account.identity, None)
        return str(made.link).partition("#")[2]

    async def is_valid(self, auth: Auth, held: object) -> bool:
        return await auth.extension(Invitation).invitations.found(held) is not None

    async def use(self, auth: Auth, held: object) -> bool:
        return await auth.extension(Invitation).invitations.take(held) is not None
