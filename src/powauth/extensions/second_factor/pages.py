"""The pages of `SecondFactor`: one asks for a factor, and one lists the factors of a user."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Generic

from powauth.accounts.base import Params
from powauth.accounts.identity import I
from powauth.errors import ConfigError, InvalidParams, Refused
from powauth.extensions.letters import words_of
from powauth.extensions.second_factor.challenges import Open
from powauth.extensions.second_factor.engine import ENROL, SECOND_FACTOR, Engine
from powauth.extensions.second_factor.factor import EnrolledFactor, fresh_in
from powauth.extensions.second_factor.notices import FOLDER
from powauth.extensions.second_factor.of_users import CHALLENGE_INVALID, FACTORS
from powauth.http.own_path import own_path
from powauth.pages.page import Page
from powauth.pages.visit import PageAnswer, PageVisit
from powauth.pages.wire import iso, signed_in_json


class FactorPages(Generic[I]):
    """Makes the pages of one `SecondFactor`."""

    def __init__(self, engine: Engine[I]) -> None:
        self._engine = engine

    def own_pages(self) -> list[Page]:
        """Return the pages, without those of the factors."""
        engine = self._engine
        csp: dict[str, tuple[str, ...]] = {}
        for factor in engine.factors.values():
            for directive, sources in factor.csp.items():
                csp[directive] = tuple(dict.fromkeys((*csp.get(directive, ()), *sources)))
        return [
            Page(
                name=SECOND_FACTOR,
                path=engine.path,
                get=self.show,
                post=self.answer,
                template="second_factor",
                folder=FOLDER,
                messages=engine.texts,
                csp=csp,
            ),
            Page(
                name=FACTORS,
                path=engine.manage_path,
                get=self.show_list,
                post=self.change,
                template="factors",
                folder=FOLDER,
                messages=engine.texts,
                offered_on="account",
            ),
        ]

    # --- asking for a factor ------------------------------------------------------------------------------------------

    async def show(self, visit: PageVisit) -> PageAnswer:
        """Show the forms of the user's factors. A signed-in user becomes fresh again by them."""
        target = visit.request.query_value("next")
        found = await self._engine.open(visit.auth, {})
        if found is not None:
            return await self._forms(visit, found, target)
        if visit.auth.current_user is None:
            raise _start_again()
        begun = await self._engine.step_up(visit.auth)
        return await self._forms(visit, begun.open, target, token=begun.token)

    async def answer(self, visit: PageVisit) -> PageAnswer:
        """Check an answer, and complete the sign-in. With ``action=options``, return what a program needs to answer."""
        params = await visit.params()
        target = params.get("next")
        if params.get("action") == "options":
            return await self._forms(visit, await self._engine.open(visit.auth, params), target)
        try:
            user = await self._engine.answer(visit.auth, params)
        except InvalidParams as error:
            answer = visit.refused(error)
            return await self._refused(visit, params, answer.status, answer.json, error.errors)
        if user is None:
            found = await self._engine.open(visit.auth, params)
            factors = [] if found is None else await self._engine.names(found)
            json = {"error": "second_factor_refused", "factors": factors}
            errors = {"base": [visit.texts["second_factor_wrong"]]}
            return await self._refused(visit, params, 401, json, errors)
        to = visit.destination(visit.settings.routes.after_login, target)
        return PageAnswer(json={**signed_in_json(visit, user), **_token(visit)}, to=to)

    async def _refused(
        self, visit: PageVisit, params: Params, status: int, json: object, errors: Mapping[str, list[str]]
    ) -> PageAnswer:
        found = await self._engine.open(visit.auth, params)
        context = {} if found is None else (await self._forms(visit, found, params.get("next"), errors)).context
        to = visit.link("login", CHALLENGE_INVALID) if found is None else None
        return PageAnswer(status=status, json=json, context=context, to=to)

    async def _forms(
        self,
        visit: PageVisit,
        found: Open[I] | None,
        target: object,
        errors: Mapping[str, list[str]] | None = None,
        *,
        token: str | None = None,
    ) -> PageAnswer:
        names = [] if found is None else await self._engine.names(found)
        if found is None or not names:
            raise _start_again()
        enrols = found.challenge.purpose == ENROL
        forms: list[dict[str, Any]] = []
        for name in names:
            factor = self._engine.factors[name]
            ask = factor.offer if enrols else factor.challenge
            template = factor.offer_template if enrols else factor.template
            options = await ask(found.account, found.challenge)
            forms.append({"name": name, "template": f"{template}.html", "options": options})
        json: dict[str, object] = {
            **({"enrol": True} if enrols else {}),
            "factors": names,
            "options": {each["name"]: each["options"] for each in forms if each["options"]},
        }
        if token is not None:
            json["challenge"] = token
        context = visit.form({}, errors, forms=forms, next=own_path(target), enrols=enrols)
        return PageAnswer(json=json, context=context)

    # --- the list -----------------------------------------------------------------------------------------------------

    async def show_list(self, visit: PageVisit) -> PageAnswer:
        """List the factors of the current user."""
        user = visit.auth.require_user()
        found = await self._engine.enrolled(user)
        return PageAnswer(json={"factors": [_json(each) for each in found]}, context=self._list(visit, found))

    async def change(self, visit: PageVisit) -> PageAnswer:
        """Remove a factor of the current user. This needs a fresh sign-in."""
        user = visit.auth.require_user()
        params = await visit.params()
        await self._engine.check_fresh(visit.auth, fresh_in(visit))
        name, identifier = params.get("factor"), params.get("id")
        if params.get("action") != "remove":
            raise InvalidParams({"action": ["is unknown"]})
        removed, failure = False, visit.texts["factors_gone"]
        answer = PageAnswer(status=404, json={"error": "not_found"})
        if isinstance(name, str) and isinstance(identifier, str):
            try:
                removed = await self._engine.remove(visit.auth, name, identifier, words_of(visit))
            except Refused as error:
                if error.code not in ("last_way_in", "factor_required"):
                    raise
                failure, answer = str(error), visit.refused(error)
        if removed:
            return PageAnswer(status=204, to=visit.link(FACTORS, "factor_removed"))
        context = self._list(visit, await self._engine.enrolled(user), failure=failure)
        return PageAnswer(status=answer.status, json=answer.json, context=context)

    def _list(self, visit: PageVisit, found: list[EnrolledFactor], failure: str | None = None) -> dict[str, object]:
        texts = visit.texts
        links = visit.links
        form = visit.messages.time_format
        shown = [
            {
                "factor": each.factor,
                "id": each.id,
                "label": each.label,
                "kind": texts[f"factor_{each.factor}"],
                "created": _moment(each.created_at, form),
                "used": None if each.last_used_at is None else _moment(each.last_used_at, form),
                "left": None if each.left is None else texts["factors_left"].format(left=each.left),
                "remove": texts["factors_remove_of"].format(label=each.label),
            }
            for each in found
        ]
        adding = [
            {"link": links[f"factor_{name}"], "text": texts[f"factor_{name}_add"]}
            for name in self._engine.factors
            if f"factor_{name}" in links
        ]
        return visit.form({}, None, factors_of_user=shown, adding=adding, failure=failure)


def _start_again() -> Refused:
    return Refused("there is no sign-in to complete", code=CHALLENGE_INVALID, page="login", done=CHALLENGE_INVALID)


def _token(visit: PageVisit) -> dict[str, str]:
    try:
        return {"access_token": visit.auth.access_token}
    except ConfigError:  # the session is in a cookie
        return {}


def _json(each: EnrolledFactor) -> dict[str, object]:
    return {
        "factor": each.factor,
        "id": each.id,
        "label": each.label,
        "created_at": iso(each.created_at),
        "last_used_at": None if each.last_used_at is None else iso(each.last_used_at),
        "left": each.left,
    }


def _moment(at: datetime, form: str) -> dict[str, str]:
    return {"iso": iso(at), "text": at.astimezone(UTC).strftime(form)}
