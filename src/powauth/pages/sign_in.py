"""The page to sign in."""

from collections.abc import Sequence
from urllib.parse import urlencode

from powauth.accounts.base import Params
from powauth.errors import InvalidParams, MoreNeeded
from powauth.http.own_path import own_path
from powauth.pages.messages import capital
from powauth.pages.page import Page
from powauth.pages.request import account_fields
from powauth.pages.routes import Routes
from powauth.pages.visit import PageAnswer, PageVisit
from powauth.pages.wire import signed_in_json

REMEMBER = "remember"
"""The name of the checkbox."""

_REMEMBER_VALUES = {True: True, False: False, None: None, "true": True, "false": False, "on": True, "": None}
"""Values of the field: a boolean in JSON, a checkbox's text in a form. ``None`` keeps the replaced session's choice."""


def page(routes: Routes) -> Page:
    """Return the page."""
    return Page(name="login", path=routes.login, get=show, post=sign_in, template="login")


async def show(visit: PageVisit) -> PageAnswer:
    """Show the form.

    Users who are signed in and were sent here by another page must sign in again. A redirect to it would be a loop.
    """
    fields = [visit.user_id_field, "password", *([REMEMBER] if visit.settings.remember else [])]
    target = visit.request.query_value("next")
    signed_in = visit.auth.current_user is not None
    to, notice = None, None
    if own_path(target) is not None:
        notice = visit.messages.sign_in_again if signed_in else visit.messages.sign_in_first
    elif signed_in:
        to = visit.destination(visit.settings.routes.after_login)
    return PageAnswer(json={"fields": fields}, to=to, context=_form(visit, target, notice=notice))


async def sign_in(visit: PageVisit) -> PageAnswer:
    """Sign in with a user id and a password."""
    params = await visit.params()
    target = params.get("next")
    remember = remember_in(visit, params)
    given = {name: value for name, value in account_fields(params).items() if name != REMEMBER}
    try:
        user = await visit.auth.sign_in(given, remember=remember)
    except MoreNeeded as error:
        notice, own = visit.messages.second_factor, own_path(target)
        to = visit.link(error.page) if error.page in visit.links else None
        if to is not None and own is not None:
            to += f"?{urlencode({'next': own})}"
        context = _form(visit, target, params, notice=notice, factors=error.factors)
        return visit.refused(error, to=to, context=context)
    if user is None:
        refused = {"base": [visit.messages.sign_in_refused]}
        context = _form(visit, target, params, refused)
        return PageAnswer(status=401, json={"error": "invalid_credentials"}, context=context)
    to = visit.destination(visit.settings.routes.after_login, target)
    return PageAnswer(json=signed_in_json(visit, user), to=to)


def remember_in(visit: PageVisit, params: Params) -> bool | None:
    """Return whether a client asks for a remembered session; ``None`` if the app offers none.

    Raises:
        InvalidParams: if the field is neither true nor false.
    """
    if not visit.settings.remember:
        return None
    value = params.get(REMEMBER)
    if not isinstance(value, bool | str | None) or value not in _REMEMBER_VALUES:
        raise InvalidParams({REMEMBER: ["is invalid"]})
    return _REMEMBER_VALUES[value]


def _form(
    visit: PageVisit,
    target: object,
    params: Params | None = None,
    errors: dict[str, list[str]] | None = None,
    *,
    notice: str | None = None,
    factors: Sequence[str] = (),
) -> dict[str, object]:
    # A user who confirms the password keeps the session's choice, so do not ask again.
    offered = visit.settings.remember and visit.user_id() is None
    several = len(visit.settings.user_ids) > 1
    label = capital(visit.messages.name(visit.settings.user_ids)) if several else None
    return visit.form(
        params,
        errors,
        next=own_path(target),
        notice=notice,
        factors=factors,
        remember=offered,
        login_label=label,
    )
