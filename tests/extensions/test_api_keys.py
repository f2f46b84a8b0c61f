"""API-01, API-02, API-05: keys of programs, which sign each request in as their owner, within scopes."""

import base64
import contextlib
import re
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

import pytest
import sqlalchemy as sa
from sqlalchemy.orm import sessionmaker

from harness.core_support import KINDS
from harness.keys_support import ApiKey, KeySite, Member, ask
from harness.support import Browser, CountingBackend, Kind, Request
from harness.tables_support import ADA
from harness.users_databases import OTHER_PASSWORD, PASSWORD, blocking_engine, statements
from powauth import (
    AnyOf,
    BearerCarrier,
    CookieCarrier,
    Extension,
    InvalidParams,
    NotSignedIn,
    Refused,
    RequestAuth,
    StoreUnavailable,
)
from powauth.accounts.changes import CREATED
from powauth.backends.base import drive
from powauth.backends.memory import MemoryBackend
from powauth.extensions.api_keys import ApiKeyInfo
from powauth.extensions.lock import Lock
from powauth.http.guards import require_access, require_fresh, require_same_origin

Make = Callable[..., KeySite]

FORM = re.compile(r"powkey_[0-9A-Za-z]{48}")


@pytest.fixture
def make(tmp_path: Path) -> Iterator[Make]:
    with blocking_engine("sqlite", str(tmp_path), Member, ApiKey) as engine:

        def site(kind: Kind = "wsgi", **options: Any) -> KeySite:
            with engine.begin() as connection:
                connection.execute(sa.delete(Member))
                connection.execute(sa.delete(ApiKey))
            return KeySite(kind, engine, **options)

        yield site


def rows(site: KeySite) -> list[Any]:
    with site.engine.connect() as connection:
        return list(connection.execute(sa.select(ApiKey.__table__)))


def guarded(site: KeySite, key: str | None, guard: Callable[[Any], object], browser: Browser | None = None) -> Any:
    """The status and the JSON of a request whose handler calls a guard."""

    async def work(request: Request) -> object:
        guard(request.bound)
        return {"scopes": sorted(request.bound.scopes or ()), "by": request.bound.signed_in_by}

    headers = {} if key is None else {"authorization": f"Bearer {key}"}
    site.to_do(work)
    cookie = None if browser is None else browser.cookie_header()
    response = Browser(site.app, site.kind).send("/do", cookie, headers)
    return response.status, response.json()


# --- API-01: making keys ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_api_01_a_key_signs_its_owner_in_by_its_own_kind_of_credentials(kind: Kind, make: Make) -> None:
    site = make(kind)
    key = site.a_key(scopes=["read"])
    assert site.use(key).json() == {"user": ADA}
    assert guarded(site, key, require_access) == (200, {"scopes": ["read"], "by": "api_key"})
    browser = site.browser(signed_in=True)
    assert guarded(site, None, require_access, browser) == (200, {"scopes": ["read", "write"], "by": "session"})


def test_api_01_a_key_is_random_and_only_its_hash_is_stored(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("DEBUG")
    site = make()
    made = [site.a_key() for _ in range(3)]
    assert len({*made}) == 3
    for key in made:
        assert FORM.fullmatch(key)
        secret = key[17:49]  # 32 characters of 62 after the prefix and the public id: 190 bits
        site.use(key)
        everything = repr(rows(site)) + repr(site.events) + caplog.text
        assert secret not in everything
        assert key[:17].removeprefix("powkey_") in everything
    assert len({key[17:49] for key in made}) == 3


def test_api_01_the_new_key_hides_itself_in_representations(make: Make) -> None:
    site = make()
    bound = RequestAuth(site.auth, ask())
    drive(bound.sign_in(email=ADA, password=PASSWORD))
    made = drive(site.keys.create(bound, "a program", ["read"]))
    assert made.key not in repr(made) + str(made)
    assert isinstance(made.info, ApiKeyInfo)
    assert made.info.prefix == made.key[:17]
    assert made.info in drive(site.keys.keys(bound))
    assert not hasattr(made.info, "key")


@pytest.mark.parametrize(
    ("scopes", "message"),
    [
        (["admin"], "contains a scope that you do not have"),
        (["read", "admin"], "contains a scope that you do not have"),
        (["read write"], "contains a scope that you do not have"),
        ("read", "must be a list of texts"),
        ([["read"]], "must be a list of texts"),
        ({"read": 1, 2: 3}, "must be a list of texts"),
        (7, "must be a list of texts"),
    ],
)
def test_api_01_no_scope_exceeds_those_of_the_owner(scopes: Any, message: str, make: Make) -> None:
    site = make()
    bound = RequestAuth(site.auth, ask())
    drive(bound.sign_in(email=ADA, password=PASSWORD))
    with pytest.raises(InvalidParams) as refused:
        drive(site.keys.create(bound, "a program", scopes))
    assert refused.value.errors == {"scopes": [message]}
    assert rows(site) == []


@pytest.mark.parametrize("kind", KINDS)
def test_api_01_a_scope_that_the_owner_loses_is_lost_on_keys(kind: Kind, make: Make) -> None:
    site = make(kind)
    key = site.a_key(scopes=["read", "write"])
    site.sql(sa.update(Member).values(rights="read admin"))
    assert guarded(site, key, require_access) == (200, {"scopes": ["read"], "by": "api_key"})
    status, refusal = guarded(site, key, lambda auth: require_access(auth, scope="write"))
    assert (status, refusal["error"]) == (403, "insufficient_scope")
    assert guarded(site, key, lambda auth: require_access(auth, scope="admin"))[0] == 403
    assert guarded(site, key, lambda auth: require_access(auth, scope="read"))[0] == 200
    site.sql(sa.update(Member).values(rights="write"))
    assert guarded(site, key, require_access)[1]["scopes"] == ["write"]


def test_api_01_the_owner_is_read_from_the_database_when_the_key_is_made(make: Make) -> None:
    """The identity in a session may be older than a scope that was taken away."""
    site = make()
    browser = site.browser(signed_in=True)
    site.sql(sa.update(Member).values(rights="read"))

    async def work(request: Request) -> object:
        assert request.user.rights == "read write"
        await site.keys.create(request.bound, "a program", ["write"])
        return {}

    assert site.do(browser, work).status == 422


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "can't be blank"),
        (" \t", "can't be blank"),
        (None, "can't be blank"),
        (["a"], "can't be blank"),
        ("a\nb", "has characters that cannot be shown"),
        ("a\u202eb", "has characters that cannot be shown"),
        ("\ud800", "has characters that cannot be shown"),
        ("a\0b", "has characters that cannot be shown"),
        ("x" * 65, "is too long (at most 64 characters)"),
    ],
)
def test_a_key_needs_a_name_that_can_be_shown(name: Any, message: str, make: Make) -> None:
    site = make()
    bound = RequestAuth(site.auth, ask())
    drive(bound.sign_in(email=ADA, password=PASSWORD))
    with pytest.raises(InvalidParams) as refused:
        drive(site.keys.create(bound, name))
    assert refused.value.errors == {"name": [message]}


def test_a_user_has_so_many_keys_and_no_more(make: Make) -> None:
    site = make(most=2)
    browser = site.browser(signed_in=True)
    site.key(browser, expires_in=timedelta(minutes=1))
    site.key(browser)
    with pytest.raises(AssertionError, match="too many keys"):
        site.key(browser)
    site.clock.advance(61)
    site.key(browser)  # one has expired
    assert len(rows(site)) == 2


@pytest.mark.parametrize("kind", KINDS)
def test_api_01_a_key_is_made_by_a_fresh_session_alone(kind: Kind, make: Make) -> None:
    site = make(kind)

    async def work(request: Request) -> object:
        bound = getattr(request.bound, "bound", request.bound)
        return {"key": (await site.keys.create(bound, "another")).key}

    browser = site.browser(signed_in=True)
    key = site.key(browser)
    site.to_do(work)
    refused = site.use(key, "/do")
    assert (refused.status, refused.json()["error"]) == (403, "session_required")
    assert site.use(None, "/do").status == 401
    site.clock.advance(16 * 60)
    assert site.do(browser, work).json() == {"error": "fresh_sign_in_required"}
    assert len(rows(site)) == 1


# --- API-02: how a key is presented -----------------------------------------------------------------------------------

ODD: dict[str, Callable[[str], str]] = {
    "another case of the scheme": lambda key: f"bearer {key}",
    "capitals": lambda key: f"BEARER {key}",
    "no scheme": lambda key: key,
    "two spaces": lambda key: f"Bearer  {key}",
    "a tab": lambda key: f"Bearer\t{key}",
    "a space at the end": lambda key: f"Bearer {key} ",
    "a space at the start": lambda key: f" Bearer {key}",
    "a second token": lambda key: f"Bearer {key} {key}",
    "two headers": lambda key: f"Bearer {key}, Bearer {key}",
    "a foreign header first": lambda key: f"Basic YTpi, Bearer {key}",
    "a foreign header after it": lambda key: f"Bearer {key}, Basic YTpi",
    "the scheme Basic": lambda key: f"Basic {key}",
    "the scheme Token": lambda key: f"Token {key}",
    "a parameter": lambda key: f'Bearer token="{key}"',
    "a comma": lambda key: f"Bearer {key},",
    "a null": lambda key: f"Bearer {key}\0",
    "another case of the prefix": lambda key: f"Bearer {key.replace('powkey_', 'POWKEY_')}",
    "another case of the key": lambda key: f"Bearer powkey_{key[7:].swapcase()}",
    "one character less": lambda key: f"Bearer {key[:-1]}",
    "one character more": lambda key: f"Bearer {key}0",
    "a changed character": lambda key: f"Bearer {key[:20]}{'A' if key[20] != 'A' else 'B'}{key[21:]}",
    "an empty key": lambda key: f"Bearer {key[:7]}",
    "a letter that is not ASCII": lambda key: f"Bearer {key[:-1]}\u00e9",
}


@pytest.mark.parametrize("kind", KINDS)
def test_api_02_only_one_well_formed_header_counts(kind: Kind, make: Make) -> None:
    """Nothing else is looked up, and no cookie takes its place."""
    site = make(kind)
    browser = site.browser(signed_in=True)
    key = site.key(browser)
    cookie = browser.cookie_header()
    assert cookie is not None
    for what, form in ODD.items():
        for sent in (None, cookie):
            with statements(site.engine) as seen:
                answer = Browser(site.app, kind).send("/private", sent, {"authorization": form(key)})
            assert (answer.status, seen, answer.set_cookies) == (401, [], []), what
            assert answer.json() == {"error": "not_signed_in"}
            assert answer.header("www-authenticate") == 'Bearer realm="api_key", error="invalid_token"', what
    assert site.event_names.count("api_key_refused") == 2 * len(ODD)
    assert browser.get("/private").status == 200


@pytest.mark.parametrize("kind", KINDS)
def test_api_02_a_key_elsewhere_does_not_count(kind: Kind, make: Make) -> None:
    site = make(kind)
    key = site.a_key()
    encoded = base64.b64encode(f"{ADA}:{key}".encode()).decode()
    elsewhere: list[dict[str, str]] = [
        {"cookie": f"{site.auth.carrier.name}={key}"},
        {"cookie": f"authorization=Bearer {key}"},
        {"authorization": f"Basic {encoded}"},
        {"x-api-key": key},
        {"x-authorization": f"Bearer {key}"},
        {"proxy-authorization": f"Bearer {key}"},
        {"powauth-token": key},
    ]
    for headers in elsewhere:
        cookie = headers.pop("cookie", None)
        assert Browser(site.app, kind).send("/private", cookie, headers).status == 401
    assert site.use(key).status == 200


@pytest.mark.parametrize("kind", KINDS)
def test_api_02_beside_a_cookie_the_key_alone_counts_and_the_cookie_stays(kind: Kind, make: Make) -> None:
    """Eve is signed in by a cookie that is due for renewal. A request with ada's key is ada's."""
    site = make(kind)
    key = site.a_key()
    drive(site.auth.create_account({"email": "eve@example.org", "password": PASSWORD}))
    eve = site.browser()
    site.call(eve, "sign_in", {"email": "eve@example.org", "password": PASSWORD})
    site.clock.advance(20 * 60)
    answer = eve.get("/private", keep_cookies=False, authorization=f"Bearer {key}")
    assert answer.json() == {"user": ADA}
    assert answer.set_cookies == []
    assert "renewed" not in site.event_names
    assert {"Cookie", "Authorization"} <= {*(answer.header("vary") or "").split(", ")}
    ended = f"Bearer {key[:-6]}000000"
    assert eve.get("/private", keep_cookies=False, authorization=ended).status == 401
    assert eve.get("/private").json() == {"user": "eve@example.org"}


@pytest.mark.parametrize("kind", KINDS)
def test_api_02_a_request_with_a_key_begins_and_ends_no_session(kind: Kind, make: Make) -> None:
    """Also beside a cookie. The session of the cookie stays as it is."""
    site = make(kind)
    browser = site.browser(signed_in=True)
    key = site.key(browser)
    credentials = {"email": ADA, "password": PASSWORD}
    site.events.clear()
    operations: list[tuple[str, tuple[object, ...]]] = [
        ("sign_in", (credentials,)),
        ("sign_in_user", (site.ada,)),
        ("sign_out", ()),
        ("register", ({"email": "new@example.org", "password": OTHER_PASSWORD},)),
        ("update_user", ({"current_password": PASSWORD, "password": OTHER_PASSWORD},)),
        ("update_user", ({"rights": "read"},)),
        ("delete_user", ({"current_password": PASSWORD},)),
        ("sessions", ()),
        ("revoke", ("x",)),
        ("revoke_others", ()),
        ("revoke_all", ()),
        ("reseal", ()),
        ("update_metadata", ()),
    ]
    for name, arguments in operations:

        async def work(request: Request, name: str = name, arguments: tuple[object, ...] = arguments) -> object:
            await request.call(name, *arguments)
            return {}

        site.to_do(work)
        for cookie in (None, browser.cookie_header()):
            answer = Browser(site.app, kind).send("/do", cookie, {"authorization": f"Bearer {key}"})
            assert (answer.status, answer.json()["error"]) == (403, "session_required"), name
            assert answer.set_cookies == []
    assert site.event_names == []
    assert browser.get("/private").json() == {"user": ADA}
    with site.engine.connect() as connection:
        assert connection.execute(sa.select(Member.email)).scalars().all() == [ADA]


@pytest.mark.parametrize("kind", KINDS)
def test_api_02_a_key_is_never_fresh_and_needs_no_defence_against_other_sites(kind: Kind, make: Make) -> None:
    site = make(kind)
    key = site.a_key()
    assert guarded(site, key, require_fresh) == (403, {"error": "fresh_sign_in_required"})
    assert guarded(site, key, lambda auth: require_access(auth, by="api_key"))[0] == 200
    status, refusal = guarded(site, key, lambda auth: require_access(auth, by="session"))
    assert (status, refusal["error"]) == (403, "session_required")
    browser = site.browser(signed_in=True)
    status, refusal = guarded(site, None, lambda auth: require_access(auth, by="api_key"), browser)
    assert (status, refusal["error"]) == (403, "api_key_required")
    assert guarded(site, None, lambda auth: require_access(auth, by="session"), browser)[0] == 200

    connection = ask(key)
    drive(site.auth.call(connection))
    connection.method = lambda: "POST"  # type: ignore[method-assign]
    require_same_origin(RequestAuth(site.auth, connection))


@pytest.mark.parametrize("kind", KINDS)
def test_api_02_bearer_sessions_and_keys_live_side_by_side(kind: Kind, make: Make) -> None:
    site = make(kind, auth={"carrier": AnyOf(CookieCarrier(), BearerCarrier())})
    tokens: list[str] = []

    async def work(request: Request) -> object:
        await request.call("sign_in", {"email": ADA, "password": PASSWORD}, bearer=True)
        tokens.append(request.bound.access_token)
        return {}

    site.do(site.browser(), work)
    (token,) = tokens
    key = site.a_key()
    assert site.use(token).json() == site.use(key).json() == {"user": ADA}
    assert guarded(site, token, require_access)[1]["by"] == "session"
    assert guarded(site, key, require_access)[1]["by"] == "api_key"
    for both in (f"{token}, Bearer {key}", f"{key}, Bearer {token}"):
        assert site.use(both).status == 401
    assert site.use(None).header("www-authenticate") == 'Bearer realm="auth"'
    assert site.use(f"{token}x").header("www-authenticate") == 'Bearer realm="auth", error="invalid_token"'


# --- API-05: ending keys ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_api_05_ending_anothers_a_forged_and_an_unknown_key_answer_alike(kind: Kind, make: Make) -> None:
    site = make(kind)
    drive(site.auth.create_account({"email": "eve@example.org", "password": PASSWORD}))
    ada, eve = site.browser(signed_in=True), site.browser()
    site.call(eve, "sign_in", {"email": "eve@example.org", "password": PASSWORD})
    mine, other, theirs = site.key(ada), site.key(ada), site.key(eve)
    results: list[bool] = []
    site.events.clear()

    def end(public_id: object) -> bool:
        async def work(request: Request) -> object:
            bound = getattr(request.bound, "bound", request.bound)
            results.append(await site.keys.end(bound, public_id))
            return {}

        assert site.do(ada, work).status == 200
        return results[-1]

    forged = ("0" * 10, mine, "x" * 10_000, "", None, 7, ["a"], "\0", "%", mine[7:17].swapcase())
    for public_id in (theirs[7:17], theirs, *forged):
        assert end(public_id) is False
    assert site.event_names == []
    assert [site.use(key).status for key in (mine, other, theirs)] == [200, 200, 200]
    assert end(mine[7:17]) is True
    assert end(mine[7:17]) is False
    assert [(each.name, each.user_key, each.detail) for each in site.events] == [
        ("api_key_ended", site.ada.id, mine[7:17])
    ]
    assert [site.use(key).status for key in (mine, other, theirs)] == [401, 200, 200]


def test_api_05_a_key_ends_neither_itself_nor_another(make: Make) -> None:
    site = make()
    key = site.a_key()
    connection = ask(key)
    drive(site.auth.call(connection))
    bound = RequestAuth(site.auth, connection)
    for call in (site.keys.end(bound, key[7:17]), site.keys.keys(bound), site.keys.create(bound, "another")):
        with pytest.raises(Refused, match="other credentials"):
            drive(call)
    assert site.use(key).status == 200


# --- TRM-02, TRM-03: what else ends keys ------------------------------------------------------------------------------

ENDS: dict[str, Callable[[KeySite], object]] = {
    "a lock": lambda site: drive(site.auth.extension(Lock).lock(site.ada, "spam")),
    "a deletion": lambda site: drive(site.auth.delete_account(site.ada)),
    "a revocation": lambda site: drive(site.auth.revoke_user(site.ada)),
    "the app": lambda site: drive(site.keys.end_all(site.ada)),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("end", ENDS)
def test_api_04_no_key_outlives_the_account(end: str, kind: Kind, make: Make) -> None:
    site = make(kind, others=[Lock()])
    keys = [site.a_key(), site.a_key(scopes=["read"])]
    assert [site.use(key).status for key in keys] == [200, 200]
    ENDS[end](site)
    assert [site.use(key).status for key in keys] == [401, 401]
    assert rows(site) == []
    if end == "a lock":  # what has ended stays so
        drive(site.auth.extension(Lock).unlock(site.ada))
        assert [site.use(key).status for key in keys] == [401, 401]
    assert [each.detail for each in site.events if each.name == "api_key_refused"][:2] == ["unknown", "unknown"]


@pytest.mark.parametrize("how", ["locked", "deleted"])
def test_aut_06_a_user_whom_the_apps_own_sql_locks_or_deletes_has_no_keys(how: str, make: Make) -> None:
    site = make(others=[Lock()])
    key, other = site.a_key(), site.a_key()
    change = sa.update(Member).values(locked_at=site.now()) if how == "locked" else sa.delete(Member)
    site.sql(change)
    assert site.use(key).status == 401
    site.sql(sa.update(Member).values(locked_at=None))
    assert site.use(key).status == 401, "a key that was refused because of a lock has ended"
    assert site.use(other).status == (200 if how == "locked" else 401)
    assert site.events[-1 if how == "deleted" else -2].name in ("api_key_refused", "api_key_ended")


def test_trm_03_a_new_password_ends_keys_only_if_asked(make: Make) -> None:
    for ends, status in ((False, 200), (True, 401)):
        site = make(ends_with_password=ends)
        key = site.a_key()
        drive(site.auth.update_account(site.ada, password=OTHER_PASSWORD))
        assert site.use(key).status == status


@pytest.mark.parametrize("ends_with_password", [False, True])
def test_trm_02_keys_follow_changes_by_the_apps_own_orm(ends_with_password: bool, make: Make) -> None:
    """The app's transaction holds a lock of the database while powauth hears of its change."""
    site = make(others=[Lock()], ends_with_password=ends_with_password)
    sessions = sessionmaker(site.engine)
    site.users.follow(sessions)
    key = site.a_key()
    with sessions.begin() as session:
        session.scalars(sa.select(Member)).one().password_hash = "changed"
    assert (len(rows(site)), site.use(key).status) == ((0, 401) if ends_with_password else (1, 200))
    drive(site.auth.update_account(site.ada, password=PASSWORD))
    for change in ("lock", "delete"):
        key = site.a_key()
        with sessions.begin() as session:
            ada = session.scalars(sa.select(Member)).one()
            if change == "lock":
                ada.locked_at = site.now()
            else:
                session.delete(ada)
        assert rows(site) == []
        assert site.use(key).status == 401
        if change == "lock":
            drive(site.auth.extension(Lock).unlock(site.ada))
            assert site.use(key).status == 401


def test_aut_06_a_user_who_must_confirm_an_address_has_no_valid_key(make: Make) -> None:
    """An extension that refuses the user's sign-ins refuses the user's keys, and does not end them."""

    class Picky(Extension[Any]):
        name = "picky"
        open = True

        async def may_continue(self, key: Any) -> bool:
            return Picky.open

    site = make(others=[Picky()])
    key = site.a_key()
    Picky.open = False
    assert site.use(key).status == 401
    Picky.open = True
    assert site.use(key).status == 200


def test_uid_04_a_reused_key_of_a_user_inherits_no_api_keys(make: Make) -> None:
    """Another program deletes a user and makes another one with the same primary key."""
    site = make()
    key = site.a_key()
    site.sql(sa.update(Member).values(created_at=site.now() + timedelta(days=1), email="eve@example.org"))
    assert site.use(key).status == 401
    assert rows(site) == []


class Rival:
    """Revokes everything of ada before a verb of the store, by its number."""

    def __init__(self, site: KeySite, backend: CountingBackend, step: int) -> None:
        self.site, self.backend, self.steps = site, backend, step
        self.came = False

    async def come(self, verb: str) -> None:
        del verb
        self.steps -= 1
        if self.steps == 0:
            self.came, self.backend.before = True, None
            await self.site.auth.revoke_user(self.site.ada)


def test_trm_02_no_key_is_made_by_a_request_that_a_revocation_overtakes(make: Make) -> None:
    """A revocation comes before each step of the creation in turn. No key that was handed out is valid afterwards."""
    overtaken = 0
    for step in range(1, 100):
        backend = CountingBackend(MemoryBackend())
        site = make(auth={"backend": backend})
        bound = RequestAuth(site.auth, ask())
        drive(bound.sign_in(email=ADA, password=PASSWORD))
        rival = Rival(site, backend, step)
        backend.before = rival.come
        try:
            made = drive(site.keys.create(bound, "a program"))
        except NotSignedIn:
            overtaken += 1
            assert rows(site) == []
            continue
        if not rival.came:  # the creation has no further step
            break
        assert site.use(made.key).status == 401
    assert 3 <= step == overtaken + 1


class Meanwhile(Extension[Any]):
    """Makes a key when `ApiKeys` has ended the user's keys, and the sessions have not ended yet."""

    name = "meanwhile"
    make: ClassVar[Callable[[], Any]]

    async def credentials_changed(self, key: Any, why: str) -> None:
        if why != CREATED:
            await Meanwhile.make()


@pytest.mark.parametrize("how", ["the app", "the user", "a lock"])
def test_trm_02_a_session_that_is_about_to_end_leaves_no_key_behind(how: str, make: Make) -> None:
    """A thief with a session makes keys all the time, while its owner signs out everywhere."""
    site = make(others=[Meanwhile(), Lock()])
    thief, owner = RequestAuth(site.auth, ask()), RequestAuth(site.auth, ask())
    for bound in (thief, owner):
        drive(bound.sign_in(email=ADA, password=PASSWORD))
    made: list[str] = []

    async def steal() -> None:
        with contextlib.suppress(NotSignedIn):
            made.append((await site.keys.create(thief, "a thief's")).key)

    Meanwhile.make = steal
    if how == "the user":
        drive(owner.revoke_all())
    elif how == "the app":
        drive(site.auth.revoke_user(site.ada))
    else:
        drive(site.auth.extension(Lock).lock(site.ada, "spam"))
        drive(site.auth.extension(Lock).unlock(site.ada))
    assert len(made) == (0 if how == "a lock" else 1)
    assert rows(site) == []
    assert [site.use(key).status for key in made] == [401] * len(made)


# --- time -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_key_ends_with_its_time(kind: Kind, make: Make) -> None:
    site = make(kind)
    key = site.a_key(expires_in=timedelta(days=1))
    site.clock.advance(86_399)
    assert site.use(key).status == 200
    site.clock.advance(1)
    assert site.use(key).status == 401
    assert site.events[-1].detail == "expired"
    assert drive(site.keys.keys_of(site.ada)) == []
    assert drive(site.keys.purge()) == 1
    assert drive(site.keys.purge()) == 0


def test_the_last_use_is_written_at_most_once_a_minute(make: Make) -> None:
    site = make()
    key = site.a_key()
    (info,) = drive(site.keys.keys_of(site.ada))
    assert info.last_used_at is None

    def use() -> list[str]:
        with statements(site.engine) as seen:
            assert site.use(key).status == 200
        return seen

    assert use() == ["SELECT", "SELECT", "UPDATE"]
    first = site.now()
    site.clock.advance(59)
    assert use() == ["SELECT", "SELECT"]
    (info,) = drive(site.keys.keys_of(site.ada))
    assert info.last_used_at == first
    site.clock.advance(1)
    assert use() == ["SELECT", "SELECT", "UPDATE"]
    (info,) = drive(site.keys.keys_of(site.ada))
    assert info.last_used_at == site.now()


def test_a_use_that_cannot_be_written_is_a_use(make: Make, caplog: pytest.LogCaptureFixture) -> None:
    site = make()
    key = site.a_key()

    def fail(connection: Any, cursor: Any, statement: str, *rest: Any) -> None:
        if statement.startswith("UPDATE"):
            raise sa.exc.OperationalError(statement, {}, Exception("the disk is full"))

    sa.event.listen(site.engine, "before_cursor_execute", fail)
    try:
        assert site.use(key).status == 200
    finally:
        sa.event.remove(site.engine, "before_cursor_execute", fail)
    assert "last use of an API key" in caplog.text


# --- LOG-01, LOG-02 ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_log_01_keys_are_made_refused_and_ended_with_user_time_and_source(kind: Kind, make: Make) -> None:
    site = make(kind)
    browser = site.browser(signed_in=True)
    site.events.clear()
    key = site.key(browser)
    public_id, who = key[7:17], site.ada.id
    site.clock.advance(5)
    site.use(key[:-1])
    site.use(f"powkey_{'0' * 10}{key[17:49]}")  # the checksum is missing
    drive(site.keys.end_all(site.ada))
    site.use(key)
    assert [(each.name, each.user_key, each.detail, each.ip) for each in site.events] == [
        ("api_key_created", who, public_id, "192.0.2.1"),
        ("api_key_refused", None, "malformed", "192.0.2.1"),
        ("api_key_refused", None, "malformed", "192.0.2.1"),
        ("api_key_ended", who, "ended by the app: 1", None),
        ("api_key_refused", None, "unknown", "192.0.2.1"),
    ]
    assert site.events[0].sid is not None
    assert [each.at for each in site.events][1:] == [site.now()] * 4


def test_log_02_no_variable_of_a_failed_request_holds_the_key(make: Make) -> None:
    """Error collectors record the variables of each frame of a traceback."""
    site = make()
    key = site.a_key()
    ApiKey.__table__.drop(site.engine)  # type: ignore[attr-defined]
    connection = ask(key)
    with pytest.raises(StoreUnavailable) as failed:
        drive(site.keys.authenticator.fetch(connection))
    secret, error, frames = key[17:], failed.value, 0
    links: list[BaseException] = [error, *([error.__cause__] if error.__cause__ is not None else [])]
    for each in links:
        trace = each.__traceback__
        while trace is not None:
            if "/powauth/" in trace.tb_frame.f_code.co_filename:
                frames += 1
                assert secret not in repr(trace.tb_frame.f_locals)
            trace = trace.tb_next
        assert secret not in str(each)
    assert frames > 5
    ApiKey.__table__.create(site.engine)  # type: ignore[attr-defined]


# --- when the database is down ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_an_outage_makes_nobody_anonymous_and_sessions_live_on(kind: Kind, make: Make) -> None:
    site = make(kind)
    browser = site.browser(signed_in=True)
    key = site.key(browser)
    ApiKey.__table__.drop(site.engine)  # type: ignore[attr-defined]
    assert site.use(key).status == 503
    assert site.use(key, "/private").json() == {"error": "store_unavailable"}
    assert browser.get("/private").status == 200
    ApiKey.__table__.create(site.engine)  # type: ignore[attr-defined]
    assert site.use(key).status == 401
