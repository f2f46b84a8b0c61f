"""The ceremonies of WebAuthn, without I/O: the options for the browser, and the checks of its answers.

`RelyingParty` adds to fido2's checks those that are the caller's, such as the exact origin and the user handle.

Sources: W3C Web Authentication Level 3, sections 7.1 and 7.2; OWASP ASVS 5.0.0, 6.3.3 and 6.5.
"""

import hmac
import ipaddress
import json
from collections.abc import Mapping, Sequence
from typing import Any, Final
from urllib.parse import urlsplit

import msgspec

from powauth._extras import needs
from powauth._options import wrong
from powauth.errors import ConfigError
from powauth.extensions.passkeys.answers import Assertion, CeremonyFailed, NewPasskey, decoded, parsed

with needs("passkeys", "Passkeys", "fido2"):
    from cryptography.exceptions import InvalidSignature
    from fido2 import cbor
    from fido2.cose import CoseKey
    from fido2.rpid import verify_rp_id
    from fido2.server import Fido2Server
    from fido2.webauthn import (
        Aaguid,
        AttestationConveyancePreference,
        AttestedCredentialData,
        AuthenticationResponse,
        AuthenticatorData,
        AuthenticatorTransport,
        CollectedClientData,
        PublicKeyCredentialDescriptor,
        PublicKeyCredentialRpEntity,
        PublicKeyCredentialType,
        PublicKeyCredentialUserEntity,
        RegistrationResponse,
        ResidentKeyRequirement,
        UserVerificationRequirement,
    )

HANDLE_BYTES: Final = 32
"""Bytes of a user handle. It is random, so it says nothing about the user (WebAuthn, section 14.6.1)."""

ALGORITHMS: Final = (-8, -7, -257)
"""EdDSA, ES256 and RS256: the algorithms that WebAuthn recommends. Every release of `cryptography` verifies them."""

MAX_PUBLIC_KEY_BYTES: Final = 1200
"""The longest public key. One of RSA with 8192 bits fits."""

_REQUIRED: Final = UserVerificationRequirement.REQUIRED


class NewCredential(msgspec.Struct, frozen=True, kw_only=True):
    """A passkey that was checked, to be stored.

    Attributes:
        credential_id: the id.
        public_key: the public key in COSE.
        sign_count: the counter of signatures; 0 if the authenticator has none.
        backed_up: whether other devices of the user have the passkey, too.
        transports: the ways to reach the authenticator.
    """

    credential_id: bytes
    public_key: bytes
    sign_count: int
    backed_up: bool
    transports: tuple[str, ...]


class Use(msgspec.Struct, frozen=True):
    """The state of a passkey after a valid assertion.

    Attributes:
        sign_count: the counter of signatures.
        backed_up: whether other devices of the user have the passkey, too.
    """

    sign_count: int
    backed_up: bool


class Credential(msgspec.Struct, frozen=True, kw_only=True):
    """The part of a stored passkey that a browser or a check needs.

    Attributes:
        credential_id: the id.
        public_key: the public key in COSE.
        user_handle: the handle of its user.
        transports: the ways to reach the authenticator.
    """

    credential_id: bytes
    public_key: bytes
    user_handle: bytes
    transports: tuple[str, ...] = ()


def origin_of(url: str) -> str:
    """Return the origin of a URL, as browsers write it.

    >>> origin_of("https://Example.org:443/auth"), origin_of("http://localhost:8000")
    ('https://example.org', 'http://localhost:8000')

    Raises:
        ConfigError: if it is no URL with a host.
    """
    try:
        parts = urlsplit(url)
        scheme, host, port = parts.scheme, parts.hostname or "", parts.port
    except ValueError:
        scheme, host, port = "", "", None
    if scheme not in ("http", "https") or not host or not host.isascii():
        raise wrong("each of the origins of Passkeys", "an origin such as 'https://shop.example.org'", url)
    default = 443 if scheme == "https" else 80
    return f"{scheme}://{host}" + ("" if port in (None, default) else f":{port}")


class RelyingParty:
    """The site for which passkeys are made: its id, its name and its origins.

    Args:
        public_url: the address of the pages. Its host is the id, unless ``rp_id`` is given.
        name: the name of the app, which browsers may show.
        origins: further origins whose pages use the same passkeys.
        rp_id: a domain above all the hosts.
        timeout: the time that a browser gives its user, in milliseconds.

    Raises:
        ConfigError: if browsers would refuse to make passkeys on one of the origins.
    """

    def __init__(
        self, public_url: str, name: str, *, origins: Sequence[str] = (), rp_id: str | None = None, timeout: int
    ) -> None:
        if isinstance(origins, str) or not all(isinstance(each, str) for each in origins):
            raise wrong("origins", "a list of origins such as ['https://shop.example.org']", origins)
        own = origin_of(public_url)
        for each in origins:
            if each.rstrip("/") != origin_of(each):
                raise wrong("each of the origins of Passkeys", f"an origin alone, such as {origin_of(each)!r}", each)
        self.id: Final = urlsplit(own).hostname or "" if rp_id is None else rp_id
        self.origins: Final = frozenset({own, *map(origin_of, origins)})
        if not isinstance(self.id, str) or not self.id or self.id != self.id.lower() or _is_address(self.id):
            raise wrong(
                "the id of the relying party of Passkeys",
                "a domain in lower case: browsers make no passkeys for an IP address. In development, use localhost",
                self.id,
            )
        for each in sorted(self.origins):
            if ("." not in self.id and self.id != "localhost") or not verify_rp_id(self.id, each):
                raise ConfigError(
                    f"Passkeys: browsers refuse passkeys of {self.id!r} on {each!r}. Each origin must be on https and "
                    "have this host or one below it; give rp_id, the domain above all of them"
                )
        self._server: Final = Fido2Server(
            PublicKeyCredentialRpEntity(id=self.id, name=name),
            attestation=AttestationConveyancePreference.NONE,
            verify_origin=self.origins.__contains__,
        )
        self._server.allowed_algorithms = [
            each for alg in ALGORITHMS for each in self._server.allowed_algorithms if each.alg == alg
        ]
        self._server.timeout = timeout  # type: ignore[assignment] # fido2 declares no type

    # --- the options for the browser ----------------------------------------------------------------------------------

    def creation_options(
        self, challenge: str, handle: bytes, name: str, exclude: Sequence[Credential]
    ) -> dict[str, Any]:
        """Return ``PublicKeyCredentialCreationOptionsJSON``.

        Args:
            challenge: the challenge.
            handle: the handle of the user.
            name: the user id, which browsers show beside the passkey.
            exclude: the user's passkeys. An authenticator that has one of them makes no second one.
        """
        options, _ = self._server.register_begin(
            PublicKeyCredentialUserEntity(id=handle, name=name, display_name=name),
            [_descriptor(each) for each in exclude],
            resident_key_requirement=ResidentKeyRequirement.REQUIRED,
            user_verification=_REQUIRED,
            challenge=decoded(challenge),
        )
        return _plain(options.public_key)

    def request_options(self, challenge: str, allowed: Sequence[Credential] | None = None) -> dict[str, Any]:
        """Return ``PublicKeyCredentialRequestOptionsJSON``.

        Args:
            challenge: the challenge.
            allowed: the passkeys of a user who is known already. ``None`` lets the browser offer all passkeys of this
                site. So the options reveal no account.
        """
        options, _ = self._server.authenticate_begin(
            None if allowed is None else [_descriptor(each) for each in allowed],
            user_verification=_REQUIRED,
            challenge=decoded(challenge),
        )
        return _plain(options.public_key)

    # --- the checks ---------------------------------------------------------------------------------------------------

    def check_registration(self, given: NewPasskey) -> NewCredential:
        """Check a new passkey. Its challenge must have been issued for this.

        Raises:
            CeremonyFailed: if it is not valid.
        """
        answer: RegistrationResponse = given.answer
        data = answer.response.attestation_object.auth_data
        self._check_client(answer.response.client_data, data)
        parsed(lambda: self._server.register_complete(_state(given.challenge), answer), "not valid")
        credential = data.credential_data
        if credential is None or credential.credential_id != answer.raw_id:
            raise CeremonyFailed("not valid")
        public_key = cbor.encode(credential.public_key)
        if len(public_key) > MAX_PUBLIC_KEY_BYTES or credential.public_key.get(3) not in ALGORITHMS:
            raise CeremonyFailed("algorithm")
        _check_key(public_key)
        return NewCredential(
            credential_id=credential.credential_id,
            public_key=public_key,
            sign_count=data.counter,
            backed_up=data.is_backed_up(),
            transports=given.transports,
        )

    def check_assertion(self, given: Assertion, stored: Credential, *, discovered: bool) -> Use:
        """Check a proof against the stored passkey. Its challenge must have been issued for this.

        Args:
            given: the proof.
            stored: the passkey that it names.
            discovered: whether the authenticator has chosen the passkey itself. It then names the user, too.

        Raises:
            CeremonyFailed: if it is not valid.
        """
        answer: AuthenticationResponse = given.answer
        data = answer.response.authenticator_data
        self._check_client(answer.response.client_data, data)
        if (discovered or given.user_handle is not None) and not hmac.compare_digest(
            given.user_handle or b"", stored.user_handle
        ):
            raise CeremonyFailed("user handle")
        known = AttestedCredentialData.create(Aaguid.NONE, stored.credential_id, _key_of(stored.public_key))
        state = _state(given.challenge)
        parsed(lambda: self._server.authenticate_complete(state, [known], answer), "not valid")
        return Use(data.counter, data.is_backed_up())

    def _check_client(self, client: CollectedClientData, data: AuthenticatorData) -> None:
        """Check what fido2 does not check, and what an operator wants to know by name.

        Raises:
            CeremonyFailed: if it is not valid.
        """
        if not isinstance(client.origin, str) or client.origin not in self.origins:
            raise CeremonyFailed("origin")
        if client.cross_origin is not False:
            raise CeremonyFailed("in a frame")
        if not data.is_user_verified():
            raise CeremonyFailed("user not verified")
        if data.is_backed_up() and not data.is_backup_eligible():
            raise CeremonyFailed("not valid")


# --- inside -----------------------------------------------------------------------------------------------------------


def _is_address(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _state(challenge: str) -> dict[str, Any]:
    return {"challenge": challenge, "user_verification": _REQUIRED}


def _key_of(public_key: bytes) -> CoseKey:
    return parsed(lambda: CoseKey.parse(cbor.decode(public_key)), "stored key")  # type: ignore[arg-type]


def _check_key(public_key: bytes) -> None:
    """Refuse a key that can verify nothing, such as a point that is not on the curve."""
    try:
        _key_of(public_key).verify(b"", bytes(64))
    except InvalidSignature:
        return
    except Exception:
        raise CeremonyFailed("public key") from None
    raise CeremonyFailed("public key")  # it accepts a signature of nothing


def _descriptor(each: Credential) -> PublicKeyCredentialDescriptor:
    known = [AuthenticatorTransport(text) for text in each.transports]
    return PublicKeyCredentialDescriptor(
        type=PublicKeyCredentialType.PUBLIC_KEY,
        id=each.credential_id,
        transports=[transport for transport in known if transport is not None] or None,
    )


def _plain(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return options as JSON has them, without values of fido2."""
    found: dict[str, Any] = json.loads(json.dumps(dict(options)))
    return found
