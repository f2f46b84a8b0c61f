"""`Registration`: the flows in which a user adds, renames and removes passkeys."""

import secrets
import unicodedata
import uuid
from typing import Any, Final, Generic, Protocol

from powauth._running import shielded
from powauth._times import moment
from powauth.accounts.base import Account
from powauth.accounts.grant import Grant
from powauth.accounts.hooks import Parts, Step
from powauth.accounts.identity import I, Key
from powauth.errors import InvalidParams, NotSignedIn
from powauth.extensions.passkeys.answers import CeremonyFailed, registration_in
from powauth.extensions.passkeys.authentication import ONE_DEVICE, SYNCED
from powauth.extensions.passkeys.ceremonies import HANDLE_BYTES, NewCredential, RelyingParty
from powauth.extensions.passkeys.challenges import Challenges
from powauth.extensions.passkeys.events import ADDED, REFUSED, REMOVED
from powauth.extensions.passkeys.letters import Post
from powauth.extensions.passkeys.table import MAX_LABEL_CHARS, StoredPasskey
from powauth.extensions.passkeys.user_passkeys import UserPasskeys

TOO_MANY: Final = "has the maximum number of passkeys: remove one first"
TAKEN: Final = "has already been registered"
INVALID: Final = "is invalid"
CHANGED: Final = "the account was changed: sign in again"
LAST_WAY: Final = "is the last way to sign in: set a password or add another passkey first"


class OwnSession(Protocol):
    """The part of the authenticator that knows the session of a request."""

    def is_current(self, request: Any, account: Account[Any]) -> bool:
        """See `powauth.accounts.sign_in_port.SignInPort.is_current`."""
        ...

    async def recheck(self, connection: Any) -> bool:
        """See `powauth.plug.Authenticator.recheck`."""
        ...


class Registration(Generic[I]):
    """Adds, renames and removes passkeys.

    Args:
        parts: the parts of the authenticator.
        passkeys: the passkeys.
        party: the site.
        challenges: the challenges.
        post: sends notices; ``None`` sends none.
        most: the most passkeys of a user.

    Attributes:
        challenges: the challenges.
    """

    def __init__(
        self,
        parts: Parts[I],
        passkeys: UserPasskeys[I],
        party: RelyingParty,
        challenges: Challenges,
        post: Post | None,
        *,
        most: int,
    ) -> None:
        self._parts: Final = parts
        self._passkeys: Final = passkeys
        self._party: Final = party
        self.challenges: Final = challenges
        self._post: Final = post
        self._most: Final = most

    # --- adding -------------------------------------------------------------------------------------------------------

    async def begin(self, request: Any, key: Key, user_id: str) -> dict[str, Any]:
        """Return the options with which a browser makes a passkey.

        Args:
            request: the request, whose response gets the cookie.
            key: the key of the user who is signed in.
            user_id: the user id, which browsers show beside the passkey.

        Raises:
            InvalidParams: if the user has the maximum number of passkeys (``base``).
            Throttled: if the source has asked too often.
            StoreUnavailable: if the store or the database cannot be reached.
        """
        own = await self._passkeys.of_user(key)
        if len(own) >= self._most:
            raise InvalidParams({"base": [TOO_MANY]})
        handle = own[0].user_handle if own else secrets.token_bytes(HANDLE_BYTES)
        challenge = await self.challenges.issue(request, "register", key, handle)
        return self._party.creation_options(challenge, handle, user_id, [each.credential for each in own])

    async def add(self, auth: OwnSession, request: Any, key: Key, answer: object, label: str) -> StoredPasskey:
        """Add a passkey that a browser has made, and return it. Two parallel calls may exceed the limit by one.

        The user's other sessions end. powauth renews the session of the request, and adds the methods of the new
        passkey to it. If that session has ended meanwhile, or the account was changed, powauth removes the passkey. If
        the client disconnects, the call still completes.

        Raises:
            InvalidParams: if the answer is not valid (``credential``), or there are too many passkeys (``base``).
            NotSignedIn: if the session has ended, or the user is gone or was changed meanwhile.
            StoreUnavailable: if the store or the database cannot be reached.
        """
        return await shielded(self._add(auth, request, key, answer, label))

    async def _add(self, auth: OwnSession, request: Any, key: Key, answer: object, label: str) -> StoredPasskey:
        try:
            given = registration_in(answer)
            challenge = await self.challenges.find(request, given.challenge, "register")
            if challenge is None or challenge.key != key:
                raise CeremonyFailed("challenge")
            new = self._party.check_registration(given)
            account, born = await self._passkeys.account(key)
            if account is None or not auth.is_current(request, account):
                raise NotSignedIn(CHANGED)
            if len(await self._passkeys.of_user(key)) >= self._most:
                raise InvalidParams({"base": [TOO_MANY]})
            if not await self.challenges.take(given.challenge, "register"):
                raise CeremonyFailed("challenge")
        except CeremonyFailed as error:
            self._parts.emit(REFUSED, key, error.reason, request=request)
            raise InvalidParams({"credential": [INVALID]}) from None
        now = moment(self._parts.now())
        added = await self._passkeys.call(
            lambda: self._passkeys.table.add(key, born, challenge.handle, new, label, now)
        )
        if added is None:
            self._parts.emit(REFUSED, key, "registered already", request=request)
            raise InvalidParams({"credential": [TAKEN]})
        self._parts.emit(ADDED, key, request=request)
        renewed = False
        try:
            renewed = await self._renewed(auth, request, account, SYNCED if new.backed_up else ONE_DEVICE)
        finally:
            if not renewed:
                await self.take_back(key, added, request)
        if not renewed:
            await self._parts.end_sessions(key, "the account was changed")
            raise NotSignedIn(CHANGED)
        await self._notify("added", account, added)
        return added

    async def _renewed(self, auth: OwnSession, request: Any, account: Account[I], methods: tuple[str, ...]) -> bool:
        """Renew the session of a user who has added a passkey, and end all others, which somebody else may hold.

        Return false if the user is gone or was changed meanwhile.

        Raises:
            NotSignedIn: if the session of the request has ended.
            StoreUnavailable: if another session may still be live.
        """
        proven = self._parts.proven_methods(request, account.key) or {}
        grant = Grant(amr={**proven, **dict.fromkeys(methods)}, same_proof=True)
        request.states[self] = auth
        try:
            if await self._parts.sign_in(request, account, grant) is None:
                return False
        finally:
            del request.states[self]
        await self._parts.end_sessions(account.key, "passkey added", keep=request)
        return True

    async def before_sign_in(self, step: Step[I]) -> None:
        """Check that the session that adds a passkey is still live, before powauth renews it.

        powauth has already read the epoch of the user's sessions. So if the session ends after this check, powauth does
        not renew it either.

        Raises:
            NotSignedIn: if it has ended.
        """
        auth: OwnSession | None = step.request.states.get(self) if step.request is not None else None
        if auth is not None and not await auth.recheck(step.request):
            raise NotSignedIn("the session has ended: sign in again")

    # --- the first passkey, during a sign-in --------------------------------------------------------------------------

    def offer(self, user_id: str, challenge: str, handle: bytes) -> dict[str, Any]:
        """Return the options with which a user makes the first passkey during a sign-in."""
        return self._party.creation_options(challenge, handle, user_id, [])

    def check_offer(self, key: Key, answer: object, challenge: str) -> NewCredential:
        """Check the first passkey that a user makes during a sign-in.

        Raises:
            CeremonyFailed: if it is not valid. An event has the reason.
        """
        try:
            given = registration_in(answer)
            if given.challenge != challenge:
                raise CeremonyFailed("challenge")
            return self._party.check_registration(given)
        except CeremonyFailed as error:
            self._parts.emit(REFUSED, key, error.reason)
            raise

    async def write_offer(self, key: Key, new: NewCredential, handle: bytes, label: str) -> StoredPasskey | None:
        """Store a passkey that `check_offer` returned. Return ``None`` if somebody has registered it already.

        Raises:
            StoreUnavailable: if the database cannot be reached.
        """
        account, born = await self._passkeys.account(key)
        now = moment(self._parts.now())
        added = await self._passkeys.call(lambda: self._passkeys.table.add(key, born, handle, new, label, now))
        if added is None:
            self._parts.emit(REFUSED, key, "registered already")
            return None
        self._parts.emit(ADDED, key)
        await self._notify("added", account, added)
        return added

    async def take_back(self, key: Key, passkey: StoredPasskey, request: Any = None) -> None:
        """Remove a passkey that was just stored, because the sign-in with it has failed.

        Raises:
            StoreUnavailable: if the database cannot be reached.
        """
        if await self._passkeys.call(lambda: self._passkeys.table.remove(key, passkey.id, keep_one=False)) is not None:
            self._parts.emit(REMOVED, key, request=request)

    # --- renaming and removing ----------------------------------------------------------------------------------------

    async def rename(self, key: Key, name: object, label: str) -> bool:
        """Change the label of a user's passkey. Return whether the user has it.

        Raises:
            StoreUnavailable: if the database cannot be reached.
        """
        wanted = name_in(name)
        return wanted is not None and await self._passkeys.call(lambda: self._passkeys.table.rename(key, wanted, label))

    async def is_last_way_in(self, key: Key, name: object) -> bool:
        """Return whether a user could not sign in at all without a passkey: there is no other, and no password.

        Raises:
            StoreUnavailable: if the database cannot be reached.
        """
        own = await self._passkeys.of_user(key)
        return [str(each.id) for each in own] == [name] and not await self._parts.users.has_password(key)

    async def remove(self, request: Any, key: Key, name: object) -> StoredPasskey | None:
        """Remove a passkey of a user and return it; ``None`` if the user does not have it. End sessions afterwards.

        Raises:
            InvalidParams: if it is the user's last way to sign in (``base``).
            StoreUnavailable: if the database cannot be reached.
        """
        wanted = name_in(name)
        if wanted is None or wanted not in [each.id for each in await self._passkeys.of_user(key)]:
            return None
        keep_one = not await self._parts.users.has_password(key)
        removed = await self._passkeys.call(lambda: self._passkeys.table.remove(key, wanted, keep_one=keep_one))
        if removed is None:
            if keep_one:
                raise InvalidParams({"base": [LAST_WAY]})
            return None
        self._parts.emit(REMOVED, key, request=request)
        account, _ = await self._passkeys.account(key)
        await self._notify("removed", account, removed)
        return removed

    async def remove_all(self, key: Key, *, by: Key | None = None, request: Any = None) -> int:
        """Remove all passkeys of a user. Return how many there were. End the sessions afterwards.

        Raises:
            StoreUnavailable: if the database cannot be reached, or a challenge may still be valid.
        """
        own = await self._passkeys.call(lambda: self._passkeys.table.of_user(key))
        removed = await self._passkeys.call(lambda: self._passkeys.table.remove_all(key))
        for _ in range(removed):
            self._parts.emit(REMOVED, key, request=request, actor=by)
        await self.challenges.end(key)
        account, _ = await self._passkeys.account(key)
        for each in own:
            await self._notify("removed", account, each)
        return removed

    # --- users who are gone -------------------------------------------------------------------------------------------

    async def forget(self, key: Key) -> None:
        """Remove the passkeys of a user who is gone, and end all challenges of the user.

        Raises:
            StoreUnavailable: if anything may still be valid.
        """
        try:
            await self.challenges.end(key)
        finally:
            if await self._parts.users.get(key) is None:
                await self.clear(key)

    async def clear(self, key: Key) -> None:
        """Remove all passkeys of a key, whoever has made them.

        Raises:
            StoreUnavailable: if the database cannot be reached.
        """
        await self._passkeys.call(lambda: self._passkeys.table.remove_all(key))

    async def _notify(self, kind: str, account: Account[I] | None, passkey: StoredPasskey) -> None:
        if self._post is not None and account is not None:
            await self._post.send(kind, account, passkey.label)


def name_in(value: object) -> uuid.UUID | None:
    """Return the name of a passkey in what a client sends."""
    try:
        return uuid.UUID(value) if isinstance(value, str) else None
    except ValueError:
        return None


def label_in(value: object, default: str) -> str:
    """Return the label of a passkey in what a client sends. A blank one is the default.

    Raises:
        InvalidParams: if it is no text, is too long, or has control characters (``label``).
    """
    if value is None:
        value = ""
    if not isinstance(value, str):
        raise InvalidParams({"label": [INVALID]})
    label = value.strip()
    if len(label) > MAX_LABEL_CHARS:
        raise InvalidParams({"label": [f"is too long: the maximum is {MAX_LABEL_CHARS} characters"]})
    if any(map(_is_hidden, label)):
        raise InvalidParams({"label": [INVALID]})
    return label or "".join(each for each in default if not _is_hidden(each))[:MAX_LABEL_CHARS].strip()


def _is_hidden(character: str) -> bool:
    """Return whether a character is no part of a visible line, such as a line break or a mark of direction."""
    return unicodedata.category(character) in ("Cc", "Cf", "Cs", "Zl", "Zp")
