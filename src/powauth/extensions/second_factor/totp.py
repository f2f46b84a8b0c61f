"""`Totp`: codes of an authenticator app (RFC 6238)."""

import base64
import contextlib
import copy
import secrets
from collections.abc import Callable, Collection, Mapping, Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self

from powauth._extras import needs
from powauth._options import wrong
from powauth._times import moment
from powauth.accounts.base import Account, key_of_user
from powauth.accounts.hooks import Parts
from powauth.accounts.identity import I, Key
from powauth.accounts.user_keys import user_key_text
from powauth.errors import InvalidParams, StoreMissing, StoreUnavailable
from powauth.extensions.letters import Words
from powauth.extensions.sealing import Sealer
from powauth.extensions.second_factor.enrolments import Enrolments, Pending
from powauth.extensions.second_factor.factor import (
    Challenge,
    EnrolledFactor,
    Enrolment,
    Factor,
    FactorEngine,
    session_of,
)
from powauth.extensions.second_factor.stores import TotpRecord, TotpStore
from powauth.extensions.second_factor.tables import MAX_LABEL_CHARS, SQLTotpStore, TotpMixin
from powauth.extensions.second_factor.totp_pages import TotpPages, drawn, shown
from powauth.http.guards import FRESH
from powauth.pages.page import Page
from powauth.pages.routes import is_path
from powauth.request_auth import RequestAuth
from powauth.sessions.ids import SID_BYTES

if TYPE_CHECKING:
    import pyotp

DIGITS: Final = 6
"""The digits of a code. Authenticator apps ignore other numbers, or refuse them."""

PERIOD: Final = 30
"""Seconds of a time step."""

TOLERANCE: Final = 1
"""The time steps before and after the present one whose codes are right (RFC 6238, section 5.2)."""

PENDING: Final = timedelta(minutes=10)
"""The default time for which an enrolment waits for its first code."""

MAX_CODE_CHARS: Final = 16
"""The most characters of a code, with spaces and hyphens."""

PAGE: Final = 100
"""Records that `Totp.reseal` reads at once."""

LABEL: Final = "Authenticator app"


class Totp(Factor[I]):
    """Codes of an authenticator app. A user has at most one. A new one replaces it.

    The seed is sealed in the table; see `powauth.extensions.sealing`. A code is accepted once.

    Args:
        engine: the app's ``Engine`` or ``AsyncEngine``. Or a `TotpStore`, and no ``model``.
        model: a declarative class with `TotpMixin`, whose table exists.
        issuer: the name of the app in the authenticator app. ``None`` is the title of the pages, and ``Account`` if a
            user must set the app up during the sign-in.
        pending: the time for which an enrolment waits for its first code.
        path: the path of the page to enrol.

    Raises:
        ConfigError: if an option is wrong.
        MissingExtra: if a package of the extra ``totp`` is missing.
    """

    name: ClassVar[str] = "totp"
    proves: ClassVar[frozenset[str]] = frozenset({"otp"})
    offer_template: ClassVar[str | None] = "factor_totp_offer"
    folder: ClassVar[Path | None] = Path(__file__).parent / "templates"
    texts: ClassVar[Mapping[str, str]] = {
        "factor_totp": "Authenticator app",
        "factor_totp_code": "Code of the app",
        "factor_totp_action": "Continue",
        "factor_totp_add": "Set up an authenticator app",
        "factor_totp_replaces": "You have an authenticator app already. The new one replaces it.",
        "factor_totp_intro": "An app on your phone shows a code that changes every half a minute. "
        "You enter it after your password.",
        "factor_totp_begin": "Show the QR code",
        "factor_totp_scan": "Scan this code with the app. Or enter the key by hand:",
        "factor_totp_qr": "QR code for an authenticator app",
        "factor_totp_key": "Key",
        "factor_totp_label": "Name of the app or the phone (optional)",
        "factor_totp_confirm": "Now enter the code that the app shows.",
        "factor_totp_confirm_action": "Turn it on",
        "factor_totp_again": "This took too long. Begin again.",
    }

    parts: Parts[I]
    engine: FactorEngine[I]
    _enrolments: Enrolments[I]
    _sealer: Sealer

    def __init__(
        self,
        engine: object,
        model: type[TotpMixin] | None = None,
        *,
        issuer: str | None = None,
        pending: timedelta = PENDING,
        path: str = "/account/factors/totp",
    ) -> None:
        with needs("totp", "Totp", "pyotp", "segno", "cryptography"):
            import cryptography
            import pyotp
            import segno

        del cryptography, pyotp, segno
        if isinstance(engine, TotpStore):
            if model is not None:
                raise wrong("the model of Totp", "omitted, because the first argument is a TotpStore", model)
            self.store: TotpStore = engine
        elif model is None:
            raise wrong("the model of Totp", "a declarative class with TotpMixin", model)
        else:
            self.store = SQLTotpStore(engine, model)
        if issuer is not None and (not issuer or ":" in issuer):
            raise wrong("issuer", "a name without a colon", issuer)
        if not is_path(path):
            raise wrong("the path of Totp", "a path such as '/account/factors/totp'", path)
        self.issuer: Final = issuer
        self.path: Final = path
        self._pending: Final = pending

    def bind(self, parts: Parts[I], engine: FactorEngine[I]) -> Self:
        """See `Factor.bind`."""
        bound = copy.copy(self)
        bound.parts, bound.engine = parts, engine
        self.store.bind(parts.users)
        bound._enrolments = Enrolments(parts, "second_factor.totp", self._pending)
        bound._sealer = Sealer(parts.keyring, "totp")
        return bound

    # --- the interface ------------------------------------------------------------------------------------------------

    async def is_on(self, key: Key) -> bool:
        """See `Factor.is_on`."""
        return await self.store.get(user_key_text(key)) is not None

    async def verify(
        self, account: Account[I], challenge: Challenge, params: Mapping[str, object], request: Any
    ) -> Collection[str] | None:
        """See `Factor.verify`."""
        del challenge, request
        code, user = digits_in(params.get("code")), user_key_text(account.key)
        record = await self.store.get(user)
        if record is None:
            return None
        seed = self._sealer.open(record.seed, _row(user, record.id))
        step = self._step_of(seed, code)
        if step is None or not await self.store.accept(user, record.id, step, moment(self.parts.now())):
            return None
        if not self._sealer.is_current(record.seed):
            with contextlib.suppress(StoreUnavailable):  # the next use seals it again
                await self._reseal(user, record)
        return self.proves

    async def enrolled(self, key: Key) -> Sequence[EnrolledFactor]:
        """See `Factor.enrolled`."""
        found = await self.store.get(user_key_text(key))
        if found is None:
            return []
        entry = EnrolledFactor(
            factor=self.name,
            id=found.id,
            label=found.label,
            created_at=found.created_at,
            last_used_at=found.last_used_at,
        )
        return [entry]

    async def remove(self, key: Key, id: str) -> bool:  # noqa: A002
        """See `Factor.remove`."""
        await self._enrolments.end(key)
        return await self.store.delete(user_key_text(key), id)

    async def reset(self, key: Key) -> int:
        """See `Factor.reset`."""
        await self._enrolments.end(key)
        return int(await self.store.delete(user_key_text(key)))

    async def credentials_changed(self, key: Key, why: str) -> None:
        """See `Factor.credentials_changed`."""
        del why
        await self._enrolments.end(key)

    def pages(self) -> Sequence[Page]:
        """See `Factor.pages`."""
        return TotpPages(self, self.texts, self.path, self.issuer).pages()

    # --- the first factor, during a sign-in ---------------------------------------------------------------------------

    async def offer(self, account: Account[I], challenge: Challenge) -> Mapping[str, object]:
        """See `Factor.offer`. ``svg`` is the QR code."""
        bound_to = challenge.name.encode()
        pending = await self._enrolments.find(account, bound_to) or await self._enrolments.begin(account, bound_to)
        if pending is None:
            raise StoreUnavailable("the user's sessions were revoked meanwhile; try again")
        user_id = getattr(account.identity, self.parts.users.user_id_field, "")
        uri = self.uri(pending.seed, account=str(user_id), issuer=self.issuer or "Account")
        return {**shown(pending.seed, uri), "svg": drawn(uri, self.texts["factor_totp_qr"])}

    async def turn_on(
        self, account: Account[I], challenge: Challenge, params: Mapping[str, object]
    ) -> Enrolment | None:
        """See `Factor.turn_on`."""
        label, code = checked_label(params.get("label")), digits_in(params.get("code"))
        pending = await self._enrolments.find(account, challenge.name.encode())
        return None if pending is None else self._enrolment(account, pending, code, label, replaces=False)

    # --- enrolling ----------------------------------------------------------------------------------------------------

    async def begin(self, bound: RequestAuth[Any, I], within: timedelta = FRESH) -> Pending:
        """Begin an enrolment for the signed-in user, who must be fresh, and return the seed. It ends an older one.

        ``within`` is the maximum age of the sign-in.

        Raises:
            NotSignedIn: if nobody is signed in by a session, or the user is gone.
            NotFresh: if the sign-in is too old.
            StoreUnavailable: if a store cannot be reached.
        """
        account = await self.engine.check_fresh(bound, within)
        begun = await self._enrolments.begin(account, session_of(bound))
        if begun is None:
            raise StoreUnavailable("the user's sessions were revoked meanwhile; try again")
        return begun

    async def pending(self, bound: RequestAuth[Any, I], within: timedelta = FRESH) -> Pending | None:
        """Return the enrolment that this session has begun; ``None`` if none is valid.

        Raises:
            NotSignedIn: see `begin`.
            NotFresh: see `begin`.
            StoreUnavailable: see `begin`.
        """
        account = await self.engine.check_fresh(bound, within)
        return await self._enrolments.find(account, session_of(bound))

    async def confirm(
        self,
        bound: RequestAuth[Any, I],
        code: object,
        label: object = None,
        words: Words | None = None,
        within: timedelta = FRESH,
    ) -> bool:
        """Turn the app on, if the code is right. Return whether there was an enrolment. See `FactorEngine.enrol`.

        Raises:
            InvalidParams: if the code is wrong (``code``), or the label cannot be used (``label``).
            NotSignedIn: see `begin`.
            NotFresh: see `begin`.
            StoreUnavailable: see `begin`.
        """
        name = checked_label(label)
        account = await self.engine.check_fresh(bound, within)
        pending = await self._enrolments.find(account, session_of(bound))
        if pending is None:
            return False
        enrolment = self._enrolment(account, pending, digits_in(code), name, replaces=True)
        if enrolment is None:
            raise InvalidParams({"code": ["is wrong"]})
        return await self.engine.enrol(bound, self, enrolment, words)

    async def enrolled_by(self, bound: RequestAuth[Any, I], within: timedelta = FRESH) -> EnrolledFactor | None:
        """Return the app of the signed-in user, who must be fresh. It raises the errors of `begin`."""
        account = await self.engine.check_fresh(bound, within)
        return next(iter(await self.enrolled(account.key)), None)

    @staticmethod
    def uri(seed: bytes, *, account: str, issuer: str) -> str:
        """Return the address that an authenticator app reads from the QR code. It holds the seed."""
        return _otp(seed).provisioning_uri(name=account, issuer_name=issuer.replace(":", " "))

    # --- for the app's own code ---------------------------------------------------------------------------------------

    async def adopt(
        self, user: object, seed: str | bytes, *, label: str = LABEL, created_at: datetime | None = None, step: int = -1
    ) -> bool:
        """Take over a seed from another library, for a user who has no app here. Return whether that was done.

        It ends no session, and mails no notice. Run it before the app asks for second factors.

        Args:
            user: an identity, a row, an account, or a key.
            seed: the seed: bytes, or its text in Base32. Its codes must be of SHA-1, 6 digits and 30 seconds.
            label: the name of the app.
            created_at: when it was enrolled, as an aware time. ``None`` is now.
            step: the time step of the last code that the other library accepted, if it is known.

        Raises:
            ConfigError: if ``user`` is no user, or the seed has under 112 bits or is no Base32.
            InvalidParams: if the label cannot be used.
            StoreUnavailable: if the store cannot be reached.
        """
        key = key_of_user(self.parts.users, user)
        raw = seed if isinstance(seed, bytes) else _decoded(seed)
        try:
            _otp(raw)
        except ValueError as error:
            raise wrong("the seed", "of at least 112 bits, in Base32", "a value that is not") from error
        record = self._record(key, secrets.token_urlsafe(SID_BYTES), raw, checked_label(label), step)
        if created_at is not None:
            record = TotpRecord(
                id=record.id, label=record.label, seed=record.seed, step=record.step, created_at=created_at
            )
        return await self.store.add(user_key_text(key), record)

    async def reseal(self, told: Callable[[int], None] | None = None) -> int:
        """Seal all seeds with the newest secret, and return how many were changed.

        Run it after a rotation of ``secret_key``, before the old secret is dropped. Seeds in use are sealed again by
        themselves. ``told`` gets the number so far after each page of the table.

        Raises:
            StoreMissing: if seeds were sealed with a secret that is gone. All others are sealed again.
            StoreUnavailable: if the store cannot be reached.
        """
        after, changed, lost = None, 0, 0
        why: StoreMissing | None = None
        while found := await self.store.page(after, PAGE):
            for user, record in found:
                after = user
                if self._sealer.is_current(record.seed):
                    continue
                try:
                    changed += await self._reseal(user, record)
                except StoreMissing as error:
                    lost, why = lost + 1, error
            if told is not None:
                told(changed)
        if why is not None:
            raise StoreMissing(
                f"{lost} of the seeds of authenticator apps cannot be opened, {changed} were sealed: {why}"
            )
        return changed

    # --- inside -------------------------------------------------------------------------------------------------------

    def _enrolment(
        self, account: Account[I], pending: Pending, code: str, label: str, *, replaces: bool
    ) -> Enrolment | None:
        """Return what turns an app on; ``None`` if the code is wrong. The code cannot be used again to sign in.

        Without ``replaces`` it writes nothing if the user has an app by then: the user has proven only the password.
        """
        step = self._step_of(pending.seed, code)
        if step is None:
            return None
        record, user = self._record(account.key, pending.id, pending.seed, label, step), user_key_text(account.key)
        replaced: list[TotpRecord] = []

        async def write() -> bool:
            if not await self._enrolments.take(pending):
                return False
            if not replaces:
                return await self.store.add(user, record)
            before = await self.store.get(user)
            replaced.extend([] if before is None else [before])
            await self.store.put(user, record)
            return True

        async def undo() -> None:
            if await self.store.delete(user, record.id) and replaced:
                await self.store.put(user, replaced[0])

        return Enrolment(label, self.proves, write, undo)

    def _record(self, key: Key, identifier: str, seed: bytes, label: str, step: int) -> TotpRecord:
        sealed = self._sealer.seal(seed, _row(user_key_text(key), identifier))
        return TotpRecord(id=identifier, label=label, seed=sealed, step=step, created_at=moment(self.parts.now()))

    async def _reseal(self, user: str, record: TotpRecord) -> bool:
        row = _row(user, record.id)
        sealed = self._sealer.seal(self._sealer.open(record.seed, row), row)
        return await self.store.reseal(user, record.id, record.seed, sealed)

    def _step_of(self, seed: bytes, code: str) -> int | None:
        """Return the time step of a code, near the present one; ``None`` if the code is wrong."""
        from pyotp import OTPVerificationError

        try:
            return _otp(seed).verify_and_get_timecode(code, for_time=self.parts.now() // 1000, valid_window=TOLERANCE)
        except (OTPVerificationError, ValueError):
            return None


def digits_in(value: object) -> str:
    """Return the code in what a client sends, without spaces and hyphens.

    >>> digits_in("123 456")
    '123456'

    Raises:
        InvalidParams: if it is blank, or cannot be a code. Nothing was guessed then.
    """
    if value is None or value == "":
        raise InvalidParams({"code": ["can't be blank"]})
    text = value if isinstance(value, str) and len(value) <= MAX_CODE_CHARS else ""
    code = text.replace(" ", "").replace("-", "")
    if len(code) != DIGITS or not code.isascii() or not code.isdigit():
        raise InvalidParams({"code": ["is invalid"]})
    return code


def checked_label(value: object) -> str:
    """Return the name that a user gives a factor; a default if there is none.

    Raises:
        InvalidParams: if it is too long, or not printable.
    """
    if value is None or value == "":
        return LABEL
    text = " ".join(value.split()) if isinstance(value, str) else ""
    if not text or len(text) > MAX_LABEL_CHARS or not text.isprintable():
        raise InvalidParams({"label": ["is invalid"]})
    return text


def _otp(seed: bytes) -> "pyotp.TOTP":
    import pyotp

    return pyotp.TOTP(base64.b32encode(seed).decode().rstrip("="), digits=DIGITS, interval=PERIOD)


def _decoded(text: str) -> bytes:
    plain = text.replace(" ", "").replace("-", "").upper().rstrip("=")
    try:
        return base64.b32decode(plain + "=" * (-len(plain) % 8))
    except ValueError:
        raise wrong("the seed", "a text in Base32", "a text that is not") from None


def _row(user: str, identifier: str) -> str:
    return f"{user} {identifier}"
