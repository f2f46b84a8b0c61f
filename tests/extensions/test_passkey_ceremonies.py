"""The checks of passkeys, without I/O: what a browser may send, and everything that must be refused."""

import hashlib
import json
import secrets
from collections.abc import Callable
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from hypothesis import example, given
from hypothesis import strategies as st

from harness.authenticator import (
    ATTESTED,
    BACKED_UP,
    BACKUP_ELIGIBLE,
    SYNCED,
    USER_PRESENT,
    USER_VERIFIED,
    Authenticator,
    b64,
    cbor,
    unb64,
)
from powauth import ConfigError
from powauth.extensions.passkeys.answers import CeremonyFailed, assertion_in, registration_in
from powauth.extensions.passkeys.ceremonies import Credential, NewCredential, RelyingParty, Use

URL, ORIGIN, RP_ID = "https://app.example.test/auth", "https://app.example.test", "app.example.test"
HANDLE = bytes(range(32))
CHALLENGE, OTHER = b64(bytes(54)), b64(bytes([1] * 54))


def party(**options: Any) -> RelyingParty:
    return RelyingParty(URL, "Shop", timeout=120_000, **options)


def registered(
    device: Authenticator, site: RelyingParty, exclude: list[Credential] | None = None, **faults: Any
) -> NewCredential:
    answer = device.create(site.creation_options(CHALLENGE, HANDLE, "mia@example.com", exclude or []), **faults)
    given = registration_in(json.dumps(answer))
    assert given.challenge == faults.get("challenge", CHALLENGE)
    return site.check_registration(given)


def stored(new: NewCredential) -> Credential:
    return Credential(
        credential_id=new.credential_id, public_key=new.public_key, user_handle=HANDLE, transports=new.transports
    )


def used(
    device: Authenticator, site: RelyingParty, known: Credential, *, discovered: bool = True, **faults: Any
) -> Use:
    given = assertion_in(device.get(site.request_options(CHALLENGE), **faults))
    return site.check_assertion(given, known, discovered=discovered)


def test_a_passkey_is_made_and_used() -> None:
    device, site = Authenticator(ORIGIN), party()
    new = registered(device, site)
    assert (new.sign_count, new.backed_up, new.transports) == (0, True, ("hybrid", "internal"))
    assert used(device, site, stored(new)) == Use(0, True)


def test_a_security_key_counts_and_is_not_backed_up() -> None:
    device, site = Authenticator(ORIGIN, USER_PRESENT | USER_VERIFIED, counts=True), party()
    new = registered(device, site)
    assert (new.sign_count, new.backed_up) == (1, False)
    assert [used(device, site, stored(new)).sign_count for _ in range(3)] == [2, 3, 4]


def test_the_options_of_a_new_passkey() -> None:
    site = party()
    known = stored(registered(Authenticator(ORIGIN), site))
    options = site.creation_options(CHALLENGE, HANDLE, "mia@example.com", [known])
    assert options == {
        "rp": {"id": RP_ID, "name": "Shop"},
        "user": {"id": b64(HANDLE), "name": "mia@example.com", "displayName": "mia@example.com"},
        "challenge": CHALLENGE,
        "pubKeyCredParams": [{"type": "public-key", "alg": alg} for alg in (-8, -7, -257)],
        "timeout": 120_000,
        "excludeCredentials": [
            {"type": "public-key", "id": b64(known.credential_id), "transports": ["hybrid", "internal"]}
        ],
        "authenticatorSelection": {
            "residentKey": "required",
            "requireResidentKey": True,
            "userVerification": "required",
        },
        "attestation": "none",
    }


def test_the_options_of_a_sign_in_name_no_passkey_and_no_user() -> None:
    expected = {"challenge": CHALLENGE, "timeout": 120_000, "rpId": RP_ID, "userVerification": "required"}
    assert party().request_options(CHALLENGE) == expected


def test_an_authenticator_with_a_passkey_of_the_user_makes_no_second_one() -> None:
    device, site = Authenticator(ORIGIN), party()
    known = stored(registered(device, site))
    with pytest.raises(ValueError, match="InvalidStateError"):
        registered(device, site, [known])


FAULTS: dict[str, tuple[dict[str, Any], str]] = {
    "another origin": ({"origin": "https://evil.example.test"}, "origin"),
    "another port": ({"origin": f"{ORIGIN}:8443"}, "origin"),
    "a host below": ({"origin": "https://x.app.example.test"}, "origin"),
    "plain http": ({"origin": "http://app.example.test"}, "origin"),
    "an origin that is no text": ({"origin": [ORIGIN]}, "origin"),
    "another relying party": ({"rp_id": "evil.test"}, "not valid"),
    "in a frame of another site": ({"cross_origin": True}, "in a frame"),
    "a frame that is no boolean": ({"cross_origin": 0}, "in a frame"),
    "another type": ({"type": "payment.get"}, "not valid"),
    "a user who is not verified": ({"flags": USER_PRESENT | BACKUP_ELIGIBLE}, "user not verified"),
    "a user who is not there": ({"flags": USER_VERIFIED}, "not valid"),
    "a backup that cannot be": ({"flags": USER_PRESENT | USER_VERIFIED | BACKED_UP}, "not valid"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_a_new_passkey_is_refused(fault: str) -> None:
    faults, reason = FAULTS[fault]
    with pytest.raises(CeremonyFailed) as error:
        registered(Authenticator(ORIGIN), party(), **faults)
    assert error.value.reason == reason


@pytest.mark.parametrize("fault", FAULTS)
def test_a_proof_is_refused(fault: str) -> None:
    faults, reason = FAULTS[fault]
    device, site = Authenticator(ORIGIN), party()
    known = stored(registered(device, site))
    with pytest.raises(CeremonyFailed) as error:
        used(device, site, known, **faults)
    assert error.value.reason == reason


def test_an_answer_to_another_challenge_is_refused() -> None:
    device, site = Authenticator(ORIGIN), party()
    known = stored(registered(device, site))
    given = assertion_in(device.get(site.request_options(CHALLENGE)))
    site.check_assertion(given, known, discovered=True)
    made = registration_in(Authenticator(ORIGIN).create(site.creation_options(CHALLENGE, HANDLE, "mia", [])))
    site.check_registration(made)
    with pytest.raises(CeremonyFailed):
        site.check_assertion(msgspec.structs.replace(given, challenge=OTHER), known, discovered=True)
    with pytest.raises(CeremonyFailed):
        site.check_registration(msgspec.structs.replace(made, challenge=OTHER))


def test_a_registration_is_no_proof_and_a_proof_is_no_registration() -> None:
    device, site = Authenticator(ORIGIN), party()
    known = stored(registered(device, site))
    with pytest.raises(CeremonyFailed):
        registered(Authenticator(ORIGIN), site, type="webauthn.get")
    with pytest.raises(CeremonyFailed):
        used(device, site, known, type="webauthn.create")
    with pytest.raises(CeremonyFailed):
        registration_in(device.get(site.request_options(CHALLENGE)))
    with pytest.raises(CeremonyFailed):
        assertion_in(Authenticator(ORIGIN).create(site.creation_options(CHALLENGE, HANDLE, "mia", [])))


def test_a_signature_of_another_key_is_refused() -> None:
    device, site = Authenticator(ORIGIN), party()
    known = stored(registered(device, site))
    for curve in (ec.SECP256R1(), ec.SECP384R1()):
        with pytest.raises(CeremonyFailed, match="not valid"):
            used(device, site, known, key=ec.generate_private_key(curve))


@pytest.mark.parametrize("handle", [None, bytes(32), HANDLE[:-1]])
def test_the_user_handle_must_be_that_of_the_passkey(handle: bytes | None) -> None:
    device, site = Authenticator(ORIGIN), party()
    known = stored(registered(device, site))
    with pytest.raises(CeremonyFailed, match="user handle"):
        used(device, site, known, user_handle=handle)
    if handle is None:  # an authenticator that was given a list of passkeys may leave it out
        used(device, site, known, user_handle=None, discovered=False)
    else:
        with pytest.raises(CeremonyFailed, match="user handle"):
            used(device, site, known, user_handle=handle, discovered=False)


P256 = {1: 2, 3: -7, -1: 1, -2: bytes(32), -3: bytes(32)}
KEYS: dict[str, tuple[dict[Any, Any], str]] = {
    "a point that is not on the curve": (P256, "public key"),
    "another curve": ({**P256, -1: 2}, "public key"),
    "an unknown algorithm": ({**P256, 3: -65535}, "algorithm"),
    "an algorithm that was not offered": ({**P256, 3: -47, -1: 8}, "algorithm"),
    "no algorithm": ({1: 2, -1: 1}, "malformed"),
    "a key without a point": ({1: 2, 3: -7, -1: 1}, "public key"),
    "a huge key": ({1: 3, 3: -257, -1: bytes([255]) * 1300, -2: b"\1\0\1"}, "algorithm"),
    "a key of RSA without a modulus": ({1: 3, 3: -257, -2: b"\1\0\1"}, "public key"),
}


@pytest.mark.parametrize("name", KEYS)
def test_a_public_key_that_can_verify_nothing_is_refused(name: str) -> None:
    key, reason = KEYS[name]
    with pytest.raises(CeremonyFailed) as error:
        registered(Authenticator(ORIGIN), party(), public_key=key)
    assert error.value.reason == reason


def test_the_id_of_a_new_passkey_must_be_the_attested_one() -> None:
    with pytest.raises(CeremonyFailed):
        registered(Authenticator(ORIGIN), party(), attested_id=bytes(20))
    with pytest.raises(CeremonyFailed):
        registered(Authenticator(ORIGIN), party(), credential_id=bytes(1024))
    registered(Authenticator(ORIGIN), party(), credential_id=bytes(1023))


# --- input that is no answer ------------------------------------------------------------------------------------------


def answers() -> tuple[dict[str, Any], dict[str, Any]]:
    device, site = Authenticator(ORIGIN), party()
    made = device.create(site.creation_options(CHALLENGE, HANDLE, "mia", []))
    return made, device.get(site.request_options(CHALLENGE))


def changed(answer: dict[str, Any], change: Callable[[dict[str, Any]], None]) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(answer))
    change(found)
    return found


NESTED = b64(b"\x81" * 30_000)
DEEP_JSON = b64(b"[" * 3000)
WHOLES: list[object] = [None, 1, "", "{", "[]", "null", [], {}, {"response": {}}, "[" * 40_000, "x" * 60_000, "\ud800"]
VALUES: list[object] = [
    None,
    1,
    [],
    {},
    "",
    "=",
    "a",
    "\u00e9",
    "AAAA=",
    "A+/A",
    "AAAA",
    NESTED,
    DEEP_JSON,
    "A" * 60_000,
]


@pytest.mark.parametrize("read", [registration_in, assertion_in])
def test_no_input_is_more_than_not_valid(read: Callable[[object], Any]) -> None:
    good = answers()[read is assertion_in]
    assert read(good)
    for whole in WHOLES:
        with pytest.raises(CeremonyFailed):
            read(whole)
    for name in ("id", "rawId", "type", "response"):
        for value in VALUES:
            with pytest.raises(CeremonyFailed):
                read(changed(good, lambda found, name=name, value=value: found.update({name: value})))  # type: ignore[misc]
    for name in good["response"]:
        for value in VALUES:
            if name in ("transports", "userHandle", "signature"):  # they have no form
                continue
            with pytest.raises(CeremonyFailed):
                read(changed(good, lambda found, name=name, value=value: found["response"].update({name: value})))  # type: ignore[misc]


@pytest.mark.parametrize(
    "client", [b"null", b"[]", b"{}", b'"x"', b'{"type": 1}', b"\xff", b'{"challenge": "\xc3\xa9"}']
)
def test_no_client_data_is_more_than_not_valid(client: bytes) -> None:
    for read, good in zip((registration_in, assertion_in), answers(), strict=True):
        with pytest.raises(CeremonyFailed):
            read(changed(good, lambda found: found["response"].update(clientDataJSON=b64(client))))


def test_unknown_transports_are_left_out() -> None:
    made = answers()[0]
    for sent, kept in ((["usb", "x" * 9000, 1, None, "usb"], ("usb",)), ("usb", ()), (None, ())):
        read = registration_in(changed(made, lambda found, sent=sent: found["response"].update(transports=sent)))  # type: ignore[misc]
        assert read.transports == kept


@pytest.mark.parametrize("name", ["clientDataJSON", "authenticatorData", "signature", "userHandle"])
def test_no_changed_byte_of_a_proof_is_valid(name: str) -> None:
    device, site = Authenticator(ORIGIN), party()
    known = stored(registered(device, site))
    answer = device.get(site.request_options(CHALLENGE))
    good = unb64(answer["response"][name])
    for place in range(len(good)):
        for flip in (1, 0x20, 0x80):
            raw = bytearray(good)
            raw[place] ^= flip
            answer["response"][name] = b64(bytes(raw))
            with pytest.raises(CeremonyFailed):
                site.check_assertion(assertion_in(answer), known, discovered=True)


@example(bytes(37))
@example(bytes(4))
@given(st.binary(max_size=400))
def test_no_bytes_are_an_attestation(noise: bytes) -> None:
    made, site = answers()[0], party()
    own, present = hashlib.sha256(RP_ID.encode()).digest(), USER_PRESENT | USER_VERIFIED
    starts = (b"", own + bytes([present]), own + bytes([present | ATTESTED]))
    for raw in (noise, *(cbor({"fmt": "none", "attStmt": {}, "authData": start + noise}) for start in starts)):
        made["response"]["attestationObject"] = b64(raw)
        with pytest.raises(CeremonyFailed):
            site.check_registration(registration_in(made))


# --- the relying party ------------------------------------------------------------------------------------------------


def test_passkeys_of_one_relying_party_work_on_several_origins() -> None:
    shop = "https://shop.example.test:8443"
    site = party(origins=[shop], rp_id="example.test")
    device = Authenticator(shop)
    known = stored(registered(device, site))
    used(device, site, known)
    used(Authenticator(ORIGIN, passkeys=device.passkeys), site, known)
    with pytest.raises(CeremonyFailed, match="origin"):
        used(Authenticator("https://other.example.test", passkeys=device.passkeys), site, known)


@pytest.mark.parametrize(
    ("url", "options"),
    [
        (URL, {"origins": ["https://shop.example.test"]}),
        (URL, {"origins": ["https://app.example.test/path"]}),
        (URL, {"origins": ["http://app.example.test"]}),
        (URL, {"origins": ["null"]}),
        (URL, {"origins": ["https://app.example.test:99999"]}),
        (URL, {"origins": ["https://\u00e4.app.example.test"]}),
        (URL, {"origins": "https://app.example.test"}),
        (URL, {"origins": [None]}),
        (URL, {"rp_id": "evil.test"}),
        (URL, {"rp_id": "test"}),
        (URL, {"rp_id": "xample.test"}),
        (URL, {"rp_id": "App.example.test"}),
        (URL, {"rp_id": ""}),
        (URL, {"rp_id": 1}),
        ("https://app.example.co.uk", {"rp_id": "co.uk"}),
        ("http://127.0.0.1:8000", {}),
        ("https://192.0.2.1", {}),
        ("https://[2001:db8::1]", {}),
        ("http://app.example.test", {}),
    ],
)
def test_a_relying_party_that_browsers_refuse_fails_at_construction(url: str, options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        RelyingParty(url, "Shop", timeout=1000, **options)


def test_browsers_write_origins_in_one_way() -> None:
    assert RelyingParty("https://App.Example.test:443/auth", "Shop", timeout=1).origins == {ORIGIN}
    assert RelyingParty("http://localhost:8000", "Shop", timeout=1).origins == {"http://localhost:8000"}
    assert RelyingParty("http://app.localhost", "Shop", timeout=1).id == "app.localhost"


def test_every_flag_of_a_synced_passkey_is_taken() -> None:
    device, site = Authenticator(ORIGIN), party()
    known = stored(registered(device, site))
    assert used(device, site, known, flags=SYNCED) == Use(0, True)
    assert used(device, site, known, flags=SYNCED & ~BACKED_UP) == Use(0, False)
    assert secrets.compare_digest(known.user_handle, HANDLE)
