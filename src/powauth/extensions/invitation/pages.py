"""The pages of `Invitation` and their JSON twins: one for the inviter, and one to accept."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, timedelta
from typing import Any, Final, Generic

from powauth._options import wrong
from powauth.accounts.attempts import AttemptLimits
from powauth.accounts.base import Params, UsersContext
from powauth.accounts.fields import FormField
from powauth.accounts.forms import INVALID
from powauth.accounts.grant import Grant
from powauth.accounts.identity import I, Key
from powauth.accounts.service import BY_PASSWORD
from powauth.accounts.throttle import Limit
from powauth.errors import AlreadySignedIn, ConfigError, InvalidParams, NotSignedIn, Overtaken
from powauth.extensions.invitation.flows import Invitations, Invited, Made, invalid_invitation
from powauth.extensions.invitation.letters import FOLDER
from powauth.extensions.invitation.texts import TEXTS
from powauth.extensions.links import LINK_CSP, LINK_SCRIPT, TOKEN, token_in
from powauth.extensions.offers import Offer
from powauth.http.cross_site import media_type
from powauth.pages.page import Page, PageLink
from powauth.pages.register import from_form, shown_field
from powauth.pages.request import JSON
from powauth.pages.routes import is_path
from powauth.pages.visit import PageAnswer, PageVisit
from powauth.pages.wire import iso, signed_in_json

TOKENS_PER_SOURCE: Final = Limit(100, timedelta(minutes=15))
"""The most tokens that one source may send. A wrong one costs no I/O, and nobody can guess a right one."""

ACTIONS: Final = ("invite", "link", "again", "end")
"""The forms of the inviter's page."""


@dataclass(frozen=True, kw_only=True)
class Paths:
    """The paths of the pages of `Invitation`, below the mount.

    Attributes:
        invitations: the page of the inviter.
        accept: the page to which the link of an invitation leads.

    Raises:
        ConfigError: if a path is not valid, or both are the same.
    """

    invitations: str = "/account/invitations"
    accept: str = "/invitation"

    def __post_init__(self) -> None:
        for path in (self.invitations, self.accept):
            if not is_path(path):
                raise wrong("a path of Invitation", "a path such as '/invitation'", path)
        if self.invitations == self.accept:
            raise ConfigError("two pages of Invitation have the same path")


class InvitationPages(Generic[I]):
    """The handlers of the pages.

    Args:
        invitations: the flows.
        users: the users context.
        limits: counts attempts.
        paths: the paths.
    """

    def __init__(
        self,
        invitations: Invitations[I],
        users: UsersContext[Any, I],
        limits: AttemptLimits,
        paths: Paths,
    ) -> None:
        self._invitations: Final = invitations
        self._users: Final = users
        self._limits: Final = limits
        self._paths: Final = paths

    def pages(self) -> list[Page]:
        """Return the pages."""
        return [
            LINK_SCRIPT,
            Page(
                name="invitations",
                path=self._paths.invitations,
                get=self.show,
                post=self.change,
                template="invitations",
                folder=FOLDER,
                messages=TEXTS,
                offered_on="account",
                offered_to=self.offered,
            ),
            Page(
                name="invitation",
                path=self._paths.accept,
                get=self.show_accept,
                post=self.accept,
                template="invitation",
                folder=FOLDER,
                messages=TEXTS,
                csp=LINK_CSP,
                no_referrer=True,
            ),
        ]

    # --- the inviter --------------------------------------------------------------------------------------------------

    async def offered(self, visit: PageVisit) -> PageLink | None:
        """Return the link to the page for those who may invite."""
        identity = visit.auth.current_user
        return PageLink() if identity is not None and await self._invitations.allows(identity) else None

    async def show(self, visit: PageVisit) -> PageAnswer:
        """List the open invitations of the current user. The links are not shown again."""
        identity = visit.auth.require_user()
        await self._invitations.check(identity)
        found = await self._invitations.list(_key(visit))
        return PageAnswer(json={"invitations": [_json(each) for each in found]}, context=_page(visit, found))

    async def change(self, visit: PageVisit) -> PageAnswer:
        """Make an invitation, send it again, or end it."""
        key = _key(visit)
        params = await visit.params()
        epoch = await self._invitations.epoch(key)  # before the next line, so that no revocation goes unnoticed
        await visit.check_signed_in()
        identity = visit.auth.require_user()
        action = params.get("action", "invite")
        try:
            if not isinstance(action, str) or action not in ACTIONS:
                raise InvalidParams({"action": ["is unknown"]})
            if action in ("invite", "link"):
                address = self._address(params) if action == "invite" else None
                return await self._made(visit, key, await self._invitations.make(key, identity, address, epoch))
        except InvalidParams as error:
            found = await self._invitations.list(key)
            return visit.refused(error, context=_page(visit, found, params=params, errors=error.errors))
        await self._invitations.check(identity)
        if action == "again":
            made = await self._invitations.again(key, identity, params.get("id"), epoch)
            return await self._gone(visit, key) if made is None else await self._made(visit, key, made)
        if await self._invitations.end(key, params.get("id")) is None:
            return await self._gone(visit, key)
        return PageAnswer(status=204, to=visit.link("invitations", "invitation_ended"))

    async def _made(self, visit: PageVisit, key: Key, made: Made) -> PageAnswer:
        json = {"id": made.name} | ({} if made.link is None else {"link": made.link})
        if made.link is None:
            return PageAnswer(status=201, json=json, to=visit.link("invitations", "invitation_sent"))
        found = await self._invitations.list(key)
        return PageAnswer(status=201, json=json, context=_page(visit, found, link=made.link))

    async def _gone(self, visit: PageVisit, key: Key) -> PageAnswer:
        context = _page(visit, await self._invitations.list(key), failure=visit.texts["invitation_gone"])
        return PageAnswer(status=404, json={"error": "not_found"}, context=context)

    def _address(self, params: Params) -> str:
        """Return the address in params in normalised form.

        Raises:
            InvalidParams: what is wrong with it.
        """
        given = {"email": params.get("email")}
        errors = self._users.validate(given)
        if "email" in errors:
            raise InvalidParams({"email": errors["email"]})
        address = self._users.login_key(given)
        if address is None:
            raise InvalidParams({"email": [INVALID]})
        return address

    # --- the invited --------------------------------------------------------------------------------------------------

    async def show_accept(self, visit: PageVisit) -> PageAnswer:
        """Show the form."""
        if visit.auth.current_user is not None:
            return _signed_in_already(visit)
        names = [each.name for each in self._fields(None)]
        return PageAnswer(json={"fields": [TOKEN, *names, "password"]}, context=self._form(visit))

    async def accept(self, visit: PageVisit) -> PageAnswer:
        """Register a user by an invitation, and sign in. An invitation that was mailed proves the address."""
        await self._limits.admit_source("invitation.token", visit.request.connection.client_ip(), TOKENS_PER_SOURCE)
        params = await visit.params()
        if visit.auth.current_user is not None:
            return _signed_in_already(visit)
        token = token_in(params.get(TOKEN))
        offer = await self._invitations.found(token)
        if offer is None:
            return self._refused(visit, params, invalid_invitation())
        address = offer.content.address
        given = self._given(visit, params, address)
        errors = await self._errors(visit, given, address)
        if not errors and "password" in given:
            errors = await self._invitations.refused_password(given["password"], visit.request.connection)
        if errors:
            return self._refused(visit, params, InvalidParams(errors), address)
        if await self._invitations.take(token) is None:
            return self._refused(visit, params, invalid_invitation())
        try:
            with self._invitations.accepting(visit.auth.connection, offer.content):
                user = await self._accepted(visit, given, address)
        except InvalidParams as error:
            failure = invalid_invitation() if address is not None and "email" in error.errors else error
            return self._refused(visit, params, failure, address)
        to = visit.destination(visit.settings.routes.after_register, done="registered")
        return PageAnswer(status=201, json=signed_in_json(visit, user), to=to)

    async def _accepted(self, visit: PageVisit, given: Mapping[str, object], address: str | None) -> I:
        """Register a user, or give them the account that somebody has made with their address. Sign them in.

        Raises:
            InvalidParams: what is wrong with a registration.
        """
        accounts, connection = visit.auth.auth.accounts, visit.auth.connection
        account = None if address is None else await self._invitations.claimable(address)
        if account is None or address is None:
            user: I = await accounts.register(connection, given, proven_address=address)
            return user
        names = {"password", *(each.name for each in self._fields(address))}
        changes = {name: value for name, value in given.items() if name in names}
        try:
            claimed = await self._invitations.claim(account, address, changes, connection, Grant(amr=BY_PASSWORD))
        except Overtaken as error:
            raise invalid_invitation() from error
        if claimed is None:
            raise NotSignedIn("the account may not sign in")
        return claimed

    def _given(self, visit: PageVisit, params: Params, address: str | None) -> dict[str, object]:
        """Return the fields of the registration. A mailed invitation is for the address to which it was sent."""
        given = {name: value for name, value in params.items() if name not in (TOKEN, "action", "next")}
        if media_type(visit.request.connection) != JSON:
            given = from_form(self._fields(address), given)
        return given if address is None else {**given, "email": address}

    async def _errors(
        self, visit: PageVisit, given: Mapping[str, object], address: str | None
    ) -> Mapping[str, list[str]]:
        """Return what is wrong with a registration, before the invitation is used up."""
        errors = self._users.validate(given)
        mailed_later = visit.auth.auth.accounts.hooks.registers_with() is not None
        if errors or address is not None or mailed_later:
            if mailed_later and address is None:  # the rest is asked for when the address is confirmed
                return {name: errors[name] for name in errors if name == "email"}
            return errors
        found = await self._users.find(given.get("email"))
        if found is None and not await visit.auth.auth.accounts.hooks.is_reserved(given.get("email")):
            return {}
        return {"email": ["has already been taken"]}

    def _fields(self, address: str | None) -> list[FormField]:
        found = self._users.registration_fields()
        return [each for each in found if address is None or each.name != "email"]

    def _form(
        self, visit: PageVisit, params: Params | None = None, error: InvalidParams | None = None, address: Any = None
    ) -> dict[str, object]:
        shown = [shown_field(visit, each) for each in self._fields(address)]
        for each in shown:
            if each["name"] == "email":  # nobody knows yet whether the invitation was mailed
                each["required"] = False
        errors = None if error is None else error.errors
        return {**visit.form(params, errors), "shown": shown}

    def _refused(
        self, visit: PageVisit, params: Params, error: InvalidParams, address: str | None = None
    ) -> PageAnswer:
        return visit.refused(error, context=self._form(visit, params, error, address))


def _key(visit: PageVisit) -> Key:
    key: Key = visit.auth.auth.key_of(visit.auth.require_user())
    return key


def _json(offer: Offer[Invited]) -> dict[str, object]:
    return {
        "id": offer.name,
        "email": offer.content.address,
        "created_at": iso(offer.issued_at),
        "expires_at": iso(offer.expires_at),
    }


def _page(
    visit: PageVisit,
    found: list[Offer[Invited]],
    *,
    params: Params | None = None,
    errors: Mapping[str, list[str]] | None = None,
    **more: object,
) -> dict[str, object]:
    form = visit.messages.time_format
    invitations = [{**_json(each), "until": each.expires_at.astimezone(UTC).strftime(form)} for each in found]
    return {**visit.form(params, errors), "invitations": invitations, "link": None, **more}


def _signed_in_already(visit: PageVisit) -> PageAnswer:
    context = {**visit.form(), "shown": [], "failure": visit.texts["invitation_sign_out_first"]}
    return visit.refused(AlreadySignedIn("somebody is signed in"), context=context)
