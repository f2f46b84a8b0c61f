"""The page to change the user id or the password, and to delete the account."""

from powauth.accounts.base import Params
from powauth.errors import InvalidParams
from powauth.pages.page import Page
from powauth.pages.request import account_fields
from powauth.pages.routes import Routes
from powauth.pages.visit import PageAnswer, PageVisit
from powauth.pages.wire import signed_in_json

ACTIONS = ("update", "user_id", "password", "delete")
"""The forms of the page. ``update`` is for the fields that an app adds, and for programs."""


def page(routes: Routes) -> Page:
    """Return the page."""
    return Page(name="account", path=routes.account, get=show, post=change, template="account")


async def show(visit: PageVisit) -> PageAnswer:
    """Show the forms."""
    user = visit.auth.require_user()
    return PageAnswer(json=signed_in_json(visit, user), context=visit.form(action="update"))


async def change(visit: PageVisit) -> PageAnswer:
    """Change the account of the current user, or delete it."""
    visit.auth.require_user()
    params = await visit.params()
    await visit.check_signed_in()
    action = params.get("action", "update")
    try:
        if not isinstance(action, str) or action not in ACTIONS:
            raise InvalidParams({"action": ["is unknown"]})
        if action == "delete":
            return await _delete(visit, params)
        user = await visit.auth.update_user(_changes(visit, action, params))
    except InvalidParams as error:
        return visit.refused(error, context=visit.form(params, error.errors, action=str(action)))
    to = visit.link("account", "updated" if action == "update" else action)
    return PageAnswer(json=signed_in_json(visit, user), to=to)


async def _delete(visit: PageVisit, params: Params) -> PageAnswer:
    await visit.auth.delete_user({"current_password": params.get("current_password")})
    to = visit.destination(visit.settings.routes.after_delete, done="deleted", default="login")
    return PageAnswer(status=204, to=to)


def _changes(visit: PageVisit, action: str, params: Params) -> dict[str, object]:
    """Return the params for the users context. The first field of a form must not be empty."""
    if action == "update":
        return account_fields(params)
    first, *others = visit.settings.user_ids if action == "user_id" else ("password",)
    if params.get(first) in (None, ""):
        raise InvalidParams({first: ["can't be blank"]})
    changed = {name: params[name] for name in others if params.get(name) not in (None, "")}
    return {first: params[first], **changed, "current_password": params.get("current_password")}
