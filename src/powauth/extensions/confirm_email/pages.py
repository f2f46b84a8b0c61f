"""The pages of `ConfirmEmail`, to which the links in its mail lead, and their JSON twins."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import timedelta
from typing import Any, Final, Generic

from powauth._options import wrong
from powauth.accounts.attempts import AttemptLimits
from powauth.accounts.base import Params, UsersContext
from powauth.accounts.fields import FormField
from powauth.accounts.forms import INVALID
from powauth.accounts.grant import Grant
from powauth.accounts.identity import I, stored_key
from powauth.accounts.throttle import Limit
from powauth.errors import AlreadySignedIn, ConfigError, InvalidParams, Refused
from powauth.extensions.confirm_email.addresses import Addresses, PasswordAt, invalid_link
from powauth.extensions.confirm_email.claims import State
from powauth.extensions.confirm_email.letters import FOLDER
from powauth.extensions.confirm_email.texts import TEXTS
from powauth.extensions.links import LINK_CSP, LINK_SCRIPT, TOKEN, token_in
from powauth.http.cross_site import media_type
from powauth.http.guards import FRESH
from powauth.pages.page import Handler, Page
from powauth.pages.register import from_form, shown_field
from powauth.pages.request import JSON
from powauth.pages.routes import is_path
from powauth.pages.visit import PageAnswer, PageVisit
from powauth.pages.wire import signed_in_json

TOKENS_PER_SOURCE: Final = Limit(100, timedelta(minutes=15))
"""The most tokens that one source may send. A wrong one costs no I/O, and nobody can guess a right one."""


@dataclass(frozen=True, kw_only=True)
class Paths:
    """The paths of the pages of `ConfirmEmail`, below the mount.

    Attributes:
        confirm: confirms an address.
        again: sends another mail.
        complete: completes a registration.
        change: confirms a new address.
        undo: undoes a change of address.
        sign_in: the page to sign in, to which a mail leads whose reader has an account.

    Raises:
        ConfigError: if a path is not valid, or two are the same.
    """

    confirm: str = "/confirm-email"
    again: str = "/confirm-email/again"
    complete: str = "/register/complete"
    change: str = "/confirm-email/change"
    undo: str = "/confirm-email/undo"
    sign_in: str = "/login"

    def __post_init__(self) -> None:
        found = [getattr(self, field.name) for field in fields(self)]
        for path in found:
            if not is_path(path):
                raise wrong("a path of ConfirmEmail", "a path such as '/confirm-email'", path)
        if len(set(found)) != len(found):
            raise ConfigError("two pages of ConfirmEmail have the same path")


class LinkPages(Generic[I]):
    """The handlers of the pages.

    Args:
        addresses: the flows.
        users: the users context.
        limits: counts attempts.
        password: the time at which a new user chooses the password.
        paths: the paths.
    """

    def __init__(
        self,
        addresses: Addresses[I],
        users: UsersContext[Any, I],
        limits: AttemptLimits,
        password: PasswordAt,
        paths: Paths,
    ) -> None:
        self._addresses: Final = addresses
        self._users: Final = users
        self._limits: Final = limits
        self._early: Final = password == "at_registration"  # noqa: S105 - no password
        self._paths: Final = paths

    def pages(self) -> list[Page]:
        """Return the pages. Without registrations by mail there is none to complete one."""
        paths = self._paths
        again = Page(
            name="confirm_email_again",
            path=paths.again,
            get=self.show_again,
            post=self.again,
            template="confirm_email_again",
            folder=FOLDER,
            messages=TEXTS,
        )
        found = [
            LINK_SCRIPT,
            again,
            self._page("confirm_email", paths.confirm, self.show_confirm, self.confirm),
            self._page("confirm_email_change", paths.change, self.show_change, self.change),
            self._page("confirm_email_undo", paths.undo, self.show_undo, self.undo),
        ]
        if not self._early:
            found.append(self._page("confirm_email_complete", paths.complete, self.show_complete, self.complete))
        return found

    @staticmethod
    def _page(name: str, path: str, get: Handler, post: Handler) -> Page:
        return Page(
            name=name,
            path=path,
            get=get,
            post=post,
            template=name,
            folder=FOLDER,
            messages=TEXTS,
            csp=LINK_CSP,
            no_referrer=True,
        )

    # --- confirming ---------------------------------------------------------------------------------------------------

    async def show_confirm(self, visit: PageVisit) -> PageAnswer:
        """Show the form. It asks for a password, unless the user may be signed in here."""
        return _form(visit, asks_password=not self._early or visit.auth.current_user is None)

    async def confirm(self, visit: PageVisit) -> PageAnswer:
        """Confirm the address of a user."""
        params = await self._params(visit)
        token = token_in(params.get(TOKEN))
        found = await self._addresses.asked(token)
        if found is None or found[1] is None:
            return _refused(visit, invalid_link(), params)
        state = found[1]
        own = self._early and self._is_current(visit, state)
        password = None if own else params.get("password")
        errors = {} if own else await self._addresses.password_errors(password, state, visit.request.connection)
        if errors:
            return _refused(visit, InvalidParams(errors), params, asks_password=True)
        try:
            await self._addresses.confirm(token, state, password)
        except InvalidParams as error:
            return _refused(visit, error, params, asks_password=not own)
        to = visit.link("account" if own else "login", "confirm_email_confirmed")
        return PageAnswer(json={"email": state.address}, to=to)

    # --- completing a registration ------------------------------------------------------------------------------------

    async def show_complete(self, visit: PageVisit) -> PageAnswer:
        """Show the form with the fields that a registration needs, besides the address."""
        if visit.auth.current_user is not None:
            return _signed_in_as_another(visit)
        return self._complete_form(visit)

    async def complete(self, visit: PageVisit) -> PageAnswer:
        """Register a user at the address to which the link was sent, and sign in."""
        params = await self._params(visit)
        if visit.auth.current_user is not None:
            return _signed_in_as_another(visit)
        token = token_in(params.get(TOKEN))
        found = await self._addresses.asked(token)
        if found is None or found[1] is not None:
            return self._complete_form(visit, params, invalid_link())
        address = found[0].address
        given = {name: value for name, value in params.items() if name not in (TOKEN, "action", "next")}
        if media_type(visit.request.connection) != JSON:
            given = from_form(self._fields(), given)
        given = {**given, "email": address}
        errors = self._users.validate(given)
        if not errors:
            errors = await self._addresses.refused_password(given.get("password"), visit.request.connection)
        if errors:
            return self._complete_form(visit, params, InvalidParams(errors))
        if await self._addresses.offers.take(token) is None:
            return self._complete_form(visit, params, invalid_link())
        accounts, connection = visit.auth.auth.accounts, visit.auth.connection
        try:
            user = await accounts.register(connection, given, proven_address=address)
        except InvalidParams as error:
            failure = invalid_link() if "email" in error.errors else error
            return self._complete_form(visit, params, failure)
        to = visit.destination(visit.settings.routes.after_register, done="registered")
        return PageAnswer(status=201, json=signed_in_json(visit, user), to=to)

    def _fields(self) -> list[FormField]:
        return [each for each in self._users.registration_fields() if each.name != "email"]

    def _complete_form(
        self, visit: PageVisit, params: Params | None = None, error: InvalidParams | None = None
    ) -> PageAnswer:
        shown = [shown_field(visit, each) for each in self._fields()]
        if error is not None:
            return _refused(visit, error, params or {}, shown=shown, asks_password=True)
        return _form(visit, shown=shown, asks_password=True)

    # --- changing -----------------------------------------------------------------------------------------------------

    async def show_change(self, visit: PageVisit) -> PageAnswer:
        """Show the form, or ask to sign in first."""
        return _form(visit)

    async def change(self, visit: PageVisit) -> PageAnswer:
        """Make a new address the user's, who must be signed in. Otherwise a stranger's click could confirm it."""
        params = await self._params(visit)
        visit.auth.require_user()
        await visit.check_signed_in()
        token = token_in(params.get(TOKEN))
        found = await self._addresses.change(token)
        if found is None or not self._is_current(visit, found[1]):
            return _refused(visit, invalid_link(), params)
        fresh = visit.auth.is_fresh(FRESH)
        try:
            account = await self._addresses.complete_change(token, *found)
        except InvalidParams as error:
            return _refused(visit, error, params)
        try:
            # The new session has the carrier of the one that it replaces, and is remembered if that was.
            accounts, connection = visit.auth.auth.accounts, visit.auth.connection
            user = await accounts.sign_in_user(connection, account.key, Grant(fresh=fresh))
        except Refused:
            user = None
        if user is None:
            await visit.auth.sign_out()
            json: object = {"user": None, "session": None}
            return PageAnswer(json=json, to=visit.link("login", "confirm_email_changed"))
        return PageAnswer(json=signed_in_json(visit, user), to=visit.link("account", "confirm_email_changed"))

    async def show_undo(self, visit: PageVisit) -> PageAnswer:
        """Show the form."""
        return _form(visit, asks_password=True)

    async def undo(self, visit: PageVisit) -> PageAnswer:
        """Give a user the old address and a new password."""
        params = await self._params(visit)
        token, password = token_in(params.get(TOKEN)), params.get("password")
        found = await self._addresses.undo(token)
        if found is None:
            return _refused(visit, invalid_link(), params, asks_password=True)
        errors = await self._addresses.password_errors(password, found[1], visit.request.connection)
        if errors:
            return _refused(visit, InvalidParams(errors), params, asks_password=True)
        try:
            await self._addresses.complete_undo(token, found[0], password)
        except InvalidParams as error:
            return _refused(visit, error, params, asks_password=True)
        return PageAnswer(json={"email": found[0].content.old}, to=visit.link("login", "confirm_email_undone"))

    # --- another mail -------------------------------------------------------------------------------------------------

    async def show_again(self, visit: PageVisit) -> PageAnswer:
        """Show the form that asks for another mail."""
        return PageAnswer(json={"fields": ["email"]}, context=visit.form())

    async def again(self, visit: PageVisit) -> PageAnswer:
        """Send another mail to an address that is not confirmed yet. The answer is the same for every address."""
        params = await visit.params()
        given = params.get("email")
        address = self._addresses.normalized(given) if isinstance(given, str) else None
        if address is None:
            error = InvalidParams({"email": [INVALID]})
            return visit.refused(error, context=visit.form(params, error.errors))
        await self._addresses.ask(address, visit.request.connection.client_ip(), registering=False)
        to = visit.link("confirm_email_again", "confirm_email_sent")
        return PageAnswer(status=202, json={"accepted": "mail_sent"}, to=to)

    # --- inside -------------------------------------------------------------------------------------------------------

    async def _params(self, visit: PageVisit) -> Params:
        source = visit.request.connection.client_ip()
        await self._limits.admit_source("confirm_email.token", source, TOKENS_PER_SOURCE)
        return await visit.params()

    @staticmethod
    def _is_current(visit: PageVisit, state: State[I]) -> bool:
        key = visit.auth.auth.current_key(visit.auth.connection)
        return key is not None and stored_key(key) == stored_key(state.account.key)


def _form(visit: PageVisit, *, asks_password: bool = False, shown: Sequence[Mapping[str, object]] = ()) -> PageAnswer:
    names = [TOKEN, *(each["name"] for each in shown), *(["password"] if asks_password else [])]
    return PageAnswer(json={"fields": names}, context={**visit.form(asks_password=asks_password), "shown": shown})


def _refused(
    visit: PageVisit, error: InvalidParams, params: Params, *, asks_password: bool = False, **context: object
) -> PageAnswer:
    form = visit.form(params, error.errors, asks_password=asks_password, **context)
    return visit.refused(error, context=form)


def _signed_in_as_another(visit: PageVisit) -> PageAnswer:
    form = visit.form(asks_password=True, shown=[], failure=visit.texts["confirm_email_sign_out_first"])
    return visit.refused(AlreadySignedIn("somebody is signed in"), context=form)
