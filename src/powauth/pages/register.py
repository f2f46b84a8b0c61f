"""The page to register."""

from collections.abc import Iterable, Mapping
from typing import Any, Final

from powauth.accounts.base import Params
from powauth.accounts.fields import FormField
from powauth.errors import AlreadySignedIn, InvalidParams, NotSignedIn
from powauth.http.cross_site import media_type
from powauth.http.own_path import own_path
from powauth.pages.page import Page
from powauth.pages.request import JSON, account_fields
from powauth.pages.visit import PageAnswer, PageVisit
from powauth.pages.wire import signed_in_json

AUTOCOMPLETE: Final[Mapping[str, str]] = {
    "email": "email",
    "username": "username",
    "name": "name",
    "full_name": "name",
    "first_name": "given-name",
    "given_name": "given-name",
    "last_name": "family-name",
    "family_name": "family-name",
    "nickname": "nickname",
    "display_name": "nickname",
    "phone": "tel",
    "phone_number": "tel",
    "birthday": "bday",
    "date_of_birth": "bday",
    "organization": "organization",
    "company": "organization",
    "country": "country-name",
    "city": "address-level2",
    "postal_code": "postal-code",
}
"""Purposes of usual fields, for browsers that fill in forms (WCAG 2.2, 1.3.5; HTML, "autofill detail tokens")."""


def page(path: str) -> Page:
    """Return the page."""
    return Page(name="register", path=path, get=show, post=register, template="register")


async def show(visit: PageVisit) -> PageAnswer:
    """Show the form."""
    if visit.auth.current_user is not None:
        return _already_signed_in(visit)
    context = _form(visit, visit.request.query_value("next"))
    password = ["password"] if visit.settings.asks_password else []
    return PageAnswer(json={"fields": [*(field.name for field in visit.settings.fields), *password]}, context=context)


async def register(visit: PageVisit) -> PageAnswer:
    """Register a user and sign in."""
    params = await visit.params()
    if visit.auth.current_user is not None:
        return _already_signed_in(visit)
    given = account_fields(params)
    if media_type(visit.request.connection) != JSON:
        given = from_form(visit.settings.fields, given)
    try:
        user = await visit.auth.register(given)
    except InvalidParams as error:
        return visit.refused(error, context=_form(visit, params.get("next"), params, error.errors))
    except NotSignedIn:  # the account exists, and must be activated before its user can sign in
        return PageAnswer(status=201, json={"user": None, "session": None}, to=visit.link("login", "created"))
    to = visit.destination(visit.settings.routes.after_register, params.get("next"), done="registered")
    return PageAnswer(status=201, json=signed_in_json(visit, user), to=to)


def from_form(fields: Iterable[FormField], given: Mapping[str, object]) -> dict[str, object]:
    """Return the values that the texts of a form mean, without optional fields that were left empty."""
    found = dict(given)
    for field in fields:
        if not field.required and given.get(field.name) == "":
            del found[field.name]
        elif field.name in given or field.kind == "flag":
            found[field.name] = field.parsed(given.get(field.name))
    return found


def _already_signed_in(visit: PageVisit) -> PageAnswer:
    to = visit.destination(visit.settings.routes.after_register)
    return visit.refused(AlreadySignedIn("somebody is signed in"), to=to)


def _form(
    visit: PageVisit, target: object, params: Params | None = None, errors: Mapping[str, Any] | None = None
) -> dict[str, object]:
    shown = [shown_field(visit, field) for field in visit.settings.fields]
    asks_password = visit.settings.asks_password
    return visit.form(params, errors, next=own_path(target), shown=shown, asks_password=asks_password)


def shown_field(visit: PageVisit, field: FormField) -> dict[str, object]:
    """Return what the template of a form to register needs of a field."""
    messages, user_ids = visit.messages, visit.settings.user_ids
    label = messages.label(field.name)
    # A browser saves one field as the user name beside the password.
    is_login = field.name == ("username" if "username" in user_ids else user_ids[0])
    is_id = field.name in user_ids or field.kind == "email"
    return {
        "name": field.name,
        "label": label if field.required else messages.optional.format(label=label),
        "kind": field.kind,
        "required": field.required,
        "max_length": field.max_length,
        "autocomplete": "username" if is_login else AUTOCOMPLETE.get(field.name, "off"),
        "autocapitalize": "none" if is_id else "sentences",
    }
