"""A software authenticator: passkeys of P-256 that live in memory, with attestation "none", and faults on demand.

It makes the JSON that a browser makes of `PublicKeyCredential.toJSON()`. It uses nothing of fido2, so that a mistake
there is not made here, too.
"""

import base64
import hashlib
import json
import secrets
import struct
from dataclasses import dataclass, field
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec

USER_PRESENT, USER_VERIFIED, BACKUP_ELIGIBLE, BACKED_UP, ATTESTED = 0x01, 0x04, 0x08, 0x10, 0x40
SYNCED = USER_PRESENT | USER_VERIFIED | BACKUP_ELIGIBLE | BACKED_UP
"""The flags of a passkey that all of the user's devices have."""


def b64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def cbor(value: Any) -> bytes:
    """The CBOR of numbers, bytes, text and maps."""
    match value:
        case int():
            kind, number, rest = (0, value, b"") if value >= 0 else (1, -1 - value, b"")
        case bytes():
            kind, number, rest = 2, len(value), value
        case str():
            kind, number, rest = 3, len(value.encode()), value.encode()
        case dict():
            kind, number = 5, len(value)
            rest = b"".join(cbor(name) + cbor(each) for name, each in value.items())
        case _:
            raise TypeError(type(value))
    if number < 24:
        return bytes([kind << 5 | number]) + rest
    if number < 256:
        return bytes([kind << 5 | 24, number]) + rest
    return bytes([kind << 5 | 25]) + struct.pack(">H", number) + rest


@dataclass
class Passkey:
    """A passkey in an authenticator."""

    credential_id: bytes
    key: ec.EllipticCurvePrivateKey
    user_handle: bytes
    rp_id: str
    count: int


@dataclass
class Authenticator:
    """An authenticator with a browser around it.

    Args:
        origin: the origin of the page that uses it.
        flags: the flags of its answers.
        counts: whether it has a counter of signatures. Synced passkeys have none.
    """

    origin: str
    flags: int = SYNCED
    counts: bool = False
    passkeys: list[Passkey] = field(default_factory=list)

    def create(self, options: dict[str, Any], **faults: Any) -> dict[str, Any]:
        """Make a passkey, as ``navigator.credentials.create`` does."""
        assert options["authenticatorSelection"]["userVerification"] == "required"
        assert options["authenticatorSelection"]["residentKey"] == "required"
        assert options["attestation"] == "none"
        assert {"type": "public-key", "alg": -7} in options["pubKeyCredParams"]
        own = {b64(each.credential_id) for each in self.passkeys}
        if any(each["id"] in own for each in options.get("excludeCredentials", [])):
            raise ValueError("InvalidStateError: this authenticator has a passkey of the user already")
        passkey = Passkey(
            faults.pop("credential_id", None) or secrets.token_bytes(20),
            ec.generate_private_key(ec.SECP256R1()),
            unb64(options["user"]["id"]),
            options["rp"]["id"],
            int(self.counts),
        )
        self.passkeys = [each for each in self.passkeys if each.user_handle != passkey.user_handle] + [passkey]
        numbers = passkey.key.public_key().public_numbers()
        point = faults.pop("point", (numbers.x.to_bytes(32, "big"), numbers.y.to_bytes(32, "big")))
        public = faults.pop("public_key", {1: 2, 3: -7, -1: 1, -2: point[0], -3: point[1]})
        named = faults.pop("attested_id", passkey.credential_id)
        attested = bytes(16) + struct.pack(">H", len(named)) + named + cbor(public)
        data = self._data(passkey, ATTESTED, faults) + attested
        response = {
            "clientDataJSON": self._client("webauthn.create", options["challenge"], faults),
            "attestationObject": b64(cbor({"fmt": "none", "attStmt": {}, "authData": data})),
            "transports": ["internal", "hybrid"],
        }
        return _credential(passkey, response, faults)

    def get(self, options: dict[str, Any], *, which: int = -1, **faults: Any) -> dict[str, Any]:
        """Use a passkey, as ``navigator.credentials.get`` does."""
        assert options["userVerification"] == "required"
        fitting = [each for each in self.passkeys if each.rp_id == options["rpId"]]
        if "allowCredentials" in options:
            allowed = {each["id"] for each in options["allowCredentials"]}
            fitting = [each for each in fitting if b64(each.credential_id) in allowed]
        passkey = fitting[which]
        if self.counts:
            passkey.count += 1
        client = self._client("webauthn.get", options["challenge"], faults)
        data = self._data(passkey, 0, faults)
        signed = data + hashlib.sha256(unb64(client)).digest()
        response = {
            "clientDataJSON": client,
            "authenticatorData": b64(data),
            "signature": b64(faults.pop("key", passkey.key).sign(signed, ec.ECDSA(hashes.SHA256()))),
        }
        handle = faults.pop("user_handle", passkey.user_handle)
        if handle is not None:
            response["userHandle"] = b64(handle)
        return _credential(passkey, response, faults)

    def _data(self, passkey: Passkey, flags: int, faults: dict[str, Any]) -> bytes:
        rp_id = faults.pop("rp_id", passkey.rp_id)
        given = faults.pop("flags", self.flags) | flags
        return hashlib.sha256(rp_id.encode()).digest() + struct.pack(">BI", given, faults.pop("count", passkey.count))

    def _client(self, kind: str, challenge: str, faults: dict[str, Any]) -> str:
        found = {
            "type": faults.pop("type", kind),
            "challenge": faults.pop("challenge", challenge),
            "origin": faults.pop("origin", self.origin),
            "crossOrigin": faults.pop("cross_origin", False),
        }
        return b64(json.dumps(found).encode())


def _credential(passkey: Passkey, response: dict[str, Any], faults: dict[str, Any]) -> dict[str, Any]:
    assert not faults, faults
    name = b64(passkey.credential_id)
    return {
        "id": name,
        "rawId": name,
        "type": "public-key",
        "authenticatorAttachment": "platform",
        "response": response,
        "clientExtensionResults": {},
    }
