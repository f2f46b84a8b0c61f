"""STO-01 to STO-04: what a record may hold, what one that holds something else comes to, and what a thief has."""

import ast
import base64
import marshal
import pickle
import secrets
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest

import powauth
from harness.core_support import BACKENDS, KINDS, NAMESPACE, Site, decode_id, encode_id, open_backend
from harness.support import SECRET, Browser, Me, Request, account_of
from powauth import MetadataTooLarge
from powauth.backends.base import Backend, Record, drive, make_key
from powauth.sessions.ids import GENERATION_BYTES, ID_CHARS, encode_sid
from powauth.sessions.info import MAX_METADATA_BYTES
from powauth.sessions.keyring import MAC_BYTES, Keyring
from powauth.sessions.record import Session

SOURCE = Path(powauth.__file__).parent

Start = Callable[..., Site]


@pytest.fixture(params=[(kind, name) for kind in KINDS for name in BACKENDS], ids="-".join)
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Start]:
    """Makes sites over one backend."""
    kind, name = request.param
    backend: Backend = open_backend(name, tmp_path)
    yield lambda **options: Site(backend, kind, **options)
    drive(backend.close())


@pytest.fixture
def site(start: Start) -> Site:
    return start()


def record_of(site: Site) -> Record:
    """The one record in the site's store."""
    (record,) = drive(site.backend.scan(NAMESPACE, None, 10, site.auth.now())).records
    return record


def plant(site: Site, value: bytes) -> Browser:
    """A browser that was signed in, and whose record somebody has given another value."""
    browser = site.signed_in()
    record = record_of(site)
    planted = msgspec.structs.replace(record, version=record.version + 1, value=value)
    assert drive(site.backend.update(planted, record.version, site.auth.now()))
    return browser


def is_absent(site: Site, browser: Browser, value: bytes) -> None:
    """The session counts as absent: anonymous, no 500, the record as it was, the cookie left alone, and an event."""
    site.events.clear()
    for path, status in (("/", 200), ("/private", 401)):
        response = browser.get(path)
        assert response.status == status
        assert response.set_cookies == []
    assert site.user_of(browser.cookie_header()) is None
    assert set(site.event_names) == {"unreadable_record"}
    assert record_of(site).value == value


def msgpacked(session: Session, **changes: object) -> bytes:
    parts = msgspec.msgpack.decode(msgspec.msgpack.encode(session))
    for name, value in changes.items():
        parts[1 + Session.__struct_fields__.index(name)] = value
    return msgspec.msgpack.encode(parts)


# --- STO-01 -------------------------------------------------------------------------------------------------------


class Bomb:
    """Unpickled, it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self.path,)


CANARY = "tabnanny"
"""A module that nothing else imports."""

PAYLOADS: dict[str, Callable[[Path], bytes]] = {
    "pickle": lambda path: pickle.dumps(Bomb(path)),
    "pickle, first protocol": lambda path: pickle.dumps(Bomb(path), protocol=0),
    "pickle that imports": lambda _: b"c" + CANARY.encode() + b"\nNannyNag\n.",
    "marshal": lambda path: marshal.dumps(compile(f"open({str(path)!r}, 'w').close()", "x", "exec")),
    "yaml": lambda path: f"!!python/object/apply:os.system ['touch {path}']".encode(),
    "yaml, new": lambda path: f"!!python/object/new:os.system [touch {path}]".encode(),
    "class name": lambda _: msgspec.json.encode({"py/object": f"{CANARY}.NannyNag", "__class__": CANARY}),
    "class name in msgpack": lambda _: msgspec.msgpack.encode({"__class__": f"{CANARY}.NannyNag"}),
    "python": lambda path: f"open({str(path)!r}, 'w')".encode(),
    "msgpack extension": lambda path: msgspec.msgpack.encode(msgspec.msgpack.Ext(1, pickle.dumps(Bomb(path)))),
    "msgpack timestamp": lambda _: b"\xd6\xff" + bytes(4),
}


def test_sto_01_the_payloads_are_live(tmp_path: Path) -> None:
    pickle.loads(PAYLOADS["pickle"](tmp_path / "a"))
    eval(marshal.loads(PAYLOADS["marshal"](tmp_path / "b")))
    assert [path.name for path in sorted(tmp_path.iterdir())] == ["a", "b"]


@pytest.mark.parametrize("payload", PAYLOADS)
def test_sto_01_a_payload_is_a_miss_and_runs_nothing(site: Site, payload: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    value = PAYLOADS[payload](canary)
    browser = plant(site, value)
    is_absent(site, browser, value)
    assert drive(site.auth.store.sessions(site.user.id, site.auth.now())) == []
    assert not canary.exists()
    assert CANARY not in sys.modules


@pytest.mark.parametrize("payload", PAYLOADS)
@pytest.mark.parametrize("field", ["sid", "salt", "user_key", "recent", "metadata"])
def test_sto_01_a_payload_in_a_field_is_a_miss_too(site: Site, payload: str, field: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    browser = site.signed_in()
    (stored,) = drive(site.auth.store.sessions(site.user.id, site.auth.now()))
    value = msgpacked(stored.session, **{field: PAYLOADS[payload](canary)})
    record = record_of(site)
    planted = msgspec.structs.replace(record, version=record.version + 1, value=value)
    assert drive(site.backend.update(planted, record.version, site.auth.now()))
    is_absent(site, browser, value)
    assert not canary.exists()


@pytest.mark.parametrize("payload", PAYLOADS)
def test_sto_01_a_payload_as_an_identity_runs_nothing_and_is_replaced(site: Site, payload: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    browser = site.signed_in()
    (stored,) = drive(site.auth.store.sessions(site.user.id, site.auth.now()))
    session = msgspec.structs.replace(stored.session, identity=PAYLOADS[payload](canary))
    assert drive(site.auth.store.update(stored, session, stored.expires_at, site.auth.now()))
    assert browser.get().json() == {"user": site.user.email}
    assert not canary.exists()
    (again,) = drive(site.auth.store.sessions(site.user.id, site.auth.now()))
    assert msgspec.msgpack.decode(again.session.identity, type=Me) == account_of(site.user).identity


@pytest.mark.parametrize("payload", PAYLOADS)
def test_sto_01_a_payload_as_a_key_or_an_owner_runs_nothing(site: Site, payload: str, tmp_path: Path) -> None:
    canary = tmp_path / "canary"
    now = site.auth.now()
    poison = PAYLOADS[payload](canary)[:200]
    record = Record(
        make_key(NAMESPACE, poison), b"%b:%b" % (NAMESPACE.encode(), poison), 0, now, now + 60_000, b"value"
    )
    assert drive(site.backend.create(record, None, now))
    site.signed_in()

    async def everyone() -> list[object]:
        return [key async for key in site.auth.store.users(now)]

    assert site.user.id in drive(everyone())
    drive(site.auth.revoke_everyone())
    assert not canary.exists()
    assert CANARY not in sys.modules


BANNED_MODULES = {
    "pickle", "cPickle", "_pickle", "marshal", "shelve", "dbm", "dill", "cloudpickle", "jsonpickle", "yaml", "code",
    "codeop", "runpy", "imp", "ctypes", "subprocess",
}  # fmt: skip
BANNED_CALLS = {"eval", "exec", "compile", "__import__", "execfile"}
ALLOWED = {("_forks.py", "ctypes")}
"""It calls the C API of Python, and no stored data reaches that call."""

NAMES_A_MODULE = {"import_module": {"greenlet"}}
"""What imports by name, and the names that it is given."""

OPERATOR_NAMES_A_MODULE = {"cli/app.py"}
"""``powauth --app MODULE:AUTH`` imports what the operator types. No stored data reaches that call."""


@pytest.mark.parametrize("path", sorted(SOURCE.rglob("*.py")), ids=lambda path: str(path.relative_to(SOURCE)))
def test_sto_01_nothing_that_runs_data_is_in_the_source(path: Path) -> None:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            assert not {alias.name.partition(".")[0] for alias in node.names} & BANNED_MODULES
        elif isinstance(node, ast.ImportFrom):
            module = (node.module or "").partition(".")[0]
            assert module not in BANNED_MODULES or (path.name, module) in ALLOWED
        elif isinstance(node, ast.Name):
            assert node.id not in BANNED_CALLS
        elif isinstance(node, ast.Call):
            name = node.func.id if isinstance(node.func, ast.Name) else getattr(node.func, "attr", "")
            if name in NAMES_A_MODULE and str(path.relative_to(SOURCE)) not in OPERATOR_NAMES_A_MODULE:
                (argument,) = node.args
                assert isinstance(argument, ast.Constant)
                assert argument.value in NAMES_A_MODULE[name]


# --- STO-02 -------------------------------------------------------------------------------------------------------

GARBAGE: dict[str, bytes] = {
    "nothing": b"",
    "random": secrets.token_bytes(300),
    "cut json": b'{"user_id": "42", "expires_at": 19',
    "200,000 nested arrays of json": b"[" * 200_000,
    "200,000 nested arrays": b"\x91" * 200_000,
    "200,000 nested maps": b"\x81\xa1a" * 200_000,
    "duplicate keys": b'{"user_key": "42", "user_key": "43"}',
    "duplicate keys of msgpack": b"\x82\xa1a\x01\xa1a\x02",
    "NaN": b"NaN",
    "1e999": b'{"expires_at": 1e999}',
    "a lone surrogate": b'{"user": "\\ud800"}',
    "a surrogate in UTF-8": b"\xa3\xed\xa0\x80",
    "an array that is too long": b"\xdd\xff\xff\xff\xff\x01",
    "no user": msgspec.msgpack.encode([1, b"x" * 18, b"y" * 16, 0]),
}


@pytest.mark.parametrize("kind", GARBAGE)
def test_sto_02_garbage_is_a_miss_and_never_a_500(site: Site, kind: str) -> None:
    is_absent(site, plant(site, GARBAGE[kind]), GARBAGE[kind])


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("user_key", None), ("user_key", ""), ("user_key", 42), ("user_key", "somebody else"), ("generation", 2**40),
        ("generation", -1), ("generation", 1.5), ("created_at", 2**63), ("renewed_at", "now"), ("settled", None),
        ("recent", [[1, 2]] * 1_000),
        ("metadata", {"a": [1]}), ("identity", "text"), ("identity", None),
        ("identity", {}), ("names", None), ("proofs", b"one"), ("proofs", ["text"]), ("remembered", None),
        ("resumed_at", "now"), ("salt", b"short"), ("sid", b"another session's"),
    ],
)  # fmt: skip
def test_sto_02_a_field_of_the_wrong_kind_is_a_miss_and_never_a_half_filled_session(
    site: Site, field: str, value: object
) -> None:
    browser = site.signed_in()
    (stored,) = drive(site.auth.store.sessions(site.user.id, site.auth.now()))
    planted = msgpacked(stored.session, **{field: value})
    record = record_of(site)
    changed = msgspec.structs.replace(record, version=record.version + 1, value=planted)
    assert drive(site.backend.update(changed, record.version, site.auth.now()))
    is_absent(site, browser, planted)


@pytest.mark.parametrize("cut", [1, 2, 10, 50])
def test_sto_02_a_record_cut_short_is_a_miss(site: Site, cut: int) -> None:
    browser = site.signed_in()
    record = record_of(site)
    value = record.value[:-cut]
    changed = msgspec.structs.replace(record, version=record.version + 1, value=value)
    assert drive(site.backend.update(changed, record.version, site.auth.now()))
    is_absent(site, browser, value)


@pytest.mark.parametrize("version", [0, 1, 99, "2", None])
@pytest.mark.parametrize("more", [[], ["a field of the future"]])
def test_sto_02_a_record_of_another_version_is_a_miss_and_stays_as_it_is(
    site: Site, version: object, more: list[object]
) -> None:
    browser = site.signed_in()
    record = record_of(site)
    parts = msgspec.msgpack.decode(record.value)
    value = msgspec.msgpack.encode([version, *parts[1:], *more])
    changed = msgspec.structs.replace(record, version=record.version + 1, value=value)
    assert drive(site.backend.update(changed, record.version, site.auth.now()))
    is_absent(site, browser, value)
    for _ in range(3):
        site.clock.advance(5 * 60)
        assert browser.get().json() == {"user": None}
    now = site.auth.now()

    async def load() -> bytes:
        return b"another identity"

    def change(session: Session, identity: bytes) -> Session:
        return msgspec.structs.replace(session, identity=identity)

    assert drive(site.auth.store.rewrite(site.user.id, load, change, now)) == 0
    assert record_of(site).value == value


def test_sto_02_a_field_of_the_future_alone_is_no_session_of_today(site: Site) -> None:
    browser = site.signed_in()
    record = record_of(site)
    value = msgspec.msgpack.encode([*msgspec.msgpack.decode(record.value), "a field of the future"])
    changed = msgspec.structs.replace(record, version=record.version + 1, value=value)
    assert drive(site.backend.update(changed, record.version, site.auth.now()))
    is_absent(site, browser, value)


def test_sto_02_a_session_that_becomes_unreadable_under_way_is_left_alone(site: Site) -> None:
    browser = site.signed_in()
    site.clock.advance(15 * 60)
    record = record_of(site)

    async def spoil(verb: str) -> None:
        if verb == "update":
            site.backend.before = None
            changed = msgspec.structs.replace(record, version=record.version + 1, value=b"garbage")
            assert await site.backend.inner.update(changed, record.version, site.auth.now())

    site.backend.before = spoil
    response = browser.get()
    assert (response.status, response.set_cookies) == (200, [])
    assert record_of(site).value == b"garbage"


def test_sto_02_garbage_among_a_users_sessions_hides_no_other(site: Site) -> None:
    plant(site, b"garbage")
    browser = site.signed_in()
    shown: list[Any] = []

    async def sessions(request: Request) -> object:
        shown.extend(await request.call("sessions"))
        shown.append(await request.call("revoke_others"))
        return None

    site.serve({"/sessions": sessions}, browser).get("/sessions")
    assert len(shown) == 2
    assert shown[0].current
    assert shown[1] == 1


# --- STO-03 -------------------------------------------------------------------------------------------------------


def dump_of(site: Site, folder: Path) -> bytes:
    """All that a thief of the store has: every record's parts and, of LMDB, the whole file."""
    records = drive(site.backend.scan(NAMESPACE, None, 100, site.auth.now())).records
    parts = [part for record in records for part in (record.key, record.owner, record.value)]
    files = [path.read_bytes() for path in sorted(folder.rglob("*.mdb"))]
    return b"\n".join([*parts, *(content.replace(bytes(64), b"") for content in files)])


def test_sto_03_a_dump_holds_no_id_and_no_code(site: Site, tmp_path: Path) -> None:
    browser = site.signed_in()
    site.clock.advance(15 * 60)
    old = site.id_of(browser)
    browser.get()
    dump = dump_of(site, tmp_path)
    for value in (old, site.id_of(browser)):
        raw = base64.urlsafe_b64decode(value)
        for form in (value.encode(), raw, raw[-MAC_BYTES:], raw[-MAC_BYTES:].hex().encode(), value[-20:].encode()):
            assert form not in dump
    assert SECRET.encode() not in dump


def test_sto_03_nothing_in_a_dump_works_as_a_cookie(site: Site, tmp_path: Path) -> None:
    browser = site.signed_in()
    (stored,) = drive(site.auth.store.sessions(site.user.id, site.auth.now()))
    session = stored.session
    dump = dump_of(site, tmp_path)
    mac = Keyring(SECRET).mac("session", NAMESPACE)
    body = session.sid + session.salt + session.generation.to_bytes(GENERATION_BYTES)
    for start in range(len(dump)):
        assert decode_id(base64.urlsafe_b64encode(dump[start : start + ID_CHARS * 3 // 4]).decode(), mac) is None
        assert decode_id(base64.urlsafe_b64encode(body + dump[start : start + MAC_BYTES]).decode(), mac) is None
    found = encode_sid(session.sid), session.salt.hex(), base64.urlsafe_b64encode(body).decode(), site.user.id
    with site.backend.counting() as calls:
        assert [site.user_of_id(value) for value in found] == [None] * 4
        forged = [encode_id(session, Keyring(secrets.token_bytes(32)).mac("session", NAMESPACE)) for _ in range(20)]
        assert [site.user_of_id(value) for value in forged] == [None] * 20
    assert calls == []
    assert site.user_of_id(site.id_of(browser)) == site.user.email


def test_sto_03_an_id_of_the_last_generation_does_not_give_the_next(site: Site) -> None:
    browser = site.signed_in()
    old = site.id_of(browser)
    site.clock.advance(15 * 60)
    browser.get()
    new = base64.urlsafe_b64decode(site.id_of(browser))
    guessed = base64.urlsafe_b64decode(old)[:-MAC_BYTES]
    assert guessed[:-GENERATION_BYTES] == new[: -MAC_BYTES - GENERATION_BYTES]
    with site.backend.counting() as calls:
        assert (
            site.user_of_id(base64.urlsafe_b64encode(new[:-MAC_BYTES] + base64.urlsafe_b64decode(old)[-16:]).decode())
            is None
        )
    assert calls == []


def test_sto_03_sharing_leading_characters_with_an_id_reaches_no_store(site: Site) -> None:
    """So that no look-up can tell by its time how many of them are right."""
    value = site.id_of(site.signed_in())
    with site.backend.counting() as calls:
        for shared in range(len(value)):
            other = "A" if value[shared] != "A" else "B"
            assert site.user_of_id(value[:shared] + other * (len(value) - shared)) is None
    assert calls == []


# --- STO-04 -------------------------------------------------------------------------------------------------------


def test_sto_04_a_record_holds_no_password_hash_or_key(site: Site, tmp_path: Path) -> None:
    browser = site.signed_in()
    site.clock.advance(15 * 60)
    browser.get()
    dump = dump_of(site, tmp_path)
    assert site.user.password_hash
    for secret in ("correct horse", site.user.password_hash, SECRET):
        assert secret.encode() not in dump
    assert b"password" not in dump.lower()


def test_sto_04_a_record_holds_what_the_design_says_and_no_more(site: Site) -> None:
    site.signed_in()
    parts = msgspec.msgpack.decode(record_of(site).value)
    names = (
        "sid", "salt", "generation", "user_key", "proofs", "created_at", "renewed_at", "authenticated_at", "settled",
        "recent", "remembered", "resumed_at", "metadata", "names", "identity", "amr",
    )  # fmt: skip
    assert Session.__struct_fields__ == names
    assert len(parts) == 1 + len(names)
    assert set(parts[names.index("metadata") + 1]) == {"first_seen", "ip", "user_agent"}
    assert parts[-1] == {"pwd": site.auth.now()}
    assert msgspec.msgpack.decode(parts[-2]) == {
        "id": site.user.id,
        "email": site.user.email,
        "name": "",
        "locked": False,
    }


def test_sto_04_metadata_over_its_limit_is_refused_whole(site: Site) -> None:
    browser = site.signed_in()
    before = record_of(site)
    refused: list[str] = []

    async def fill(request: Request) -> object:
        await request.call("update_metadata", note="short")
        for changes in ({"note": "x" * MAX_METADATA_BYTES}, {str(number): "x" * 100 for number in range(50)}):
            with pytest.raises(MetadataTooLarge):
                await request.call("update_metadata", **changes)
            refused.append("too large")
        return None

    assert site.serve({"/fill": fill}, browser).get("/fill").status == 200
    assert refused == ["too large"] * 2
    after = record_of(site)
    (stored,) = drive(site.auth.store.sessions(site.user.id, site.auth.now()))
    assert stored.session.metadata["note"] == "short"
    assert after.version == before.version + 1


def test_sto_04_metadata_over_its_limit_at_sign_in_makes_no_session(start: Start) -> None:
    site = start(metadata=lambda connection: {"everything": "x" * MAX_METADATA_BYTES, "ip": connection.client_ip()})

    async def sign_in(request: Request) -> object:
        with pytest.raises(MetadataTooLarge):
            await request.call("sign_in_user", site.user)
        return None

    response = site.serve({"/sign-in": sign_in}, site.browser()).get("/sign-in")
    assert (response.status, response.set_cookies) == (200, [])
    assert drive(site.backend.count(NAMESPACE, site.auth.now())) == 0


@pytest.mark.parametrize("path", ["/login", "/logout"])
def test_sto_02_signing_out_or_in_again_ends_a_session_that_cannot_be_read(site: Site, path: str) -> None:
    browser = plant(site, b"of a newer version")
    planted, old = record_of(site), site.id_of(browser)
    assert browser.get(path).status == 200
    assert drive(site.backend.inner.get(planted.key, site.auth.now())) is None
    assert site.user_of_id(old) is None
