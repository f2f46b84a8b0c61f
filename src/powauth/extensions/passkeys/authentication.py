"""`Authentication`: the flows in which somebody uses a passkey: to sign in, to confirm, or as a second factor."""

from collections.abc import Sequence
from typing import Any, Final, Generic, NamedTuple

from powauth._times import moment
from powauth.accounts.base import Account
from powauth.accounts.grant import Grant
from powauth.accounts.hooks import Parts, Step
from powauth.accounts.identity import I, Key
from powauth.errors import InvalidParams, Refused
from powauth.extensions.passkeys.answers import Assertion, CeremonyFailed, assertion_in
from powauth.extensions.passkeys.ceremonies import RelyingParty, Use
from powauth.extensions.passkeys.challenges import USES, Challenges
from powauth.extensions.passkeys.events import COUNTER, REFUSED, USED
from powauth.extensions.passkeys.table import StoredPasskey
from powauth.extensions.passkeys.user_passkeys import UserPasskeys

NO_PASSKEY: Final = "has no passkey"

SYNCED: Final = ("swk", "user", "mfa")
"""The methods that the use of a synced passkey proves (RFC 8176): a key in software, and a verified user.

That is two factors: something that the user has, and something that the user knows or is."""

ONE_DEVICE: Final = ("hwk", "user", "mfa")
"""The methods that the use of a passkey on one device proves."""


def methods_of(use: Use) -> tuple[str, ...]:
    """Return what the use of a passkey proves (RFC 8176)."""
    return SYNCED if use.backed_up else ONE_DEVICE


class Proof(NamedTuple):
    """A valid proof that somebody has a passkey, whose challenge is used up.

    Attributes:
        passkey: the passkey.
        use: the state of the authenticator.
        account: the account of its user.
        purpose: ``sign_in`` or ``confirm``.
    """

    passkey: StoredPasskey
    use: Use
    account: Account[Any]
    purpose: str


class Authentication(Generic[I]):
    """Uses passkeys.

    Args:
        parts: the parts of the authenticator.
        passkeys: the passkeys.
        party: the site.
        challenges: the challenges.
    """

    def __init__(self, parts: Parts[I], passkeys: UserPasskeys[I], party: RelyingParty, challenges: Challenges) -> None:
        self._parts: Final = parts
        self._passkeys: Final = passkeys
        self._party: Final = party
        self._challenges: Final = challenges

    # --- signing in and confirming ------------------------------------------------------------------------------------

    async def ask(self, request: Any, key: Key | None) -> dict[str, Any]:
        """Return the options with which a browser uses a passkey.

        If nobody is signed in, they are the same for everybody. They reveal no account.

        Args:
            request: the request, whose response gets the cookie.
            key: the key of the signed-in user who confirms their identity; ``None`` for a sign-in.

        Raises:
            InvalidParams: if this user has no passkey.
            Throttled: if the source has asked too often.
            StoreUnavailable: if the store or the database cannot be reached.
        """
        if key is None:
            return self._party.request_options(await self._challenges.issue(request, "sign_in"))
        own = await self._passkeys.of_user(key)
        if not own:
            raise InvalidParams({"base": [NO_PASSKEY]})
        challenge = await self._challenges.issue(request, "confirm", key)
        return self._party.request_options(challenge, [each.credential for each in own])

    async def prove(self, request: Any, answer: object, key: Key | None) -> Proof:
        """Check the answer of a browser that used a passkey, and use up its challenge.

        Of any number of parallel calls with one answer, exactly one succeeds.

        Args:
            request: the request.
            answer: the answer, which may be anything that a client sends.
            key: the key of the user who is signed in. The passkey must be one of this user: otherwise somebody at an
                open browser could confirm with a passkey of their own.

        Raises:
            CeremonyFailed: if it is not valid. An event has the reason.
            Throttled: if the source has answered too often. Otherwise anybody could fill a log with refusals.
            StoreUnavailable: if the store or the database cannot be reached.
        """
        await self._challenges.admit_answer(request)
        try:
            return await self._checked_answer(request, answer, key)
        except CeremonyFailed as error:
            self._parts.emit(REFUSED, key, error.reason, request=request)
            raise

    async def _checked_answer(self, request: Any, answer: object, key: Key | None) -> Proof:
        given = assertion_in(answer)
        challenge = await self._challenges.find(request, given.challenge, *USES)
        if challenge is None:
            raise CeremonyFailed("challenge")
        if challenge.key is not None and challenge.key != key:
            raise CeremonyFailed("another session")
        passkey, use = await self._checked(given, discovered=challenge.purpose == "sign_in")
        if key is not None and passkey.key != key:
            raise CeremonyFailed("passkey of another user")
        account = await self._passkeys.owner(passkey)
        if not await self._challenges.take(given.challenge, challenge.purpose):
            raise CeremonyFailed("challenge")
        proof = Proof(passkey, use, account, challenge.purpose)
        self._compare(request, proof)
        return proof

    async def sign_in(self, request: Any, proof: Proof, *, remember: bool | None = None) -> I:
        """Begin a session for the user of a proof, and return the identity.

        Raises:
            CeremonyFailed: if the user is gone or locked, or the passkey was removed meanwhile.
            Refused: if a hook or another extension refuses it. `MoreNeeded` is one of them.
            StoreUnavailable: if the session was not made.
        """
        grant = Grant(remember=remember, amr=dict.fromkeys(methods_of(proof.use)))
        request.states[self] = proof
        try:
            identity = await self._parts.sign_in(request, proof.account, grant)
        finally:
            del request.states[self]
        if identity is None:
            self._parts.emit(REFUSED, proof.account.key, "account", request=request)
            raise CeremonyFailed("account")
        self._parts.emit(USED, proof.account.key, proof.purpose, request=request)
        return identity

    async def before_sign_in(self, step: Step[I]) -> None:
        """Note the use of the passkey with which a session is about to begin.

        powauth has already read the epoch of the user's sessions. A removal deletes the passkey and then advances the
        epoch. So either this finds no passkey, or the epoch has changed and the session does not begin.

        Raises:
            Refused: if the passkey was removed meanwhile.
        """
        proof = step.request.states.get(self) if step.request is not None else None
        if proof is not None and not await self.note(proof):
            raise Refused("the passkey was removed")

    async def note(self, proof: Proof) -> bool:
        """Note a use of a passkey. Return whether it still exists.

        Raises:
            StoreUnavailable: if the database cannot be reached.
        """
        now = moment(self._parts.now())
        return await self._passkeys.call(lambda: self._passkeys.table.used(proof.passkey, proof.use, now))

    # --- as a second factor -------------------------------------------------------------------------------------------

    def factor_options(self, own: Sequence[StoredPasskey], challenge: str) -> dict[str, Any]:
        """Return the options with which a browser uses one of a user's passkeys as a second factor."""
        return self._party.request_options(challenge, [each.credential for each in own])

    async def check_factor(self, request: Any, answer: object, account: Account[I], challenge: str) -> tuple[str, ...]:
        """Check the answer of a browser that used a passkey as a second factor. Return what it proves.

        The caller has issued the challenge to this user, and uses it up afterwards.

        Raises:
            CeremonyFailed: if it is not valid. An event has the reason.
            StoreUnavailable: if the database cannot be reached.
        """
        try:
            given = assertion_in(answer)
            if given.challenge != challenge:
                raise CeremonyFailed("challenge")
            passkey, use = await self._checked(given, discovered=False)
            if passkey.key != account.key:
                raise CeremonyFailed("passkey of another user")
            await self._passkeys.owner(passkey)
            proof = Proof(passkey, use, account, "second_factor")
            if not await self.note(proof):
                raise CeremonyFailed("unknown passkey")
        except CeremonyFailed as error:
            self._parts.emit(REFUSED, account.key, error.reason, request=request)
            raise
        self._compare(request, proof)
        self._parts.emit(USED, account.key, proof.purpose, request=request)
        return methods_of(proof.use)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _compare(self, request: Any, proof: Proof) -> None:
        """Report a counter that has not grown. Synced passkeys have none, and always report 0."""
        before, now = proof.passkey.sign_count, proof.use.sign_count
        if now <= before and (now or before):
            self._parts.emit(COUNTER, proof.account.key, request=request)

    async def _checked(self, given: Assertion, *, discovered: bool) -> tuple[StoredPasskey, Use]:
        """Return the passkey that a proof names, if the proof is valid."""
        passkey = await self._passkeys.call(lambda: self._passkeys.table.find(given.credential_id))
        if passkey is None:
            raise CeremonyFailed("unknown passkey")
        return passkey, self._party.check_assertion(given, passkey.credential, discovered=discovered)
