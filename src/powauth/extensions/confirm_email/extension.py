"""`ConfirmEmail`: the extension."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from math import ceil
from pathlib import Path
from typing import Any, ClassVar, Final, Self, get_args

from powauth._options import choice, flag, instance
from powauth._times import duration
from powauth.accounts.attempts import AttemptLimits
from powauth.accounts.base import Account, UsersContext, key_of_user
from powauth.accounts.changes import CREATED
from powauth.accounts.forms import INVALID, TAKEN
from powauth.accounts.hooks import Diversion, Extension, Parts, Step
from powauth.accounts.identity import I, Key
from powauth.accounts.throttle import Limit, checked_limit
from powauth.errors import Accepted, ConfigError, InvalidParams, Refused
from powauth.events import EventKind
from powauth.extensions.confirm_email.addresses import Addresses, PasswordAt
from powauth.extensions.confirm_email.claims import COLUMNS
from powauth.extensions.confirm_email.columns import ConfirmEmailMixin
from powauth.extensions.confirm_email.events import EVENTS
from powauth.extensions.confirm_email.letters import FOLDER, Kind, Post
from powauth.extensions.confirm_email.pages import LinkPages, Paths
from powauth.extensions.confirm_email.texts import MAIL_TEXTS
from powauth.extensions.letters import Letters, Words, mail_texts_of
from powauth.extensions.links import Links
from powauth.extensions.mail import Mailer
from powauth.extensions.outbox import Outbox
from powauth.extensions.records import owner_of

TTL: Final = timedelta(hours=24)
"""The time for which a link in a mail is valid by default."""

UNDO_TTL: Final = timedelta(days=7)
"""The time for which the owner of the old address can undo a change by default."""

PER_ADDRESS: Final = Limit(3, timedelta(minutes=5))
"""The most mails that one address gets by default."""

PER_SOURCE: Final = Limit(10, timedelta(minutes=5))
"""The most requests for mail from one source by default."""

ADDRESS: Final = "email"
"""The user id that the extension confirms."""

NOT_CONFIRMED: Final = "confirm your e-mail address first: follow the link in the mail that we have sent you"

MAIL_SENT: Final = "We have sent a mail to this address. Follow the link in it."
CHANGE_SENT: Final = "We have sent a mail to your new address. It is yours once you follow the link in that mail."


class ConfirmEmail(Extension[I]):
    """Confirms that users receive mail at their address, when they register and when they change it.

    Args:
        mailer: sends the mail.
        required: whether users whose address is not confirmed may not sign in.
        password: the time at which a new user chooses the password. With ``"at_confirmation"``, a registration takes
            the address alone, and writes nothing to the users table. The link in the mail leads to the rest of the
            form. So nobody can register with the address of somebody else, and a registration does not reveal whether
            an address has an account. With ``"at_registration"``, the account exists at once. A link that is opened in
            another browser than the one where the user is signed in then asks for a new password, and ends everything
            that anybody held before. Such a registration reveals that an address is taken.
        ttl: the time for which a link is valid.
        undo_ttl: the time for which the owner of the old address can undo a change.
        per_address: the most mails that one address gets.
        per_source: the most requests for mail from one source.
        paths: the paths of the pages.
        title: the name of the app in mail.
        lang: the language of the mail (BCP 47).
        mail_texts: texts that replace those of the mail; see `powauth.extensions.confirm_email.texts`.
        mail_templates: a folder of the app with templates that replace those of the mail. ``None`` replaces none.

    Raises:
        ConfigError: if an option is wrong.
    """

    name: ClassVar[str] = "confirm_email"
    needs: ClassVar[tuple[type, ...]] = (ConfirmEmailMixin,)
    events: ClassVar[tuple[EventKind, ...]] = EVENTS

    addresses: Addresses[I]
    """The flows, once the extension is bound."""

    _users: UsersContext[Any, I]
    _limits: AttemptLimits
    _outbox: Outbox

    def __init__(
        self,
        mailer: Mailer,
        *,
        required: bool = False,
        password: PasswordAt = "at_confirmation",  # noqa: S107 - no password
        ttl: timedelta = TTL,
        undo_ttl: timedelta = UNDO_TTL,
        per_address: Limit = PER_ADDRESS,
        per_source: Limit = PER_SOURCE,
        paths: Paths | None = None,
        title: str = "Account",
        lang: str = "en",
        mail_texts: Mapping[str, str] | None = None,
        mail_templates: str | Path | None = None,
    ) -> None:
        instance("mailer", mailer, Mailer, "an object with a method send, such as SMTPMailer")
        self.mailer: Final = mailer
        self.required: Final = flag("required", required)
        choice("password", password, *get_args(PasswordAt))
        self.password: Final[PasswordAt] = password
        duration("ttl", ttl, at_least=1000)
        duration("undo_ttl", undo_ttl, at_least=1000)
        self.ttl: Final = ttl
        self.undo_ttl: Final = undo_ttl
        checked_limit("per_address", per_address)
        checked_limit("per_source", per_source)
        self.per_address: Final = per_address
        self.per_source: Final = per_source
        self.paths: Final = Paths() if paths is None else paths
        self.title: Final = title
        self.lang: Final = lang
        self.mail_texts: Final = mail_texts_of("ConfirmEmail", MAIL_TEXTS, mail_texts)
        self.mail_templates: Final = mail_templates
        self._letters: Final = Letters(FOLDER, mail_templates)

    def bind(self, parts: Parts[I]) -> Self:
        """See `Extension.bind`.

        Raises:
            ConfigError: if there is no ``public_url``, no user id ``email``, or users could set the columns themselves.
        """
        users = parts.users
        if ADDRESS not in (users.user_id_field, *users.other_user_id_fields):
            raise ConfigError(
                "ConfirmEmail needs users who sign in with an e-mail address: name 'email' in user_id_field"
            )
        if own := [name for name in COLUMNS if name in users.fields]:
            raise ConfigError(f"fields names {own[0]!r}, which only ConfirmEmail may set: remove it from the fields")
        bound = type(self)(
            self.mailer,
            required=self.required,
            password=self.password,
            ttl=self.ttl,
            undo_ttl=self.undo_ttl,
            per_address=self.per_address,
            per_source=self.per_source,
            paths=self.paths,
            title=self.title,
            lang=self.lang,
            mail_texts=self.mail_texts,
            mail_templates=self.mail_templates,
        )
        bound._outbox = Outbox(self.mailer, parts)
        bound._users = users
        bound._limits = parts.limits
        bound.addresses = Addresses(
            parts,
            self.name,
            self._post(bound._outbox, Links(parts, "ConfirmEmail")),
            ttl=self.ttl,
            undo_ttl=self.undo_ttl,
            per_address=self.per_address,
            per_source=self.per_source,
        )
        return bound

    # --- the flows ----------------------------------------------------------------------------------------------------

    def registers_with(self) -> Sequence[str] | None:
        """See `Extension.registers_with`."""
        return (ADDRESS,) if self.password == "at_confirmation" else None  # noqa: S105 - no password

    async def before(self, step: Step[I]) -> None:
        """See `Extension.before`. If the address must be confirmed, it refuses a sign-in. One SELECT.

        powauth calls it after it has verified the user, so the refusal reveals the account only to the user.
        """
        if not self.required or step.flow != "sign_in" or step.key is None:
            return
        state = await self.addresses.state(step.key)
        if state is None or state.confirmed_at is None:
            raise Refused(
                NOT_CONFIRMED, code="address_not_confirmed", page="confirm_email_again", done="confirm_email_refused"
            )

    async def may_continue(self, key: Key) -> bool:
        """See `Extension.may_continue`. With ``required``, it refuses users whose address is not confirmed."""
        if not self.required:
            return True
        state = await self.addresses.state(key)
        return state is not None and state.confirmed_at is not None

    async def divert(self, step: Step[I]) -> Diversion[I] | None:
        """See `Extension.divert`. It takes over registrations and changes of address."""
        params = step.params or {}
        if step.flow == "registration":
            await self._registration(step, params)
        if step.flow == "update" and ADDRESS in params and step.key is not None:
            return await self._update(step, step.key, params)
        return None

    async def after(self, step: Step[I]) -> None:
        """See `Extension.after`. A new user is confirmed, or gets a link."""
        if step.flow != "registration" or step.key is None:
            return
        if step.proven_address is not None:
            await self.addresses.mark(step.key, step.proven_address)
        else:
            await self.addresses.send(step.key, step.request.client_ip())

    async def address_proven(self, key: Key, address: str) -> None:
        """See `Extension.address_proven`. The address is confirmed if it is still the user's."""
        await self.addresses.mark(key, address, claimed=True)

    async def may_be_claimed(self, key: Key, address: str) -> bool:
        """See `Extension.may_be_claimed`. The address must be the user's, letter by letter."""
        state = await self.addresses.state(key)
        return state is not None and state.active and state.confirmed_at is None and state.address == address

    async def reserves(self, address: object) -> bool:
        """See `Extension.reserves`. An address is reserved while its user can undo a change of it by a link."""
        wanted = self.addresses.normalized(address)
        return wanted is not None and await self.addresses.reserved(wanted)

    async def credentials_changed(self, key: Key, why: str) -> None:
        """See `Extension.credentials_changed`. Undo links survive, because a thief may have changed the password.

        Those of a former user with the key of a new one end. With ``created_at``, they are not valid anyway.
        """
        if why == CREATED and "created_at" not in self._users.columns:
            await self.addresses.end_undos(key)
        try:
            await self.addresses.offers.end(owner_of(key))
        finally:
            await self.addresses.changes.end(key)

    async def end_undos(self, user: object) -> None:
        """Void all undo links of a user. A later change of address has a new link.

        Call it when your support gives a stolen account back, because the thief may have such links.

        Args:
            user: an identity, a row, an account, or a key.

        Raises:
            ConfigError: if ``user`` is no user.
            StoreUnavailable: if one may still be valid. Then try again.
        """
        await self.addresses.end_undos(key_of_user(self._users, user))

    def pages(self) -> Sequence[Any]:
        """See `Extension.pages`."""
        return LinkPages(self.addresses, self._users, self._limits, self.password, self.paths).pages()

    async def aclose(self) -> None:
        """See `Extension.aclose`."""
        await self._outbox.aclose()

    # --- inside -------------------------------------------------------------------------------------------------------

    def _post(self, outbox: Outbox, links: Links) -> Post:
        """Return what sends the mail of a bound extension."""
        paths: dict[Kind, str] = {
            "register": self.paths.complete,
            "confirm": self.paths.confirm,
            "taken": self.paths.sign_in,
            "change": self.paths.change,
            "change_notice": self.paths.undo,
        }
        hours, days = ceil(self.ttl / timedelta(hours=1)), ceil(self.undo_ttl / timedelta(days=1))
        words = Words(self.mail_texts, self.lang, "ltr", self.title)
        return Post(outbox, links, self._letters, words, paths, hours=hours, days=days)

    async def _registration(self, step: Step[I], params: Mapping[str, object]) -> None:
        """Let a registration with a proven address go on. Otherwise send a link, and accept it for every address.

        Raises:
            Accepted: if the registration goes on by mail.
            InvalidParams: what is wrong with the address.
        """
        if step.proven_address is not None:
            return
        if self.password == "at_registration":  # noqa: S105 - no password
            wanted = self.addresses.normalized(params.get(ADDRESS))
            if wanted is None:
                return
            if await self.addresses.reserved(wanted):
                raise InvalidParams({ADDRESS: [TAKEN]})
            if not self._users.validate(params):
                await self.addresses.remind(wanted, step.request.client_ip())
            return
        errors = self._users.validate(params)
        address = self._checked(params, {name: errors[name] for name in errors if name == ADDRESS})
        await self.addresses.ask(address, step.request.client_ip(), registering=True)
        raise Accepted(MAIL_SENT, code="mail_sent", page="confirm_email_again", done="confirm_email_sent")

    async def _update(self, step: Step[I], key: Key, params: Mapping[str, object]) -> Diversion[I] | None:
        """Take a new address out of an update. The update goes on with the rest, and checks the current password.

        Raises:
            InvalidParams: what is wrong with the address.
        """
        state = await self.addresses.state(key)
        if state is None:
            return None  # the update finds that out, too
        rest = {name: value for name, value in params.items() if name != ADDRESS}
        if params[ADDRESS] == state.address:
            address = state.address
        else:
            address = self._checked(params, self._users.validate(params, step.identity))

        async def finish(account: Account[I]) -> None:
            if address == state.address:
                if state.pending is not None:
                    await self.addresses.cancel(account)
                return
            await self.addresses.begin_change(account.key, address)
            raise Accepted(CHANGE_SENT, code="mail_sent", page="account", done="confirm_email_change")

        return Diversion(params=rest, finish=finish)

    def _checked(self, params: Mapping[str, object], errors: Mapping[str, Sequence[str]]) -> str:
        """Return the address in params in normalised form.

        Raises:
            InvalidParams: what is wrong with it.
        """
        if ADDRESS in errors:
            raise InvalidParams(errors)
        address = self.addresses.normalized(params.get(ADDRESS))
        if address is None:
            raise InvalidParams({ADDRESS: [INVALID]})
        return address
