"""The administrator's page: an extension that uses only public names. Both apps show it, and it also speaks JSON.

powauth does not decide who may lock users, reset second factors, or read the audit log. This page checks the identity.
"""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import ClassVar, Final

from powauth import Account, Extension, InvalidParams, Refused
from powauth.accounts.listing import Listed
from powauth.accounts.sqlalchemy import SQLAlchemyUsers
from powauth.accounts.user_keys import user_key_text
from powauth.extensions.audit import Audit, Entry
from powauth.extensions.lock import Lock
from powauth.extensions.second_factor import SecondFactor
from powauth.http.guards import require_fresh
from powauth.pages import Page, PageAnswer, PageLink, PageVisit

from .identity import Me
from .tables import User

FRESH: Final = timedelta(hours=1)
"""The maximum age of the administrator's sign-in for a change."""

MOST_USERS: Final = 100
MOST_ENTRIES: Final = 100

DONE: Final = {
    "lock": "administration_locked",
    "unlock": "administration_unlocked",
    "reset_factors": "administration_factors",
}
"""The actions, and the confirmations that the page shows afterwards."""

UNTIL: Final = {"": None, "hour": timedelta(hours=1), "day": timedelta(days=1)}
"""The lengths of a lock by the choices of the form; ``None`` has no end."""

TEXTS: Final = {
    "administration": "Administration",
    "administration_link": "Administration",
    "administration_users": "Users",
    "administration_user": "User",
    "administration_state": "State",
    "administration_you": "You",
    "administration_active": "Active",
    "administration_locked": "Locked",
    "administration_lock": "Lock",
    "administration_lock_of": "Lock {user}",
    "administration_unlock": "Unlock",
    "administration_unlock_of": "Unlock {user}",
    "administration_reset": "Remove second factors",
    "administration_reset_of": "Remove second factors of {user}",
    "administration_log": "Audit log",
    "administration_none": "There is nothing to show yet.",
    "administration_time": "Time",
    "administration_event": "Event",
    "administration_by": "by",
    "administration_from": "from",
    "done_administration_locked": "That user is locked, and signed out everywhere.",
    "done_administration_unlocked": "That user can sign in again.",
    "done_administration_factors": "That user has no second factors now, and is signed out everywhere.",
}


class Administration(Extension[Me]):
    """A page on which the administrator locks users, unlocks them, resets second factors, and reads the audit log.

    Args:
        users: the users.
    """

    name: ClassVar[str] = "administration"

    def __init__(self, users: SQLAlchemyUsers[User, Me]) -> None:
        self._users: Final = users

    def pages(self) -> Sequence[Page]:
        """See `Extension.pages`."""
        return [
            Page(
                name="administration",
                path="/administration",
                get=self.show,
                post=self.change,
                template="administration",
                folder=Path(__file__).parent / "templates",
                messages=TEXTS,
                offered_on="account",
                offered_to=self.offered,
            )
        ]

    async def offered(self, visit: PageVisit) -> PageLink | None:
        """Return the link to the page for the administrator."""
        me = visit.auth.current_user
        return PageLink() if me is not None and me.administrator else None

    async def show(self, visit: PageVisit) -> PageAnswer:
        """Show the users and the audit log."""
        return await self._page(visit, administrator_of(visit))

    async def change(self, visit: PageVisit) -> PageAnswer:
        """Lock or unlock a user, or remove their second factors. The administrator must have signed in recently."""
        me = administrator_of(visit)
        require_fresh(visit.auth, FRESH)
        params = await visit.params()
        await visit.check_signed_in()
        action = params.get("action")
        try:
            if not isinstance(action, str) or action not in DONE:
                raise InvalidParams({"action": ["is unknown"]})
            account = await self._found(params.get("email"))
            if account.key == me.id:
                raise InvalidParams({"email": ["is your own: nobody could unlock you"]})
            await _do(visit, action, account, params, me)
        except InvalidParams as error:
            page = await self._page(visit, me)
            context = {**page.context, **visit.form(params, error.errors)}
            return visit.refused(error, context=context)
        return PageAnswer(status=204, to=visit.link("administration", DONE[action]))

    async def _found(self, address: object) -> Account[Me]:
        """Return the account of a user. A locked one is found, too.

        Raises:
            InvalidParams: if there is no such user.
        """
        found = await self._users.find(address) if isinstance(address, str) else None
        if found is None:
            raise InvalidParams({"email": ["is unknown"]})
        return found

    async def _page(self, visit: PageVisit, me: Me) -> PageAnswer:
        users = await self._users.list_users(limit=MOST_USERS)
        names = {user_key_text(each.key): each.user_id or "" for each in users}
        entries = await visit.auth.extension(Audit).recent(limit=MOST_ENTRIES)
        form = visit.messages.time_format
        return PageAnswer(
            json={"users": [_user_json(each) for each in users], "log": [_entry_json(each) for each in entries]},
            context={
                **visit.form(),
                "users": [{"email": each.user_id, "active": each.active, "own": each.key == me.id} for each in users],
                "entries": [
                    {
                        "event": each.event,
                        "iso": each.at.isoformat(),
                        "time": each.at.astimezone(UTC).strftime(form),
                        "user": _name(names, each.user_key),
                        "actor": _name(names, each.actor),
                        "ip": each.ip,
                        "detail": each.detail,
                    }
                    for each in entries
                ],
            },
        )


def administrator_of(visit: PageVisit) -> Me:
    """Return the current user, who must be the administrator.

    Raises:
        NotSignedIn: if nobody is signed in.
        Refused: if it is somebody else.
    """
    me: Me = visit.auth.require_user()
    if not me.administrator:
        raise Refused("only the administrator may see this")
    return me


async def _do(visit: PageVisit, action: str, account: Account[Me], params: Mapping[str, object], me: Me) -> None:
    """Change a user.

    Raises:
        InvalidParams: if the end or the reason of a lock cannot be used.
    """
    request = visit.request.connection
    if action == "lock":
        reason = params.get("reason")
        text = reason if isinstance(reason, str) and reason.strip() else "by the administrator"
        await visit.auth.extension(Lock).lock(
            account, text, until=_end(params.get("until", "")), by=me, request=request
        )
    elif action == "unlock":
        await visit.auth.extension(Lock).unlock(account, by=me, request=request)
    else:
        await visit.auth.extension(SecondFactor).reset(account, by=me, request=request)


def _end(choice: object) -> datetime | None:
    if not isinstance(choice, str) or choice not in UNTIL:
        raise InvalidParams({"until": ["is unknown"]})
    length = UNTIL[choice]
    return None if length is None else datetime.now(UTC) + length


def _name(names: Mapping[str, str], key: str | None) -> str | None:
    """Return the address of a user for the log; the key, if the user is gone."""
    return None if key is None else names.get(key, key)


def _user_json(user: Listed) -> dict[str, object]:
    return {"email": user.user_id, "active": user.active}


def _entry_json(entry: Entry) -> dict[str, object]:
    named = ("event", "user_key", "actor", "sid", "ip", "detail")
    return {"at": entry.at.isoformat(), **{name: getattr(entry, name) for name in named}}
