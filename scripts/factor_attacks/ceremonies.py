"""Attacks on passkeys with a software authenticator that lies: the ceremonies of WebAuthn."""

import base64
import hashlib
import json
import struct
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from harness.authenticator import (
    ATTESTED,
    BACKED_UP,
    SYNCED,
    USER_PRESENT,
    USER_VERIFIED,
    Authenticator,
    b64,
    cbor,
    unb64,
)
from scripts.factor_attacks.arena import (
    Arena,
    Broken,
    Person,
    attack,
    breach,
    control,
    creation_options,
    refused,
    request_options,
    use,
)

INVALID = "invalid_passkey"


BAD_PARTS: tuple[object, ...] = (
    *(None, 1, [], "", "=", "é", "A" * 60_000, "a b"),
    *map(b64, (b"{}", b"[]", b'"x"', b"\xff\xfe")),
)
"""Invalid values for the parts of an answer."""


def lies(arena: Arena, here: str, person: Person, *faults: dict[str, Any]) -> str:
    """Sign in with each fault, which must be refused. The honest use works before and after."""
    honest = use_of(arena, here, person)
    control(honest == person.email, honest)
    for fault in faults:
        thief = arena.client(here)
        refused(use(thief, person.passkey.get(request_options(thief), **fault)), 401, error=INVALID)
        breach(thief.who(), f"a session began with {sorted(fault)}")
    control(use_of(arena, here, person) == person.email, "the honest use fails")
    return f"401 for {len(faults)}; the honest use works before and after"


def use_of(arena: Arena, here: str, person: Person) -> str | None:
    """Return the user whom a passkey signs in."""
    client = arena.client(here)
    use(client, person.passkey.get(request_options(client)))
    return client.who()


@attack("A passkey used on another origin, or in a frame of another site", "a phishing site gets a session")
def wrong_origin(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here, totp=False, passkey=True)
    origins = [
        "https://evil.example",
        "http://localhost",
        "http://localhost:1",
        here.replace("http:", "https:"),
        f"{here}/",
    ]
    origins += [here.replace("localhost", "localhost.evil.example"), here.upper(), "null", ""]
    faults: list[dict[str, Any]] = [{"origin": each} for each in origins]
    faults += [{"cross_origin": True}, {"origin": None}, {"origin": [here]}]
    return lies(arena, here, mia, *faults)


@attack("The hash of another relying party", "an assertion for another site is accepted")
def wrong_party(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here, totp=False, passkey=True)
    return lies(arena, here, mia, *({"rp_id": each} for each in ("evil.example", "", "LOCALHOST", "127.0.0.1")))


@attack("Without the flags of presence and of verification", "a device that has not verified its user signs in")
def flags(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here, totp=False, passkey=True)
    odd = (0, USER_PRESENT, USER_VERIFIED, SYNCED & ~USER_VERIFIED, SYNCED & ~USER_PRESENT)
    return lies(arena, here, mia, *({"flags": each} for each in (*odd, USER_PRESENT | USER_VERIFIED | BACKED_UP)))


@attack("A challenge that was not issued", "an assertion that was recorded elsewhere is accepted")
def wrong_challenge(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here, totp=False, passkey=True)
    odd = (b64(bytes(54)), b64(b"x"), "", "A" * 72, b64(b"\xff" * 54))
    return lies(arena, here, mia, *({"challenge": each} for each in odd))


@attack("The answer of a registration as that of a sign-in", "the type of the ceremony is not checked")
def wrong_type(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here, totp=False, passkey=True)
    return lies(arena, here, mia, *({"type": each} for each in ("webauthn.create", "", "payment.get", "WEBAUTHN.GET")))


@attack("The user handle of another user, and none", "the session of another user")
def wrong_handle(arena: Arena, here: str, other: str) -> str:
    mia, eve = (arena.person(here, totp=False, passkey=True) for _ in range(2))
    handle = mia.passkey.passkeys[0].user_handle
    return lies(arena, here, eve, {"user_handle": handle}, {"user_handle": None}, {"user_handle": bytes(64)})


@attack("The credential id of another user, signed with the own key", "the session of another user")
def wrong_credential(arena: Arena, here: str, other: str) -> str:
    mia, eve = (arena.person(here, totp=False, passkey=True) for _ in range(2))
    key = eve.passkey.passkeys[0].key
    fresh = ec.generate_private_key(ec.SECP256R1())
    handle = eve.passkey.passkeys[0].user_handle
    return lies(arena, here, mia, {"key": key}, {"key": fresh}, {"key": key, "user_handle": handle})


@attack("Signatures that are cut, empty, zero or of other data", "a signature is not verified")
def wrong_signature(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here, totp=False, passkey=True)
    odd: list[bytes] = [
        b"\0",
        bytes(64),
        bytes.fromhex("3006020100020100"),
        bytes.fromhex("300602010102010130"),
        b"\x30" * 70,
    ]
    for signature in odd:
        thief = arena.client(here)
        answer = mia.passkey.get(request_options(thief))
        answer["response"]["signature"] = b64(signature)
        refused(use(thief, answer), 401, error=INVALID)
        breach(thief.who(), "a session began")
    for part in ("authenticatorData", "signature", "clientDataJSON"):
        thief = arena.client(here)
        answer = mia.passkey.get(request_options(thief))
        data = bytearray(unb64(answer["response"][part]))
        data[-1] ^= 1
        answer["response"][part] = b64(bytes(data))
        refused(use(thief, answer), 401, error=INVALID)
    control(use_of(arena, here, mia) == mia.email, "the honest use fails")
    return "401 for 8; the honest use works"


@attack(
    "An assertion once more, in the same and in another browser, on either server",
    "a recorded assertion signs in again",
)
def replayed(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here, totp=False, passkey=True)
    client = arena.client(here)
    answer = mia.passkey.get(request_options(client))
    cookie = client.named_cookie("passkeys")
    control(use(client, answer).status_code == 200 and client.who() == mia.email, "no sign-in")
    client.delete("/session")
    for app in (here, other):
        thief = arena.client(app)
        request_options(thief)
        refused(use(thief, answer), 401, error=INVALID)
        bare = arena.client(app)
        bare.headers["cookie"] = cookie
        refused(use(bare, answer), 401, error=INVALID)
        breach(thief.who() or bare.who(), "a session began")
    refused(use(client, answer), 401, error=INVALID)
    return "401, with and without the cookie of the challenge"


@attack(
    "An assertion for a challenge of another browser, or on the other server", "a stolen assertion signs in elsewhere"
)
def stolen(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here, totp=False, passkey=True)
    owner, thief, bare = arena.client(here), arena.client(here), arena.client(other)
    answer = mia.passkey.get(request_options(owner))
    request_options(thief)
    refused(use(thief, answer), 401, error=INVALID)
    refused(use(bare, answer), 401, error=INVALID)
    breach(thief.who() or bare.who(), "a session began")
    done = owner.post(f"{other}/login/passkey", json={"credential": answer})
    control(done.status_code == 200, done)
    return "401 without the cookie; the owner may answer on either server"


@attack("A counter that does not grow, as of a copied device", "no event tells of it (it is no reason to refuse)")
def counter(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here, totp=False)
    arena.add_passkey(mia, counts=True)
    control(use_of(arena, here, mia) == mia.email, "no sign-in")
    copy = arena.client(here)
    done = use(copy, mia.passkey.get(request_options(copy), count=1))
    control(done.status_code == 200, done)
    for _ in range(200):  # the entry is written in the background
        log = arena.administrator.get(f"{here}/administration").json()["log"]
        if any(each["event"] == "passkey_counter" for each in log):
            return "the event passkey_counter in the audit log; the sign-in goes on"
    raise Broken("there is no event passkey_counter")


def _data(options: dict[str, Any], credential_id: bytes, public: bytes, given: int = SYNCED | ATTESTED) -> bytes:
    head = hashlib.sha256(options["rp"]["id"].encode()).digest() + struct.pack(">BI", given, 0)
    return head + bytes(16) + struct.pack(">H", len(credential_id)) + credential_id + public


def _registration(here: str, options: dict[str, Any], attestation: bytes, credential_id: bytes) -> dict[str, Any]:
    client = {"type": "webauthn.create", "challenge": options["challenge"], "origin": here, "crossOrigin": False}
    response = {"clientDataJSON": b64(json.dumps(client).encode()), "attestationObject": b64(attestation)}
    name = b64(credential_id)
    return {"id": name, "rawId": name, "type": "public-key", "response": response}


@attack(
    "Public keys of algorithm none, of confused or weak algorithms, and off the curve",
    "a key is stored that verifies anything",
)
def algorithms(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here, totp=False)
    numbers = ec.generate_private_key(ec.SECP256R1()).public_key().public_numbers()
    x, y = numbers.x.to_bytes(32, "big"), numbers.y.to_bytes(32, "big")
    weak = rsa.generate_private_key(65537, 2048).public_key().public_numbers()
    modulus = weak.n.to_bytes(256, "big")
    keys: list[dict[Any, Any]] = [
        {},
        {1: 2, 3: 0, -1: 1, -2: x, -3: y},
        {1: 2, 3: -257, -1: 1, -2: x, -3: y},
        {1: 2, 3: -65535, -1: 1, -2: x, -3: y},
        {1: 3, 3: -65535, -1: modulus, -2: b"\1\0\1"},
        {1: 3, 3: -7, -1: modulus, -2: b"\1\0\1"},
        {1: 3, 3: -257, -1: b"\1", -2: b"\1"},
        {1: 1, 3: -8, -1: 6, -2: bytes(5)},
        {1: 4, 3: 5, -1: b"secret"},
        {1: 2, 3: -7, -1: 1, -2: bytes(32), -3: bytes(32)},
        {1: 2, 3: -7, -1: 1, -2: x, -3: x},
        {1: 2, 3: -7, -1: 3, -2: x, -3: y},
        {1: 2, 3: -7, -1: 1, -2: x},
    ]
    for number, key in enumerate(keys):
        name = bytes([number + 1]) * 20
        options = creation_options(mia.client)
        attestation = cbor({"fmt": "none", "attStmt": {}, "authData": _data(options, name, cbor(key))})
        answer = _registration(here, options, attestation, name)
        refused(mia.client.send_json("/account/passkeys", action="add", credential=answer), 422)
    breach(mia.client.get("/account/passkeys").json()["passkeys"], "a passkey was stored")
    arena.add_passkey(mia)
    control(use_of(arena, here, mia) == mia.email, "the honest passkey fails")
    return "422 for 13 keys; the honest one is stored"


@attack("Broken CBOR, deep nesting and huge parts in a registration", "an error of the server, or a passkey")
def bad_cbor(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here, totp=False)
    public = {1: 2, 3: -7, -1: 1, -2: bytes(32), -3: bytes(32)}
    options = creation_options(mia.client)
    good = _data(options, bytes(20), cbor(public))
    parts = [
        b"",
        b"\xff",
        b"\x9f" * 1000,
        b"\x81" * 20_000,
        b"\xa1" * 20_000,
        b"\xbb" + b"\xff" * 8,
        b"\x5b" + b"\xff" * 8,
    ]
    parts += [
        cbor({"fmt": "none", "attStmt": {}}),
        cbor({"authData": good}),
        cbor({"fmt": 1, "attStmt": 1, "authData": 1}),
    ]
    parts += [
        cbor({"fmt": "packed", "attStmt": {}, "authData": good}),
        cbor({"fmt": "none", "attStmt": {}, "authData": b"x"}),
    ]
    parts += [cbor({"fmt": "none", "attStmt": {"alg": 0, "sig": b""}, "authData": good + bytes(9)}), b"\xf6", b"\x00"]
    parts += [cbor({"fmt": "none", "attStmt": {}, "authData": good[:53] + b"\xff\xff" + good[55:]})]
    for part in parts:
        answer = _registration(here, creation_options(mia.client), part, bytes(20))
        refused(mia.client.send_json("/account/passkeys", action="add", credential=answer), 422)
    for size, statuses in ((40_000, (413, 422)), (3_000_000, (400, 413, 422))):
        answer = _registration(here, options, bytes(size), bytes(20))
        refused(mia.client.send_json("/account/passkeys", action="add", credential=answer), *statuses)
    breach(mia.client.get("/account/passkeys").json()["passkeys"], "a passkey was stored")
    arena.add_passkey(mia)
    return "422 for 16 forms, 413 or 422 for huge ones; the honest one is stored"


@attack(
    "A passkey that another user has: its id with a new key",
    "the attacker's key replaces the user's, or an error of the server",
)
def taken_id(arena: Arena, here: str, other: str) -> str:
    mia, eve = arena.person(here, totp=False, passkey=True), arena.person(here, totp=False)
    device = Authenticator(here)
    taken = mia.passkey.passkeys[0].credential_id
    credential = device.create(creation_options(eve.client), credential_id=taken)
    refused(eve.client.send_json("/account/passkeys", action="add", credential=credential), 422)
    other_name = device.create(creation_options(eve.client), attested_id=b"another name of it")
    refused(eve.client.send_json("/account/passkeys", action="add", credential=other_name), 422)
    breach(eve.client.get("/account/passkeys").json()["passkeys"], "it was stored")
    control(use_of(arena, here, mia) == mia.email, "the user's passkey is gone")
    return "422; the user's passkey works"


@attack("Answers of sign-ins that are no answers: types, encodings, sizes", "an error of the server")
def malformed_answers(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here, totp=False, passkey=True)
    client = arena.client(here)
    good = mia.passkey.get(request_options(client))
    response = good["response"]
    odd: list[object] = [None, "", [], {}, 1, True, "x", "[" * 5000, json.dumps(good)[:-1], [good], {"response": []}]
    for part in ("clientDataJSON", "authenticatorData", "signature"):
        odd += [{**good, "response": {**response, part: value}} for value in BAD_PARTS]
    odd += [{**good, part: value} for part in ("id", "rawId", "type") for value in BAD_PARTS]
    odd += [{**good, "response": {**response, "userHandle": value}} for value in BAD_PARTS[1:3]]
    nested = base64.urlsafe_b64encode(b'{"challenge":' + b"[" * 1500).decode()
    odd.append({**good, "response": {**response, "clientDataJSON": nested}})
    for each in odd:
        refused(use(client, each), 401, 413, 422)
    breach(client.who(), "a session began")
    control(use(client, good).status_code == 200, "the honest answer is refused")
    return f"401 or 413 for {len(odd)} answers; the honest one still works"


@attack("A signature by another hash, and one of the data without the challenge", "a weaker signature is accepted")
def other_hash(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here, totp=False, passkey=True)
    key = mia.passkey.passkeys[0].key
    for algorithm in (hashes.SHA384(), hashes.SHA512()):
        thief = arena.client(here)
        answer = mia.passkey.get(request_options(thief))
        data, client = (unb64(answer["response"][name]) for name in ("authenticatorData", "clientDataJSON"))
        signed = data + hashlib.sha256(client).digest()
        answer["response"]["signature"] = b64(key.sign(signed, ec.ECDSA(algorithm)))
        refused(use(thief, answer), 401, error=INVALID)
        answer["response"]["signature"] = b64(key.sign(data, ec.ECDSA(hashes.SHA256())))
        refused(use(thief, answer), 401, error=INVALID)
        breach(thief.who(), "a session began")
    control(use_of(arena, here, mia) == mia.email, "the honest use fails")
    return "401"
