"""The page with the user's sessions, shown as devices."""

from datetime import UTC, datetime
from typing import Any

from powauth.errors import InvalidParams
from powauth.http.guards import require_fresh
from powauth.pages.devices import device_name
from powauth.pages.messages import Messages
from powauth.pages.page import Page
from powauth.pages.routes import Routes
from powauth.pages.visit import PageAnswer, PageVisit
from powauth.pages.wire import iso, session_json
from powauth.sessions.info import SessionInfo


def page(routes: Routes) -> Page:
    """Return the page."""
    return Page(name="sessions", path=routes.sessions, get=show, post=end, template="sessions")


async def show(visit: PageVisit) -> PageAnswer:
    """List the sessions of the current user."""
    visit.auth.require_user()
    found = await visit.auth.sessions()
    return PageAnswer(json={"sessions": [session_json(each) for each in found]}, context=_devices(visit, found))


async def end(visit: PageVisit) -> PageAnswer:
    """End one session, or all except the current one. This needs a fresh sign-in (ASVS 7.5.2).

    One fresh factor is enough: a user who has lost the second factor can still end the sessions of a thief.
    """
    visit.auth.require_user()
    params = await visit.params()
    await visit.check_signed_in()
    if visit.settings.fresh is not None:
        require_fresh(visit.auth, visit.settings.fresh)
    action = params.get("action", "end")
    if action == "end_others":
        ended = await visit.auth.revoke_others()
        return PageAnswer(json={"ended": ended}, to=visit.link("sessions", "ended_others"))
    if action != "end":
        raise InvalidParams({"action": ["is unknown"]})
    if not await visit.auth.revoke(params.get("id")):
        failure = visit.messages.failures.get("no_such_session")
        context = {**_devices(visit, await visit.auth.sessions()), "failure": failure}
        return PageAnswer(status=404, json={"error": "not_found"}, context=context)
    if visit.auth.current_user is None:
        to = visit.destination(visit.settings.routes.after_logout, done="signed_out", default="login")
        return PageAnswer(status=204, to=to)
    return PageAnswer(status=204, to=visit.link("sessions", "ended"))


def _devices(visit: PageVisit, found: list[SessionInfo]) -> dict[str, Any]:
    messages = visit.messages
    current_first = sorted(found, key=lambda session: not session.current)
    return {"devices": [_device(session, messages) for session in current_first]}


def _device(session: SessionInfo, messages: Messages) -> dict[str, Any]:
    return {
        "id": session.sid,
        "current": session.current,
        "remembered": session.remembered,
        "name": device_name(session.metadata.get("user_agent"), messages),
        "ip": session.metadata.get("ip") or messages.unknown,
        "signed_in": _moment(session.created_at, messages),
        "seen": _moment(session.renewed_at, messages),
    }


def _moment(moment: datetime, messages: Messages) -> dict[str, str]:
    return {"iso": iso(moment), "text": moment.astimezone(UTC).strftime(messages.time_format)}
