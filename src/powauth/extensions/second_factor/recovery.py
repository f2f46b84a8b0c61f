"""`RecoveryCodes`: codes for users who have lost their factor."""

import base64
import copy
import hashlib
import secrets
from collections.abc import Collection, Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar, Final, Self

from powauth._options import whole_number, wrong
from powauth._times import moment
from powauth.accounts.base import Account
from powauth.accounts.hooks import Parts
from powauth.accounts.identity import I, Key
from powauth.accounts.user_keys import user_key_text
from powauth.errors import InvalidParams, NotSignedIn, Refused
from powauth.extensions.letters import Words, words_of
from powauth.extensions.second_factor.events import ENROLLED, RECOVERED
from powauth.extensions.second_factor.factor import Challenge, EnrolledFactor, Factor, FactorEngine, fresh_in
from powauth.extensions.second_factor.stores import RecoveryCodeStore
from powauth.extensions.second_factor.tables import RecoveryCodeMixin, SQLRecoveryCodeStore
from powauth.http.guards import FRESH
from powauth.pages.page import Page
from powauth.pages.routes import is_path
from powauth.pages.visit import PageAnswer, PageVisit
from powauth.request_auth import RequestAuth

CODES: Final = 10
"""The default number of codes."""

MAX_CODES: Final = 100

CODE_BYTES: Final = 10
"""80 random bits. Nobody can guess that, not even offline, so a fast hash is enough."""

CODE_CHARS: Final = 16

MAX_TYPED_CHARS: Final = 64
"""The most characters of a code, with spaces and hyphens."""

ENTRY: Final = "codes"
"""The id of all codes of a user, in the list of factors."""

_LOOK_ALIKES: Final = str.maketrans("018", "OIB")
"""Digits that no code has, and the letters for which people read them."""


class RecoveryCodes(Factor[I]):
    """Codes that replace a lost factor, each once. The user keeps them on paper or in a password manager.

    powauth shows the codes once. The table has hashes.

    Args:
        engine: the app's ``Engine`` or ``AsyncEngine``. Or a `RecoveryCodeStore`, and no ``model``.
        model: a declarative class with `RecoveryCodeMixin`, whose table exists.
        number: the number of codes.
        path: the path of the page to make new ones.

    Raises:
        ConfigError: if an option is wrong.
    """

    name: ClassVar[str] = "recovery_code"
    primary: ClassVar[bool] = False
    proves: ClassVar[frozenset[str]] = frozenset({"recovery"})
    folder: ClassVar[Path | None] = Path(__file__).parent / "templates"
    texts: ClassVar[Mapping[str, str]] = {
        "factor_recovery_code": "Recovery code",
        "factor_recovery_codes": "Recovery codes",
        "factor_recovery_code_code": "One of your recovery codes",
        "factor_recovery_code_action": "Use the code",
        "factor_recovery_code_add": "Make recovery codes",
        "factor_recovery_code_intro": "With a recovery code you can sign in if you lose your phone or key. "
        "Each code works once.",
        "factor_recovery_code_ends": "New codes replace the earlier ones, which no longer work.",
        "factor_recovery_code_make": "Make new codes",
        "factor_recovery_code_keep": "Print these codes, or put them into a password manager. "
        "They are not shown again.",
        "factor_recovery_code_needs": "Set up another factor first. Recovery codes replace one that is lost.",
    }

    parts: Parts[I]
    engine: FactorEngine[I]

    def __init__(
        self,
        engine: object,
        model: type[RecoveryCodeMixin] | None = None,
        *,
        number: int = CODES,
        path: str = "/account/factors/recovery",
    ) -> None:
        if isinstance(engine, RecoveryCodeStore):
            if model is not None:
                raise wrong(
                    "the model of RecoveryCodes", "omitted, because the first argument is a RecoveryCodeStore", model
                )
            self.store: RecoveryCodeStore = engine
        elif model is None:
            raise wrong("the model of RecoveryCodes", "a declarative class with RecoveryCodeMixin", model)
        else:
            self.store = SQLRecoveryCodeStore(engine, model)
        if not is_path(path):
            raise wrong("the path of RecoveryCodes", "a path such as '/account/factors/recovery'", path)
        self.number: Final = whole_number("the number of recovery codes", number, at_most=MAX_CODES)
        self.path: Final = path

    def bind(self, parts: Parts[I], engine: FactorEngine[I]) -> Self:
        """See `Factor.bind`."""
        bound = copy.copy(self)
        bound.parts, bound.engine = parts, engine
        self.store.bind(parts.users)
        return bound

    # --- the interface ------------------------------------------------------------------------------------------------

    async def is_on(self, key: Key) -> bool:
        """See `Factor.is_on`."""
        return (await self.store.left(user_key_text(key)))[0] > 0

    async def verify(
        self, account: Account[I], challenge: Challenge, params: Mapping[str, object], request: Any
    ) -> Collection[str] | None:
        """See `Factor.verify`."""
        del challenge
        user = user_key_text(account.key)
        if not await self.store.take(user, hash_of(user, code_in(params.get("code")))):
            return None
        left, _ = await self.store.left(user)
        self.parts.emit(RECOVERED, account.key, str(left), request=request)
        await self.engine.notify(account, "recovery_used", None, left=left)
        return self.proves

    async def enrolled(self, key: Key) -> Sequence[EnrolledFactor]:
        """See `Factor.enrolled`. All codes together are one entry."""
        left, made_at = await self.store.left(user_key_text(key))
        if made_at is None:
            return []
        label = self.texts["factor_recovery_codes"]
        return [EnrolledFactor(factor=self.name, id=ENTRY, label=label, created_at=made_at, left=left)]

    async def remove(self, key: Key, id: str) -> bool:  # noqa: A002
        """See `Factor.remove`."""
        return id == ENTRY and await self.store.delete(user_key_text(key)) > 0

    async def reset(self, key: Key) -> int:
        """See `Factor.reset`. All codes together count as one."""
        return int(await self.store.delete(user_key_text(key)) > 0)

    def pages(self) -> Sequence[Page]:
        """See `Factor.pages`."""
        page = Page(
            name="factor_recovery_code",
            path=self.path,
            get=self._show,
            post=self._make,
            template="factor_recovery_code",
            folder=self.folder,
            messages=self.texts,
        )
        return [page]

    # --- making -------------------------------------------------------------------------------------------------------

    async def make(
        self, bound: RequestAuth[Any, I], words: Words | None = None, within: timedelta = FRESH
    ) -> list[str]:
        """Make new codes for the signed-in user, who must be fresh. Show them once. The earlier ones no longer work.

        If the session ends meanwhile, or the account is changed, no codes are left.

        Raises:
            NotSignedIn: if nobody is signed in by a session, or the session has ended, or the user is gone.
            NotFresh: if the sign-in is too old.
            Refused: ``no_second_factor``, if the user has no other factor.
            StoreUnavailable: if a store cannot be reached. The earlier codes may be gone.
        """
        account = await self.engine.check_fresh(bound, within)
        if not await self.engine.is_on(account.key):
            raise Refused("recovery codes need another factor", code="no_second_factor", page="factors")
        codes, user = [_code() for _ in range(self.number)], user_key_text(account.key)
        await self.store.put(user, [hash_of(user, code_in(code)) for code in codes], moment(self.parts.now()))
        same = False
        try:
            same = (await self.engine.check_fresh(bound, within)).proof == account.proof
        finally:
            if not same:  # a reset of the factors may have run before `put` stored these codes
                await self.store.delete(user)
        if not same:
            raise NotSignedIn("the account was changed: sign in again")
        self.parts.emit(ENROLLED, account.key, self.name, request=bound.connection)
        await self.engine.notify(account, "recovery_made", words)
        return codes

    async def _show(self, visit: PageVisit) -> PageAnswer:
        account = await self.engine.check_fresh(visit.auth, fresh_in(visit))
        left, _ = await self.store.left(user_key_text(account.key))
        return PageAnswer(json={"left": left}, context=_context(visit, left=left))

    async def _make(self, visit: PageVisit) -> PageAnswer:
        params = await visit.params()
        if params.get("action", "make") != "make":
            raise InvalidParams({"action": ["is unknown"]})
        try:
            codes = await self.make(visit.auth, words_of(visit), fresh_in(visit))
        except Refused as error:
            if error.code != "no_second_factor":
                raise
            context = _context(visit, failure=visit.texts["factor_recovery_code_needs"])
            return visit.refused(error, context=context)
        return PageAnswer(json={"codes": codes}, context=_context(visit, codes=codes))


def code_in(value: object) -> bytes:
    """Return the bytes of a code that somebody types, in any case, with or without hyphens.

    >>> len(code_in("abcd-efgh-ijkl-mn0p"))
    10

    Raises:
        InvalidParams: if it is blank, or cannot be a code. Nothing was guessed then.
    """
    if value is None or value == "":
        raise InvalidParams({"code": ["can't be blank"]})
    text = value if isinstance(value, str) and len(value) <= MAX_TYPED_CHARS and value.isascii() else ""
    plain = "".join(text.upper().replace("-", "").split()).translate(_LOOK_ALIKES)
    try:
        code = base64.b32decode(plain) if len(plain) == CODE_CHARS else b""
    except ValueError:
        code = b""
    if len(code) != CODE_BYTES:
        raise InvalidParams({"code": ["is invalid"]})
    return code


def hash_of(user: str, code: bytes) -> bytes:
    """Return the form in which a store holds a code. The same code of another user has another hash."""
    return hashlib.blake2b(user.encode() + b"\0" + code, digest_size=32, person=b"powauth recovery").digest()


def _code() -> str:
    text = base64.b32encode(secrets.token_bytes(CODE_BYTES)).decode().lower()
    return "-".join(text[start : start + 4] for start in range(0, CODE_CHARS, 4))


def _context(visit: PageVisit, **context: object) -> dict[str, object]:
    return visit.form({}, None, **{"codes": None, "left": 0, "failure": None, **context})
