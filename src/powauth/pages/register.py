"""The page to register."""

from collections.abc import Mapping
from typing import Any

from powauth.errors import AlreadySignedIn, InvalidParams, NotSignedIn
from powauth.http.own_path import own_path
from powauth.pages.page import Page
from powauth.pages.request import Params, account_fields
from powauth.pages.routes import Routes
from powauth.pages.visit import PageAnswer, PageVisit
from powauth.pages.wire import signed_in_json


def page(routes: Routes) -> Page:
    """Return the page."""
    return Page(name="register", path=routes.register, get=show, post=register, template="register")


async def show(visit: PageVisit) -> PageAnswer:
    """Show the form."""
    if visit.auth.current_user is not None:
        return _already_signed_in(visit)
    context = _form(visit, visit.request.query_value("next"))
    return PageAnswer(json={"fields": [visit.user_id_field, "password"]}, context=context)


async def register(visit: PageVisit) -> PageAnswer:
    """Register a user and sign in."""
    params = await visit.params()
    if visit.auth.current_user is not None:
        return _already_signed_in(visit)
    try:
        user = await visit.auth.register(account_fields(params))
    except InvalidParams as error:
        return visit.refused(error, context=_form(visit, params.get("next"), params, error.errors))
    except NotSignedIn:  # the account exists, and must be activated before its user can sign in
        return PageAnswer(status=201, json={"user": None, "session": None}, to=visit.link("login", "created"))
    to = visit.destination(visit.settings.routes.after_register, params.get("next"), done="registered")
    return PageAnswer(status=201, json=signed_in_json(visit, user), to=to)


def _already_signed_in(visit: PageVisit) -> PageAnswer:
    to = visit.destination(visit.settings.routes.after_register)
    return visit.refused(AlreadySignedIn("somebody is signed in"), to=to)


def _form(
    visit: PageVisit, target: object, params: Params | None = None, errors: Mapping[str, Any] | None = None
) -> dict[str, object]:
    return visit.form(params, errors, next=own_path(target))
