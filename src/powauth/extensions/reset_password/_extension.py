"""`ResetPassword`: users who have forgotten their password get a link by mail, and set a new one.

A request for a link does the same work for everybody: it counts the source, and hands the typed user id to the outbox.
In the background the user is looked up, a token is issued and the mail is sent. So neither the response nor its time
reveals whether an account exists (OWASP Forgot Password Cheat Sheet, "Forgot Password Request").

The mail goes to the stored address, never to the typed one: two addresses that look alike may belong to two people.

A new password ends all sessions and tokens of the user, and signs nobody in. The user gets a notice by mail.
"""

import copy
from collections.abc import Mapping, Sequence
from datetime import timedelta
from email.message import EmailMessage
from pathlib import Path
from typing import Any, ClassVar, Final, Self

import msgspec

from powauth._options import instance
from powauth._times import duration
from powauth.accounts.base import MAX_LOGIN_KEY, Account, Params
from powauth.accounts.changes import RECOVERED
from powauth.accounts.forms import BLANK, INVALID, is_blank
from powauth.accounts.hooks import Extension, Parts, Step
from powauth.accounts.identity import Key
from powauth.accounts.throttle import Limit, checked_limit
from powauth.errors import ConfigError, InvalidParams, Overtaken, Throttled
from powauth.events import EventKind
from powauth.extensions.letters import Letters, Words, words_of
from powauth.extensions.links import LINK_CSP, LINK_SCRIPT, TOKEN, Links, token_in
from powauth.extensions.mail import Mailer
from powauth.extensions.outbox import Outbox
from powauth.extensions.reset_password.texts import MESSAGES
from powauth.extensions.tokens import TTL, Claim, OneTimeTokens
from powauth.http.connection import Connection
from powauth.pages.messages import capital
from powauth.pages.page import Page
from powauth.pages.visit import PageAnswer, PageVisit

PER_ADDRESS: Final = Limit(3, timedelta(minutes=5))
"""Mails to one address. A user may ask again, and nobody can fill a mailbox."""

PER_SOURCE: Final = Limit(10, timedelta(minutes=5))
"""Requests for a mail from one source."""

GUESSES: Final = Limit(20, timedelta(minutes=15))
"""Invalid tokens from one source. Nobody can guess 128 random bits. The limit only bounds the work for the server."""

REQUESTED: Final = EventKind("reset_requested", "somebody asked for a link to set a new password")
RESET: Final = EventKind("password_reset", "a user has set a new password by a link in mail")

MAX_TTL: Final = timedelta(days=1)
"""The longest life of a token (OWASP ASVS 5.0.0, 6.5.5)."""

FOLDER: Final = Path(__file__).parent / "templates"

_INVALID_TOKEN: Final = "is no longer valid"  # noqa: S105 - a message


class ResetPassword(Extension[Any]):
    """Users reset a forgotten password by a link in mail.

    >>> from powauth.extensions import ConsoleMailer
    >>> ResetPassword(ConsoleMailer(), ttl=timedelta(minutes=30)).ttl
    datetime.timedelta(seconds=1800)

    Args:
        mailer: sends the mail.
        ttl: the time for which a link works, at most a day.
        per_address: the most mails with a link to one address.
        per_source: the most requests for a mail from one source: an address, or an IPv6 network of 64 bits.
        guesses: the most invalid tokens from one source.
        address_field: the field of the identity with the user's e-mail address.
        forgot_path: the path of the page that sends a link.
        reset_path: the path of the page that sets the password. Links in mail lead there.
        texts: texts that replace those of the pages and mails; see `powauth.extensions.reset_password.texts`.
            `Messages.more` also replaces them.
        templates: a folder of the app with templates that replace those of the mails.

    Attributes:
        ttl: see above.
        parts: the parts of the authenticator, after `bind`.
        tokens: the tokens of the links, after `bind`.

    Raises:
        ConfigError: if an option is wrong. `SessionAuth` raises it if it has no ``public_url``, or if the identity has
            no field for the address.
    """

    name: ClassVar[str] = "reset_password"
    events: ClassVar[tuple[EventKind, ...]] = (REQUESTED, RESET)

    parts: Parts[Any]
    tokens: OneTimeTokens[Any]
    _links: Links
    _outbox: Outbox

    def __init__(
        self,
        mailer: Mailer,
        *,
        ttl: timedelta = TTL,
        per_address: Limit = PER_ADDRESS,
        per_source: Limit = PER_SOURCE,
        guesses: Limit = GUESSES,
        address_field: str = "email",
        forgot_path: str = "/password/forgot",
        reset_path: str = "/password/reset",
        texts: Mapping[str, str] | None = None,
        templates: str | Path | None = None,
    ) -> None:
        instance("mailer", mailer, Mailer, "an object with a method send, such as SMTPMailer")
        duration("the ttl of ResetPassword", ttl, at_least=1000, at_most=MAX_TTL)
        for name, limit in (("per_address", per_address), ("per_source", per_source), ("guesses", guesses)):
            checked_limit(name, limit)
        self.ttl: Final = ttl
        self._mailer: Final = mailer
        self._per_address: Final = per_address
        self._per_source: Final = per_source
        self._guesses: Final = guesses
        self._address_field: Final = address_field
        self._forgot_path: Final = forgot_path
        self._reset_path: Final = reset_path
        self._texts: Final = {**MESSAGES, **(texts or {})}
        self._letters: Final = Letters(FOLDER, templates)
        self.pages()  # checks the paths

    def bind(self, parts: Parts[Any]) -> Self:
        """See `Extension.bind`."""
        identity = parts.users.identity
        if self._address_field not in {each.name for each in msgspec.structs.fields(identity)}:
            raise ConfigError(
                f"ResetPassword sends mail to the field {self._address_field!r} of the identity, and "
                f"{identity.__name__} has none: add the field, or give address_field"
            )
        bound = copy.copy(self)
        bound.parts = parts
        bound.tokens = OneTimeTokens(parts, self.name, ttl=self.ttl)
        bound._links = Links(parts, type(self).__name__)
        bound._outbox = Outbox(self._mailer, parts)
        return bound

    async def before(self, step: Step[Any]) -> None:
        """Note the address of a user who is about to change the password, for the notice."""
        if step.flow == "update" and step.params is not None and not is_blank(step.params.get("password")):
            step.request.states[self] = self._address_of(step.identity)

    async def after(self, step: Step[Any]) -> None:
        """Mail a notice to a user who has changed the password. It goes to the address before the change."""
        if step.flow == "update":
            address = step.request.states.pop(self, None)
            if address is not None:
                await self._notify(address, step.key, Words(self._texts, "en", "ltr", ""))

    async def credentials_changed(self, key: Key, why: str) -> None:
        """See `Extension.credentials_changed`: end the user's token."""
        del why
        await self.tokens.end(key)

    async def aclose(self) -> None:
        """See `Extension.aclose`: wait for the mail."""
        await self._outbox.aclose()

    # --- what the pages do --------------------------------------------------------------------------------------------

    def ask(self, user_id: str, words: Words) -> None:
        """Send a link in the background, if an active user has this user id. The work is the same for every text."""
        self._outbox.prepare("reset", lambda: self._letter(user_id, words))

    async def find(self, token: object, request: Connection) -> Claim[Any] | None:
        """Return the content of a valid token, and leave it valid. An invalid one counts as a guess of the source.

        Raises:
            Throttled: if there were too many guesses.
        """
        admission = await self.parts.limits.admit_source(f"{self.name}.guess", request.client_ip(), self._guesses)
        claim = self._current(await self.tokens.find(token, request=request))
        if claim is not None:
            await admission.undo()
        return claim

    def password_errors(self, claim: Claim[Any], password: object) -> list[str]:
        """Return what is wrong with a new password, without using the users' database."""
        if is_blank(password):
            return [BLANK]
        errors = self.parts.users.validate({"password": password}, claim.account.identity)
        return list(errors.get("password", ()))

    async def reset(
        self, token: object, password: object, words: Words, request: Connection | None = None
    ) -> Account[Any] | None:
        """Use up a token and set the password. Return the account; ``None`` if the token or the account has changed.

        Raises:
            InvalidParams: if the users context refuses the password. The token is used up.
            StoreUnavailable: if the password was not set, or if something that the user holds may still be valid.
        """
        claim = self._current(await self.tokens.take(token, request=request))
        if claim is None:
            return None
        key = claim.account.key
        try:
            account = await self.parts.change(key, {"password": password}, proof=claim.account.proof, why=RECOVERED)
        except Overtaken:
            return None
        self.parts.emit(RESET, key, request=request)
        await self.parts.address_proven(key, claim.address)
        await self._notify(claim.address, key, words)
        return account

    def pages(self) -> Sequence[Page]:
        """See `Extension.pages`."""
        return [
            Page(
                name="forgot_password",
                path=self._forgot_path,
                get=self._show_forgot,
                post=self._ask,
                template="forgot_password",
                folder=FOLDER,
                messages=self._texts,
                offered_on="login",
            ),
            Page(
                name="reset_password",
                path=self._reset_path,
                get=self._show_reset,
                post=self._reset,
                template="reset_password",
                folder=FOLDER,
                messages=self._texts,
                csp=LINK_CSP,
                no_referrer=True,
            ),
            LINK_SCRIPT,
        ]

    # --- in the background --------------------------------------------------------------------------------------------

    async def _letter(self, user_id: str, words: Words) -> EmailMessage | None:
        account = await self.parts.users.find(user_id)
        address = None if account is None or account.active is not True else self._address_of(account.identity)
        if account is None or address is None:
            return None
        try:
            await self.parts.limits.admit(f"{self.name}.address", address.casefold(), self._per_address)
        except Throttled:
            return None
        token = await self.tokens.issue(account.key, address)
        if token is None:
            return None
        link, minutes = self._links.to(self._reset_path, token), max(1, int(self.ttl.total_seconds() // 60))
        return self._letters.compose("reset", words, to=address, link=link, code=token, minutes=minutes)

    async def _notify(self, address: str, key: Key | None, words: Words) -> None:
        link = self._links.to(self._forgot_path)
        await self._outbox.notify(
            "password_changed",
            address,
            lambda: self._letters.compose("password_changed", words, to=address, link=link),
            key=key,
        )

    def _address_of(self, identity: object) -> str | None:
        address = getattr(identity, self._address_field, None)
        return address if isinstance(address, str) and address else None

    def _current(self, claim: Claim[Any] | None) -> Claim[Any] | None:
        """Return a claim if its address is still the user's. It is part of the proof only if it is a user id."""
        return claim if claim is not None and claim.address == self._address_of(claim.account.identity) else None

    # --- the handlers of the pages ------------------------------------------------------------------------------------

    async def _show_forgot(self, visit: PageVisit) -> PageAnswer:
        return PageAnswer(json={"fields": [visit.user_id_field]}, context=_forgot_form(visit))

    async def _ask(self, visit: PageVisit) -> PageAnswer:
        params = await visit.params()
        user_id = next((params[name] for name in visit.settings.user_ids if not is_blank(params.get(name))), None)
        if not isinstance(user_id, str) or len(user_id) > MAX_LOGIN_KEY:
            errors = {visit.user_id_field: [BLANK if user_id is None else INVALID]}
            return visit.refused(InvalidParams(errors), context=_forgot_form(visit, params, errors))
        source = visit.request.connection.client_ip()
        await self.parts.limits.admit_source(f"{self.name}.source", source, self._per_source)
        self.parts.emit(REQUESTED, request=visit.request.connection)
        self.ask(user_id, words_of(visit))
        return PageAnswer(status=202, json={}, context=_forgot_form(visit, done=visit.texts["done_asked"], asked=True))

    async def _show_reset(self, visit: PageVisit) -> PageAnswer:
        return PageAnswer(json={"fields": [TOKEN, "password"]}, context=visit.form())

    async def _reset(self, visit: PageVisit) -> PageAnswer:
        params = await visit.params()
        token, password = token_in(params.get(TOKEN)), params.get("password")
        request = visit.request.connection
        claim = await self.find(token, request)
        if claim is None:
            return _invalid_token(visit)
        errors = self.password_errors(claim, password)
        if not errors:
            errors = await self.parts.check_password(str(password), request)
        if errors:
            return _refused(visit, {**params, TOKEN: token}, {"password": errors})
        try:
            account = await self.reset(token, password, words_of(visit), request)
        except InvalidParams as error:  # the token is used up
            return _refused(visit, {}, error.errors)
        if account is None:
            return _invalid_token(visit)
        return PageAnswer(status=204, to=visit.link("reset_password", "reset"))


def _forgot_form(
    visit: PageVisit, params: Params | None = None, errors: Mapping[str, list[str]] | None = None, **context: object
) -> dict[str, object]:
    several = len(visit.settings.user_ids) > 1
    label = capital(visit.messages.name(visit.settings.user_ids)) if several else None
    return visit.form(params, errors, **{"forgot_label": label, "asked": False, **context})


def _refused(visit: PageVisit, params: Params, errors: Mapping[str, list[str]]) -> PageAnswer:
    return visit.refused(InvalidParams(errors), context=visit.form(params, errors))


def _invalid_token(visit: PageVisit) -> PageAnswer:
    context = visit.form(None, {TOKEN: [_INVALID_TOKEN]})
    context["errors"] = {TOKEN: [visit.texts["reset_password_invalid"]]}
    return visit.refused(InvalidParams({TOKEN: [_INVALID_TOKEN]}), context=context)
