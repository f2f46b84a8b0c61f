"""The page on which users make, see and end their API keys."""

from collections.abc import Mapping, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, Protocol

from powauth.accounts.base import Params
from powauth.errors import InvalidParams
from powauth.extensions.api_keys.texts import TEXTS
from powauth.pages.page import Page
from powauth.pages.visit import PageAnswer, PageVisit
from powauth.pages.wire import iso

MAX_DAYS: Final = 3650

SCOPE_FIELD: Final = "scope:"
"""The beginning of the names of the checkboxes. A form cannot have one name twice."""

DAYS_FIELD: Final = "expires_in_days"


class Keys(Protocol):
    """The part of `ApiKeys` that the page uses."""

    async def create(self, auth: Any, name: object, scopes: object = ..., *, expires_in: timedelta | None = ...) -> Any:
        """See `ApiKeys.create`."""
        ...

    async def keys(self, auth: Any) -> Sequence[Any]:
        """See `ApiKeys.keys`."""
        ...

    async def end(self, auth: Any, public_id: object) -> bool:
        """See `ApiKeys.end`."""
        ...

    def scopes_of(self, identity: Any) -> frozenset[str] | None:
        """See `ApiKeys.scopes_of`."""
        ...


class KeyPages:
    """The handlers of the page.

    Args:
        keys: the extension.
        path: the path of the page.
    """

    def __init__(self, keys: Keys, path: str) -> None:
        self._keys: Final = keys
        self._path: Final = path

    def pages(self) -> list[Page]:
        """Return the page."""
        page = Page(
            name="api_keys",
            path=self._path,
            get=self.show,
            post=self.change,
            template="api_keys",
            folder=Path(__file__).parent / "templates",
            messages=TEXTS,
            offered_on="account",
        )
        return [page]

    async def show(self, visit: PageVisit) -> PageAnswer:
        """List the keys of the current user. No key is shown again."""
        found = await self._keys.keys(visit.auth)
        json = {"keys": [_json(each) for each in found], "scopes": self._scopes(visit)}
        return PageAnswer(json=json, context=self._context(visit, found))

    async def change(self, visit: PageVisit) -> PageAnswer:
        """Make a key, or end one. The owner is the user of the session, whatever the body says."""
        visit.auth.require_user()
        params = await visit.params()
        await visit.check_signed_in()
        action = params.get("action", "create")
        if action == "end":
            return await self._end(visit, params)
        try:
            if action != "create":
                raise InvalidParams({"action": ["is unknown"]})
            made = await self._keys.create(
                visit.auth, params.get("name"), _scopes_in(params), expires_in=_lifetime_in(params)
            )
        except InvalidParams as error:
            found = await self._keys.keys(visit.auth)
            return visit.refused(error, context=self._context(visit, found, params=params, errors=error.errors))
        found = await self._keys.keys(visit.auth)
        json = {**_json(made.info), "key": made.key}
        return PageAnswer(status=201, json=json, context=self._context(visit, found, made=made.key))

    async def _end(self, visit: PageVisit, params: Params) -> PageAnswer:
        if await self._keys.end(visit.auth, params.get("id")):
            return PageAnswer(status=204, to=visit.link("api_keys", "api_key_ended"))
        found = await self._keys.keys(visit.auth)
        context = self._context(visit, found, failure=visit.texts["api_keys_gone"])
        return PageAnswer(status=404, json={"error": "not_found"}, context=context)

    def _scopes(self, visit: PageVisit) -> list[str]:
        return sorted(self._keys.scopes_of(visit.auth.require_user()) or ())

    def _context(
        self,
        visit: PageVisit,
        found: Sequence[Any],
        *,
        params: Params | None = None,
        errors: Mapping[str, list[str]] | None = None,
        **more: object,
    ) -> dict[str, object]:
        shown = [_shown(each, visit.messages.time_format) for each in found]
        form = visit.form(params, errors)
        return {**form, "keys": shown, "scopes": self._scopes(visit), "made": None, "max_days": MAX_DAYS, **more}


def _scopes_in(params: Params) -> object:
    """Return the scopes that a client asks for: a list in JSON, or the checkboxes of a form."""
    if "scopes" in params:
        return params["scopes"]
    ticked = [name for name, value in params.items() if name.startswith(SCOPE_FIELD) and value in ("true", "on")]
    return [name.removeprefix(SCOPE_FIELD) for name in ticked]


def _lifetime_in(params: Params) -> timedelta | None:
    """Return the time after which the key ends; ``None`` if the client names none.

    Raises:
        InvalidParams: if it is no number of days.
    """
    days = params.get(DAYS_FIELD)
    if days is None or days == "":
        return None
    if isinstance(days, str) and days.isascii() and days.isdigit() and len(days) <= len(str(MAX_DAYS)):
        days = int(days)
    if isinstance(days, bool) or not isinstance(days, int) or not 1 <= days <= MAX_DAYS:
        raise InvalidParams({DAYS_FIELD: [f"must be a number from 1 to {MAX_DAYS}"]})
    return timedelta(days=days)


def _json(info: Any) -> dict[str, object]:
    return {
        "id": info.id,
        "prefix": info.prefix,
        "name": info.name,
        "scopes": list(info.scopes),
        "created_at": iso(info.created_at),
        "last_used_at": None if info.last_used_at is None else iso(info.last_used_at),
        "expires_at": None if info.expires_at is None else iso(info.expires_at),
    }


def _shown(info: Any, form: str) -> dict[str, object]:
    times = {"created": info.created_at, "last_used": info.last_used_at, "expires": info.expires_at}
    shown = {name: None if at is None else _moment(at, form) for name, at in times.items()}
    return {"id": info.id, "prefix": info.prefix, "name": info.name, "scopes": ", ".join(info.scopes), **shown}


def _moment(at: datetime, form: str) -> dict[str, str]:
    return {"iso": iso(at), "text": at.astimezone(UTC).strftime(form)}
