"""`PasskeyFactor`: passkeys as a second factor after a password."""

import base64
import copy
import hashlib
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, Final, Protocol, Self

from powauth.accounts.base import Account
from powauth.accounts.hooks import Extension, Parts
from powauth.accounts.identity import I, Key
from powauth.errors import InvalidParams
from powauth.extensions.passkeys.answers import CREDENTIAL, CeremonyFailed
from powauth.extensions.passkeys.authentication import ONE_DEVICE, SYNCED, Authentication
from powauth.extensions.passkeys.ceremonies import HANDLE_BYTES
from powauth.extensions.passkeys.letters import FOLDER
from powauth.extensions.passkeys.pages import FACTOR, SCRIPT_CSP, Paths
from powauth.extensions.passkeys.registration import Registration, label_in
from powauth.extensions.passkeys.table import StoredPasskey
from powauth.extensions.passkeys.texts import FACTOR_TEXTS
from powauth.extensions.passkeys.user_passkeys import UserPasskeys
from powauth.extensions.second_factor import Challenge, EnrolledFactor, Factor
from powauth.extensions.second_factor.factor import MFA, Enrolment, FactorEngine
from powauth.pages.page import Page
from powauth.pages.visit import PageAnswer, PageVisit


class PasskeysOf(Protocol[I]):
    """The part of `Passkeys` that the factor uses."""

    authentication: Authentication[I]
    registration: Registration[I]
    passkeys: UserPasskeys[I]

    @property
    def paths(self) -> Paths:
        """The paths of its pages."""
        ...

    def bind(self, parts: Parts[I]) -> Self:
        """See `powauth.Extension.bind`."""
        ...

    async def aclose(self) -> None:
        """See `powauth.Extension.aclose`."""
        ...


class PasskeyFactor(Factor[I]):
    """Passkeys as a second factor. `Passkeys.factor` makes it.

    A user who has a passkey and signs in with a password is asked for the passkey. A sign-in with the passkey alone
    counts as two factors, so it asks for nothing else.

    Args:
        passkeys: the extension.
        extension: its class.
    """

    name: ClassVar[str] = FACTOR
    proves: ClassVar[frozenset[str]] = frozenset({*SYNCED, *ONE_DEVICE}) - {MFA}
    template: ClassVar[str] = "factor_passkey"
    offer_template: ClassVar[str | None] = "factor_passkey_offer"
    folder: ClassVar[Path | None] = FOLDER
    texts: ClassVar[Mapping[str, str]] = FACTOR_TEXTS
    csp: ClassVar[Mapping[str, Sequence[str]]] = SCRIPT_CSP

    _bound: PasskeysOf[I]
    _user_id_field: str

    def __init__(self, passkeys: PasskeysOf[I], extension: type[Extension[Any]]) -> None:
        self._passkeys: Final = passkeys
        self.extension = extension

    def bind(self, parts: Parts[I], engine: FactorEngine[I]) -> Self:
        """See `Factor.bind`."""
        del engine
        bound = copy.copy(self)
        bound._bound = self._passkeys.bind(parts)
        bound._user_id_field = parts.users.user_id_field
        return bound

    async def is_on(self, key: Key) -> bool:
        """See `Factor.is_on`."""
        return bool(await self._bound.passkeys.of_user(key))

    async def challenge(self, account: Account[I], challenge: Challenge) -> Mapping[str, object]:
        """See `Factor.challenge`. These are ``PublicKeyCredentialRequestOptionsJSON``."""
        return self._bound.authentication.factor_options(
            await self._bound.passkeys.of_user(account.key), _text(challenge)
        )

    async def verify(
        self, account: Account[I], challenge: Challenge, params: Mapping[str, object], request: Any
    ) -> Collection[str] | None:
        """See `Factor.verify`."""
        answer = params.get(CREDENTIAL)
        if answer in (None, ""):
            raise InvalidParams({CREDENTIAL: ["can't be blank"]})
        try:
            methods = await self._bound.authentication.check_factor(request, answer, account, _text(challenge))
        except CeremonyFailed:
            return None
        return [each for each in methods if each != MFA]

    async def offer(self, account: Account[I], challenge: Challenge) -> Mapping[str, object]:
        """See `Factor.offer`. These are ``PublicKeyCredentialCreationOptionsJSON``."""
        user_id = str(getattr(account.identity, self._user_id_field, ""))
        return self._bound.registration.offer(user_id, _text(challenge), _handle(challenge))

    async def turn_on(
        self, account: Account[I], challenge: Challenge, params: Mapping[str, object]
    ) -> Enrolment | None:
        """See `Factor.turn_on`. The field ``label`` is the name of the passkey."""
        answer = params.get(CREDENTIAL)
        if answer in (None, ""):
            raise InvalidParams({CREDENTIAL: ["can't be blank"]})
        label = label_in(params.get("label"), FACTOR_TEXTS["factor_passkey"])
        try:
            new = self._bound.registration.check_offer(account.key, answer, _text(challenge))
        except CeremonyFailed:
            return None
        methods, key, registration = SYNCED if new.backed_up else ONE_DEVICE, account.key, self._bound.registration
        written: list[StoredPasskey] = []

        async def write() -> bool:
            added = await registration.write_offer(key, new, _handle(challenge), label)
            written.extend([] if added is None else [added])
            return added is not None

        async def undo() -> None:
            for each in written:
                await registration.take_back(key, each)

        return Enrolment(label, [each for each in methods if each != MFA], write, undo)

    async def enrolled(self, key: Key) -> Sequence[EnrolledFactor]:
        """See `Factor.enrolled`."""
        return [
            EnrolledFactor(
                factor=self.name,
                id=str(each.id),
                label=each.label,
                created_at=each.created_at,
                last_used_at=each.last_used_at,
            )
            for each in await self._bound.passkeys.of_user(key)
        ]

    async def remove(self, key: Key, id: str) -> bool:  # noqa: A002 - the name of the field
        """See `Factor.remove`. The last way in stays, also if two requests remove the last two passkeys at once."""
        try:
            return await self._bound.registration.remove(None, key, id) is not None
        except InvalidParams:
            return False

    async def reset(self, key: Key) -> int:
        """See `Factor.reset`."""
        return await self._bound.registration.remove_all(key)

    async def is_last_way_in(self, account: Account[I], id: str) -> bool:  # noqa: A002 - the name of the field
        """See `Factor.is_last_way_in`."""
        return await self._bound.registration.is_last_way_in(account.key, id)

    def pages(self) -> Sequence[Page]:
        """See `Factor.pages`. The list of factors leads to the page with the passkeys."""
        path = f"{self._passkeys.paths.passkeys}/add"
        return [Page(name=f"factor_{self.name}", path=path, get=_to_passkeys, messages=self.texts)]

    async def aclose(self) -> None:
        """See `Factor.aclose`."""
        await self._bound.aclose()


async def _to_passkeys(visit: PageVisit) -> PageAnswer:
    visit.auth.require_user()
    return PageAnswer(status=204, to=visit.link("passkeys"))


def _handle(challenge: Challenge) -> bytes:
    """Return the user handle of a passkey that is made during a sign-in: random, and the same for one challenge."""
    return hashlib.blake2b(challenge.nonce, digest_size=HANDLE_BYTES, person=b"powauth handle").digest()


def _text(challenge: Challenge) -> str:
    return base64.urlsafe_b64encode(challenge.nonce).rstrip(b"=").decode()
