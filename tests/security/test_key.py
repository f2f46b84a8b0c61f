"""KEY: secret keys, and what is signed with them. Every row over both middlewares and both local backends."""

import base64
import binascii
import hmac
import inspect
import itertools
import json
import re
import secrets
from pathlib import Path
from typing import Any

import msgspec
import pytest

from harness.core_support import (
    KINDS,
    NAMESPACE,
    NOW,
    Site,
    a_mac,
    a_session,
    decode_id,
    encode_id,
    open_backend,
    presented,
)
from harness.fixtures import Start
from harness.support import OTHER_SECRET, SECRET, Kind
from powauth import ConfigError, SessionAuth
from powauth.backends.base import drive
from powauth.sessions.ids import GENERATION_BYTES, ID_CHARS, MAX_GENERATION, SALT_BYTES, SID_BYTES
from powauth.sessions.keyring import MAC_BYTES, PLACEHOLDERS, Keyring
from powauth.sessions.record import Session, decide
from powauth.sessions.store import CredentialsCache, UnreadableRecord

ROOT = Path(__file__).parents[2]

PURPOSES = (
    "session", "persistent_session", "reset_password", "email_confirmation", "invitation", "csrf", "api_access",
    "api_renewal", "pre_session",
)  # fmt: skip
"""What the design derives keys for; of these only the session's is in use yet."""


@pytest.fixture
def site(start: Start) -> Site:
    return start()


def raw_of(value: str) -> bytes:
    return base64.urlsafe_b64decode(value)


def spell(raw: bytes) -> str:
    return base64.urlsafe_b64encode(raw).decode()


def refused(site: Site, *values: str) -> None:
    """All these values are nobody's, cost no store call, and leave the client's cookie alone."""
    with site.backend.counting() as calls:
        for value in values:
            response = site.browser().send("/", f"{site.cookie_name}={value}", {})
            assert response.status == 200
            assert response.json() == {"user": None}
            assert response.set_cookies == []
    assert calls == []


# --- KEY-01 -------------------------------------------------------------------------------------------------------


def test_key_01_there_is_no_default_secret() -> None:
    assert inspect.signature(SessionAuth).parameters["secret_key"].default is inspect.Parameter.empty


@pytest.mark.parametrize(
    "secret",
    [None, "", b"", [], [""], "short", SECRET[:31].encode(), bytes(32), "a" * 64, "0123456789abcdef" * 4]
    + [f"{word}-{SECRET}" for word in PLACEHOLDERS]
    + [[SECRET, "secret"], 5, object()],
)  # fmt: skip
@pytest.mark.parametrize("kind", KINDS)
def test_key_01_a_missing_short_or_placeholder_secret_refuses_to_start(kind: Kind, secret: Any) -> None:
    with pytest.raises(ConfigError, match="secret_key"):
        Site(open_backend("memory", Path()), kind, secret_key=secret)


def test_key_01_no_page_shows_a_secret_that_would_be_taken() -> None:
    pages = [ROOT / "README.md", *ROOT.glob("docs/**/*.md"), *ROOT.glob("src/**/*.py"), *ROOT.glob("demo/**/*.py")]
    shown = re.compile(r"""(?:secret_key|SECRET_KEY|Keyring)\s*[=(:]\s*\[?["']([^"'\n]+)["']""")
    found = [secret for page in pages if page.exists() for secret in shown.findall(page.read_text(encoding="utf-8"))]
    assert found, "the keyring's own page shows one that is refused"
    for secret in found:
        with pytest.raises(ConfigError):
            Keyring(secret)


# --- KEY-02 -------------------------------------------------------------------------------------------------------


def test_key_02_a_code_for_one_purpose_is_nothing_to_another() -> None:
    ring = Keyring(SECRET)
    macs = {purpose: ring.mac(purpose, NAMESPACE) for purpose in PURPOSES}
    for minted, signer in macs.items():
        for read, verifier in macs.items():
            assert verifier.verify(b"message", signer.sign(b"message")) == (minted == read)


def test_key_02_an_id_minted_for_another_purpose_or_namespace_is_refused(site: Site) -> None:
    value = site.id_of(site.signed_in())
    body = raw_of(value)[:-MAC_BYTES]
    ring = Keyring(SECRET)
    others = [ring.mac(purpose, NAMESPACE) for purpose in PURPOSES[1:]]
    others += [ring.mac("session", namespace) for namespace in ("", "credential", "credentials2", "Credentials")]
    refused(site, *(spell(body + mac.sign(body)) for mac in others))
    assert site.user_of_id(value) is not None


def test_key_02_an_id_of_another_store_is_refused_even_beside_its_record(start: Start, site: Site) -> None:
    other = start(store=CredentialsCache(site.backend, namespace="admins"))
    value = site.id_of(site.signed_in())
    (stored,) = drive(site.auth.store.sessions(site.user.id, site.auth.now()))
    planted = drive(other.auth.store.epoch(site.user.id, site.auth.now()))
    assert drive(other.auth.store.create(stored.session, planted, stored.expires_at, site.auth.now()))
    refused(other, value)


# --- KEY-03 -------------------------------------------------------------------------------------------------------


def test_key_03_a_thousand_forged_codes_cost_no_store_call(site: Site) -> None:
    body = raw_of(site.id_of(site.signed_in()))[:-MAC_BYTES]
    refused(site, *(spell(body + secrets.token_bytes(MAC_BYTES)) for _ in range(1_000)))


def test_key_03_what_is_not_ascii_or_too_long_costs_no_store_call(site: Site) -> None:
    value = site.id_of(site.signed_in())
    refused(site, "\xe4" * ID_CHARS, value[:-1] + "\xb2", value + "\xa0", "\0" * ID_CHARS)
    refused(site, value + "A", value * 2, "A" * 65_536)


def test_key_03_codes_and_salts_are_compared_whole_whichever_byte_is_wrong(monkeypatch: pytest.MonkeyPatch) -> None:
    session, mac = a_session(), a_mac()
    raw = raw_of(encode_id(session, mac))
    compared: list[tuple[int, int]] = []
    real = hmac.compare_digest

    def spy(one: bytes, two: bytes) -> bool:
        compared.append((len(one), len(two)))
        return real(one, two)

    monkeypatch.setattr(hmac, "compare_digest", spy)
    for position in range(1, MAC_BYTES + 1):
        forged = bytearray(raw)
        forged[-position] ^= 1
        assert decode_id(spell(bytes(forged)), mac) is None
    assert compared == [(MAC_BYTES, MAC_BYTES)] * MAC_BYTES
    compared.clear()
    decide(session, presented(session), NOW, Site(open_backend("memory", Path())).auth.policy)
    assert compared == [(SALT_BYTES, SALT_BYTES)]


# --- KEY-04 -------------------------------------------------------------------------------------------------------


def test_key_04_every_bit_of_an_id_counts(site: Site) -> None:
    raw = raw_of(site.id_of(site.signed_in()))
    flipped = []
    for bit in range(8 * len(raw)):
        other = bytearray(raw)
        other[bit // 8] ^= 1 << bit % 8
        flipped.append(spell(bytes(other)))
    refused(site, *flipped)


def test_key_04_cut_lengthened_and_rearranged_ids_are_refused(site: Site) -> None:
    one, two = (site.id_of(site.signed_in()) for _ in range(2))
    raw, other = raw_of(one), raw_of(two)
    ends = (0, SID_BYTES, SID_BYTES + SALT_BYTES, SID_BYTES + SALT_BYTES + GENERATION_BYTES, len(raw))
    parts = [raw[start:end] for start, end in itertools.pairwise(ends)]
    sid, salt, generation, mac = parts
    refused(site, *(one[:length] for length in range(ID_CHARS)))
    refused(site, *(one[length:] for length in range(1, ID_CHARS)))
    refused(site, one + "=", one + "A", "A" + one, one + one, one + two)
    refused(
        site,
        spell(raw[:-MAC_BYTES] + other[-MAC_BYTES:]),
        spell(other[:-MAC_BYTES] + mac),
        spell(salt + sid + generation + mac),
        spell(mac + generation + salt + sid),
        spell(sid + other[SID_BYTES : SID_BYTES + SALT_BYTES] + generation + mac),
        spell(other[:SID_BYTES] + salt + generation + mac),
        spell(sid + salt + (1).to_bytes(GENERATION_BYTES) + mac),
        *(spell(raw[shift:] + raw[:shift]) for shift in range(1, len(raw))),
    )


def test_key_04_an_id_has_one_spelling(site: Site) -> None:
    value = site.id_of(site.signed_in())
    raw = raw_of(value)
    while not ({"-", "_"} & set(value) and value != value.swapcase()):
        value = site.id_of(site.signed_in())
        raw = raw_of(value)
    standard = base64.b64encode(raw).decode()
    spellings = [
        *(standard, value.swapcase(), value.lower(), raw.hex(), json.dumps(value), f"'{value}'"),
        *(base64.b32encode(raw).decode(), base64.b85encode(raw).decode(), "%" + value.encode()[:1].hex() + value[1:]),
        *(value + end for end in ("=", "==", "\n", "\\n", "+", "-", "A", "\xa0")),
        *(f"{value[:36]}{junk}{value[36:]}" for junk in ("\t", " ", "=", ".", "\n", "~", "\0")),
        f"+{value}",
    ]
    refused(site, *(spelling for spelling in spellings if spelling != value))
    assert site.user_of_id(value) is not None


def test_key_04_fields_regrouped_around_their_bounds_have_another_code() -> None:
    ring = Keyring(SECRET)
    for one, two in (
        (("session", "a"), ("sessiona", "")),
        (("", "sessiona"), ("session", "a")),
        (("s\0", "a"), ("s", "\0a")),
    ):
        assert ring.mac(*one).sign(b"m") != ring.mac(*two).sign(b"m")
    scoped, whole = ring.mac("session", "a"), ring.mac("session", "")
    assert scoped.sign(b"m") != whole.sign(b"am")


# --- KEY-05 -------------------------------------------------------------------------------------------------------


def test_key_05_nothing_in_an_id_chooses_how_it_is_verified(site: Site) -> None:
    value = site.id_of(site.signed_in())
    raw = raw_of(value)
    body = raw[:-MAC_BYTES]

    def jwt(algorithm: str, code: bytes) -> str:
        parts = (json.dumps({"alg": algorithm, "typ": "JWT", "kid": "0"}).encode(), body, code)
        return ".".join(spell(part).rstrip("=") for part in parts)

    refused(
        site,
        *(
            jwt(algorithm, code)
            for algorithm in ("none", "None", "HS1", "HS256", "MD5", "RS256")
            for code in (b"", raw[-16:])
        ),
        *(
            f"{version}{mark}{value}"
            for version in ("v0", "v1", "v2", "1", "none", "old")
            for mark in (".", ":", "$", "-")
        ),
        *(
            spell(body + hmac.digest(SECRET.encode(), body, name)[:MAC_BYTES])
            for name in ("md5", "sha1", "sha256", "sha512")
        ),
        spell(body + hmac.digest(b"", body, "sha256")[:MAC_BYTES]),
        spell(body + hmac.digest(b"None", body, "sha256")[:MAC_BYTES]),
        spell(body + bytes(MAC_BYTES)),
        spell(body + a_mac(OTHER_SECRET).sign(body)),
    )


def test_key_05_the_first_byte_of_an_id_is_no_version(start: Start) -> None:
    site = start()
    value = site.id_of(site.signed_in())
    refused(site, *(spell(bytes([first]) + raw_of(value)[1:]) for first in range(256) if first != raw_of(value)[0]))


# --- KEY-06 -------------------------------------------------------------------------------------------------------


def test_key_06_a_secret_is_rotated_without_signing_anybody_out(start: Start) -> None:
    before = start(secret_key=OTHER_SECRET)
    during = start(secret_key=[SECRET, OTHER_SECRET], clock=before.clock)
    after = start(secret_key=SECRET, clock=before.clock)
    idle, busy = before.signed_in(), before.signed_in()
    idle_id, busy_id = before.id_of(idle), before.id_of(busy)

    assert during.user_of_id(idle_id) == during.user_of_id(busy_id) == before.user.email
    assert after.user_of_id(busy_id) is None
    fresh = during.id_of(during.signed_in())
    assert after.user_of_id(fresh) == before.user.email
    assert before.user_of_id(fresh) is None

    before.clock.advance(15 * 60)
    busy.app = during.app
    assert busy.get().json()["user"] == before.user.email
    resigned = during.id_of(busy)
    assert resigned != busy_id
    assert decode_id(resigned, a_mac(SECRET)) is not None

    assert after.user_of_id(resigned) == before.user.email
    assert after.user_of_id(idle_id) is None
    assert during.user_of_id(idle_id) == before.user.email


def test_key_06_an_old_id_that_is_sent_again_is_signed_anew(start: Start) -> None:
    before = start(secret_key=OTHER_SECRET)
    during = start(secret_key=[SECRET, OTHER_SECRET], clock=before.clock)
    browser = before.signed_in()
    stale = browser.copy()
    before.clock.advance(15 * 60)
    browser.get()
    stale.app = during.app
    assert stale.get().json()["user"] == before.user.email
    again, sent = (decode_id(before.id_of(one), a_mac([SECRET, OTHER_SECRET])) for one in (stale, browser))
    assert again == sent
    assert decode_id(before.id_of(stale), a_mac(SECRET)) == again


# --- KEY-07 -------------------------------------------------------------------------------------------------------


def test_key_07_what_fails_to_verify_is_not_tried_in_another_way(site: Site) -> None:
    value = site.id_of(site.signed_in())
    raw = raw_of(value)
    (stored,) = drive(site.auth.store.sessions(site.user.id, site.auth.now()))
    signed_json = (
        binascii.b2a_base64(json.dumps({"_user_id": site.user.id}).encode(), newline=False).decode().rstrip("=")
    )
    refused(
        site,
        spell(stored.session.sid),
        spell(raw[:-MAC_BYTES]),
        spell(raw[:-MAC_BYTES]) + "." + spell(raw[-MAC_BYTES:]),
        stored.session.sid.hex(),
        site.user.id,
        site.user.email.replace("@", "_"),
        signed_json,
        f"{signed_json}.ZZZZZZ.AAAAAAAAAAAAAAAAAAAAAAAAAAA",
        json.dumps({"user": site.user.id}).replace(",", ""),
        "null",
        "admin",
        f"s:{value}.",
        f"my_app.{value}",
    )


def test_key_07_an_id_without_the_apps_name_is_no_fallback(start: Start) -> None:
    plain, named = start(), start(app_name="my_app")
    value = plain.id_of(plain.signed_in())
    refused(
        named, value, f".{value}", f"My_app.{value}", f"my_app{value}", f"my_app..{value}", f"my_app.my_app.{value}"
    )
    own = named.id_of(named.signed_in())
    refused(plain, own, own.removeprefix("my_app."))
    assert named.user_of_id(own) == named.user.email


# --- KEY-08 -------------------------------------------------------------------------------------------------------


def test_key_08_an_id_holds_no_time(site: Site) -> None:
    """So there is none to forge: sid, salt, generation and code take up all of it."""
    value = site.id_of(site.signed_in())
    assert len(raw_of(value)) == SID_BYTES + SALT_BYTES + GENERATION_BYTES + MAC_BYTES
    site.clock.advance(60)
    later = site.id_of(site.signed_in())
    generations = {raw_of(one)[SID_BYTES + SALT_BYTES :][:GENERATION_BYTES] for one in (value, later)}
    assert generations == {bytes(GENERATION_BYTES)}


@pytest.mark.parametrize("generation", [0, 1, 2**31, MAX_GENERATION])
def test_key_08_the_generation_is_four_bytes_and_never_text(generation: int) -> None:
    found = decode_id(encode_id(a_session(generation=generation), a_mac()), a_mac())
    assert found is not None
    assert found.generation == generation


@pytest.mark.parametrize(
    "time", ["1900000000000", "\uff11\uff19", "1_000", "+5", "9" * 5_000, 1.9e12 + 0.5, -1, 2**62, None, True]
)
@pytest.mark.parametrize("field", ["created_at", "renewed_at", "authenticated_at"])
def test_key_08_a_records_times_are_whole_numbers_in_bounds(start: Start, field: str, time: object) -> None:
    site = start()
    value = site.id_of(site.signed_in())
    (stored,) = drive(site.auth.store.sessions(site.user.id, site.auth.now()))
    parts = msgspec.msgpack.decode(msgspec.msgpack.encode(stored.session))
    parts[1 + Session.__struct_fields__.index(field)] = time
    record = drive(site.backend.scan(NAMESPACE, None, 10, site.auth.now())).records[0]
    changed = msgspec.structs.replace(record, value=msgspec.msgpack.encode(parts), version=1)
    assert drive(site.backend.update(changed, 0, site.auth.now()))
    assert site.user_of_id(value) is None
    with pytest.raises(UnreadableRecord):
        drive(site.auth.store.get(stored.session.sid, site.auth.now()))
