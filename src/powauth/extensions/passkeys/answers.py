"""The answers of browsers: what ``navigator.credentials`` returns, as JSON. Nothing in them is trusted.

Each part has a maximum length. Any other input raises `CeremonyFailed`.

Source: W3C Web Authentication Level 3, sections 5.1.9 and 5.1.10 (the JSON of credentials).
"""

import base64
import binascii
import json
from collections.abc import Callable, Mapping
from typing import Any, Final, TypeVar

import msgspec

from powauth._extras import needs
from powauth.errors import PowauthError

with needs("passkeys", "Passkeys", "fido2"):
    from fido2.webauthn import (
        AttestationObject,
        AuthenticationResponse,
        AuthenticatorAssertionResponse,
        AuthenticatorAttestationResponse,
        AuthenticatorData,
        CollectedClientData,
        RegistrationResponse,
    )

T = TypeVar("T")

CREDENTIAL: Final = "credential"
"""The field with the answer of a browser."""

MAX_CREDENTIAL_ID_BYTES: Final = 1023
"""The longest id of a credential (WebAuthn, section 4)."""

MAX_JSON_CHARS: Final = 49_152
"""The longest answer of a browser, as text in a form."""

MALFORMED: Final = "malformed"
"""The reason for an answer that cannot be parsed."""

_MAX_CLIENT_DATA: Final = 4096
_MAX_ASSERTION_DATA: Final = 2048
_MAX_ATTESTATION: Final = 32_768
_MAX_SIGNATURE: Final = 2048
_MAX_HANDLE: Final = 64
"""The longest parts of an answer, in bytes."""

_TRANSPORTS: Final = frozenset({"usb", "nfc", "ble", "smart-card", "hybrid", "internal"})


class CeremonyFailed(PowauthError):
    """The answer of a browser is not valid.

    Attributes:
        reason: the reason, for an event. It never holds input of a client.
    """

    def __init__(self, reason: str) -> None:
        super().__init__(f"the passkey was not accepted: {reason}")
        self.reason = reason


class NewPasskey(msgspec.Struct, frozen=True, kw_only=True):
    """A new passkey, as the browser has made it. It is not checked yet.

    Attributes:
        challenge: the challenge that it answers.
        answer: the parsed answer.
        transports: the ways to reach the authenticator.
    """

    challenge: str
    answer: Any
    transports: tuple[str, ...]

    __repr__ = object.__repr__  # error reporters record what local variables look like


class Assertion(msgspec.Struct, frozen=True, kw_only=True):
    """A proof that somebody has a passkey. It is not checked yet.

    Attributes:
        challenge: the challenge that it answers.
        credential_id: the id of the passkey.
        user_handle: the user handle of the passkey; ``None`` if the authenticator sent none.
        answer: the parsed answer.
    """

    challenge: str
    credential_id: bytes
    user_handle: bytes | None
    answer: Any

    __repr__ = object.__repr__  # error reporters record what local variables look like


def registration_in(value: object) -> NewPasskey:
    """Return the answer of a browser that made a passkey: ``RegistrationResponseJSON``, as an object or as text.

    Raises:
        CeremonyFailed: if it is no such answer.
    """
    outer, response = _answer(value)
    client = _client_data(response)
    attestation = _bytes(response, "attestationObject", _MAX_ATTESTATION)
    given = response.get("transports")
    transports = given if isinstance(given, list) else []
    answer = parsed(
        lambda: RegistrationResponse(
            raw_id=_bytes(outer, "rawId", MAX_CREDENTIAL_ID_BYTES),
            response=AuthenticatorAttestationResponse(
                client_data=client, attestation_object=AttestationObject(attestation)
            ),
        )
    )
    return NewPasskey(
        challenge=_challenge(client),
        answer=answer,
        transports=tuple(sorted({each for each in transports if isinstance(each, str) and each in _TRANSPORTS})),
    )


def assertion_in(value: object) -> Assertion:
    """Return the answer of a browser that used a passkey: ``AuthenticationResponseJSON``, as an object or as text.

    Raises:
        CeremonyFailed: if it is no such answer.
    """
    outer, response = _answer(value)
    client = _client_data(response)
    credential_id = _bytes(outer, "rawId", MAX_CREDENTIAL_ID_BYTES)
    handle = _bytes(response, "userHandle", _MAX_HANDLE) if response.get("userHandle") not in (None, "") else None
    answer = parsed(
        lambda: AuthenticationResponse(
            raw_id=credential_id,
            response=AuthenticatorAssertionResponse(
                client_data=client,
                authenticator_data=AuthenticatorData(_bytes(response, "authenticatorData", _MAX_ASSERTION_DATA)),
                signature=_bytes(response, "signature", _MAX_SIGNATURE),
                user_handle=handle,
            ),
        )
    )
    return Assertion(challenge=_challenge(client), credential_id=credential_id, user_handle=handle, answer=answer)


def decoded(text: str) -> bytes:
    """Return the bytes of a text in base64url.

    Raises:
        ValueError: if the text is not in base64url without padding.
    """
    if not text.isascii() or "=" in text or "+" in text or "/" in text:
        raise ValueError("not base64url")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except binascii.Error as error:
        raise ValueError("not base64url") from error


def _answer(value: object) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Return the object of a credential, and its response."""
    if isinstance(value, str):
        if len(value) > MAX_JSON_CHARS:
            raise CeremonyFailed(MALFORMED)
        value = parsed(lambda: json.loads(str(value)))
    if not isinstance(value, Mapping) or not isinstance(value.get("response"), Mapping):
        raise CeremonyFailed(MALFORMED)
    if value.get("type") != "public-key" or value.get("id") != value.get("rawId"):
        raise CeremonyFailed(MALFORMED)
    return value, value["response"]


def _bytes(found: Mapping[str, Any], name: str, most: int) -> bytes:
    value = found.get(name)
    if not isinstance(value, str) or not 0 < len(value) <= most * 4 // 3 + 2:
        raise CeremonyFailed(MALFORMED)
    data = parsed(lambda: decoded(value))
    if len(data) > most:
        raise CeremonyFailed(MALFORMED)
    return data


def _client_data(response: Mapping[str, Any]) -> CollectedClientData:
    data = _bytes(response, "clientDataJSON", _MAX_CLIENT_DATA)
    return parsed(lambda: CollectedClientData(data))


def _challenge(client: CollectedClientData) -> str:
    return base64.urlsafe_b64encode(client.challenge).rstrip(b"=").decode()


def parsed(parse: Callable[[], T], reason: str = MALFORMED) -> T:
    """Return the result of a function that parses input of a client. Every error becomes `CeremonyFailed`.

    For invalid input, fido2 raises many kinds of errors, such as `KeyError`, `TypeError` or `RecursionError`. Use this
    only for functions whose result depends on the input alone.
    """
    try:
        return parse()
    except CeremonyFailed:
        raise
    except Exception:
        raise CeremonyFailed(reason) from None
