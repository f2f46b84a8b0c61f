"""The page to set up an authenticator app."""

import base64
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, Protocol

from powauth.errors import InvalidParams
from powauth.extensions.letters import Words, words_of
from powauth.extensions.second_factor.enrolments import Pending
from powauth.extensions.second_factor.factor import EnrolledFactor, fresh_in
from powauth.http.guards import FRESH
from powauth.pages.page import Page
from powauth.pages.visit import PageAnswer, PageVisit
from powauth.request_auth import RequestAuth

FOLDER: Final = Path(__file__).parent / "templates"

PAGE_NAME: Final = "factor_totp"

DONE: Final = "factor_enrolled"


class Enrols(Protocol):
    """The part of `Totp` that the page uses."""

    async def begin(self, bound: RequestAuth[Any, Any], within: timedelta = FRESH) -> Pending:
        """See `Totp.begin`."""
        ...

    async def pending(self, bound: RequestAuth[Any, Any], within: timedelta = FRESH) -> Pending | None:
        """See `Totp.pending`."""
        ...

    async def confirm(
        self,
        bound: RequestAuth[Any, Any],
        code: object,
        label: object = None,
        words: Words | None = None,
        within: timedelta = FRESH,
    ) -> bool:
        """See `Totp.confirm`."""
        ...

    async def enrolled_by(self, bound: RequestAuth[Any, Any], within: timedelta = FRESH) -> EnrolledFactor | None:
        """See `Totp.enrolled_by`."""
        ...

    def uri(self, seed: bytes, *, account: str, issuer: str) -> str:
        """See `Totp.uri`."""
        ...


class TotpPages:
    """Makes the page.

    Args:
        totp: enrols.
        texts: the texts of the page.
        path: the path of the page.
        issuer: the name of the app in the authenticator app; ``None`` is the title of the pages.
    """

    def __init__(self, totp: Enrols, texts: Mapping[str, str], path: str, issuer: str | None) -> None:
        self._totp: Final = totp
        self._texts: Final = texts
        self._path: Final = path
        self._issuer: Final = issuer

    def pages(self) -> list[Page]:
        """Return the page."""
        page = Page(
            name=PAGE_NAME,
            path=self._path,
            get=self._show,
            post=self._change,
            template="factor_totp",
            folder=FOLDER,
            messages=self._texts,
        )
        return [page]

    async def _show(self, visit: PageVisit) -> PageAnswer:
        found = await self._totp.enrolled_by(visit.auth, fresh_in(visit))
        json = {"fields": ["action", "code", "label"], "enrolled": found is not None}
        return PageAnswer(json=json, context=_context(visit, replaces=found is not None))

    async def _change(self, visit: PageVisit) -> PageAnswer:
        params = await visit.params()
        action = params.get("action")
        if action == "begin":
            return self._shown(visit, await self._totp.begin(visit.auth, fresh_in(visit)))
        if action != "confirm":
            raise InvalidParams({"action": ["is unknown"]})
        try:
            code, label, within = params.get("code"), params.get("label"), fresh_in(visit)
            done = await self._totp.confirm(visit.auth, code, label, words_of(visit), within)
        except InvalidParams as error:
            pending = await self._totp.pending(visit.auth, fresh_in(visit))
            if pending is None:
                return self._again(visit)
            shown = self._shown(visit, pending, error, label=params.get("label"))
            answer = visit.refused(error)
            return PageAnswer(status=answer.status, json=answer.json, context=shown.context)
        if not done:
            return self._again(visit)
        found = await self._totp.enrolled_by(visit.auth, fresh_in(visit))
        return PageAnswer(status=201, json={"id": None if found is None else found.id}, to=visit.link("factors", DONE))

    def _shown(
        self, visit: PageVisit, pending: Pending, error: InvalidParams | None = None, label: object = None
    ) -> PageAnswer:
        account = visit.user_id() or ""
        issuer = self._issuer or visit.settings.title
        uri = self._totp.uri(pending.seed, account=account, issuer=issuer)
        json = shown(pending.seed, uri)
        context = _context(visit, error, qr=drawn(uri, visit.texts["factor_totp_qr"]), secret=json["secret"])
        if isinstance(label, str):
            context["values"] = {"label": label}
        return PageAnswer(json=json, context=context)

    def _again(self, visit: PageVisit) -> PageAnswer:
        error = InvalidParams({"base": ["began too long ago, or elsewhere: begin again"]})
        context = _context(visit)
        context["errors"] = {"base": [visit.texts["factor_totp_again"]]}
        return visit.refused(error, context=context)


def _context(visit: PageVisit, error: InvalidParams | None = None, **context: object) -> dict[str, object]:
    errors = None if error is None else error.errors
    return visit.form({}, errors, **{"qr": None, "secret": None, "replaces": False, **context})


def shown(seed: bytes, uri: str) -> dict[str, object]:
    """Return a seed as a client shows it: the text in groups, for people who type it."""
    secret = base64.b32encode(seed).decode().rstrip("=")
    parts = [secret[start : start + 4] for start in range(0, len(secret), 4)]
    return {"secret": " ".join(parts), "uri": uri, "digits": 6, "period": 30}


def drawn(uri: str, title: str) -> str:
    """Return the QR code as SVG without styles: the pages' policy allows none."""
    import segno

    code = segno.make_qr(uri, error="m")
    return code.svg_inline(scale=5, border=4, dark="#000", light="#fff", title=title, svgclass=None, lineclass=None)
