"""The pages of `Passkeys`: the user's passkeys, and the sign-in with one. Each has its JSON twin on the same path."""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import UTC
from pathlib import Path
from typing import Any, Final, Generic

from powauth._options import wrong
from powauth._running import uncancellable
from powauth.accounts.base import Params
from powauth.accounts.identity import I, Key
from powauth.errors import ConfigError, InvalidParams, NotSignedIn
from powauth.extensions.letters import words_of
from powauth.extensions.links import script_page
from powauth.extensions.passkeys.answers import CREDENTIAL, CeremonyFailed
from powauth.extensions.passkeys.authentication import Authentication
from powauth.extensions.passkeys.registration import INVALID, LAST_WAY, TAKEN, TOO_MANY, Registration, label_in
from powauth.extensions.passkeys.table import StoredPasskey
from powauth.extensions.passkeys.texts import SIGN_IN_TEXTS, TEXTS
from powauth.extensions.passkeys.user_passkeys import UserPasskeys
from powauth.extensions.second_factor import SecondFactor
from powauth.http.guards import FRESH, require_all_fresh
from powauth.http.own_path import own_path
from powauth.pages.devices import device_name
from powauth.pages.page import Page, PagePart
from powauth.pages.routes import is_path
from powauth.pages.sign_in import remember_in
from powauth.pages.visit import PageAnswer, PageVisit
from powauth.pages.wire import iso, signed_in_json

FOLDER: Final = Path(__file__).parent / "templates"

CSP: Final[Mapping[str, list[str]]] = {"script-src": ["'self'"], "connect-src": ["'self'"]}
"""The additions to the policy of a page with the script. The script asks this site for a challenge, and nobody else."""

SCRIPT_CSP: Final[Mapping[str, list[str]]] = {"script-src": ["'self'"]}
"""The addition to the policy of a page that has the options in it, and need not ask for them."""

FACTOR: Final = "passkey"
"""The name of a passkey among the second factors."""

_SCRIPT: Final = (FOLDER / "passkeys.js").read_bytes()


@dataclass(frozen=True, kw_only=True)
class Paths:
    """The paths of the pages of `Passkeys`, below the mount.

    Attributes:
        passkeys: the page with the user's passkeys.
        sign_in: the page to sign in with a passkey.
        script: the script.

    Raises:
        ConfigError: if a path is wrong, or two are the same.
    """

    passkeys: str = "/account/passkeys"
    sign_in: str = "/login/passkey"
    script: str = "/powauth-passkeys.js"

    def __post_init__(self) -> None:
        found = [getattr(self, each.name) for each in fields(self)]
        for path in found:
            if not is_path(path):
                raise wrong("a path of Passkeys", "a path such as '/account/passkeys'", path)
        if len(set(found)) != len(found):
            raise ConfigError("two pages of Passkeys have the same path")


class PasskeyPages(Generic[I]):
    """The handlers of the pages.

    Args:
        authentication: uses passkeys.
        registration: adds, renames and removes them.
        passkeys: finds them.
        paths: the paths.
    """

    def __init__(
        self,
        authentication: Authentication[I],
        registration: Registration[I],
        passkeys: UserPasskeys[I],
        paths: Paths,
    ) -> None:
        self._authentication: Final = authentication
        self._registration: Final = registration
        self._passkeys: Final = passkeys
        self._paths: Final = paths

    def pages(self) -> list[Page]:
        """Return the pages."""
        texts = {**TEXTS, **SIGN_IN_TEXTS}
        own = Page(
            name="passkeys",
            path=self._paths.passkeys,
            get=self.show,
            post=self.change,
            template="passkeys",
            folder=FOLDER,
            messages=texts,
            csp=CSP,
            offered_on="account",
        )
        sign_in = Page(
            name="passkey_sign_in",
            path=self._paths.sign_in,
            get=self.show_sign_in,
            post=self.sign_in,
            template="passkey_sign_in",
            folder=FOLDER,
            messages=texts,
            csp=CSP,
        )
        return [own, sign_in, script_page("passkeys_script", self._paths.script, _SCRIPT)]

    @staticmethod
    def parts() -> list[PagePart]:
        """Return the button on the page to sign in."""
        return [PagePart(on="login", template="passkey_part", folder=FOLDER, messages=SIGN_IN_TEXTS, csp=CSP)]

    # --- signing in ---------------------------------------------------------------------------------------------------

    async def show_sign_in(self, visit: PageVisit) -> PageAnswer:
        """Show the button."""
        target = own_path(visit.request.query_value("next"))
        return PageAnswer(json={"fields": [CREDENTIAL]}, context=visit.form(next=target))

    async def sign_in(self, visit: PageVisit) -> PageAnswer:
        """Return the options for the browser (``action`` is ``options``), or sign in with its answer."""
        params = await visit.params()
        request = visit.request.connection
        key = None if visit.auth.current_user is None else visit.auth.auth.current_key(request)
        if params.get("action") == "options":
            return PageAnswer(
                json={"publicKey": await self._authentication.ask(request, key)}, to=visit.link("passkey_sign_in")
            )
        remember = remember_in(visit, params)
        try:
            proof = await self._authentication.prove(request, params.get(CREDENTIAL), key)
            user = await self._authentication.sign_in(request, proof, remember=remember)
        except CeremonyFailed:
            context = visit.form(None, {"base": [visit.texts["passkey_refused"]]}, next=own_path(params.get("next")))
            return PageAnswer(status=401, json={"error": "invalid_passkey"}, context=context)
        to = visit.destination(visit.settings.routes.after_login, params.get("next"))
        return PageAnswer(json=signed_in_json(visit, user), to=to)

    # --- the user's passkeys ------------------------------------------------------------------------------------------

    async def show(self, visit: PageVisit) -> PageAnswer:
        """List the passkeys of the current user."""
        found = await self._passkeys.of_user(self._key(visit))
        return PageAnswer(json={"passkeys": [_json(each) for each in found]}, context=self._page(visit, found))

    async def change(self, visit: PageVisit) -> PageAnswer:
        """Add, rename or remove a passkey. To add and to remove one needs a fresh sign-in (ASVS 7.5.1).

        It includes a second factor, if one is on.
        """
        key = self._key(visit)
        params = await visit.params()
        await _check_current(visit, key)
        action = params.get("action")
        if action != "rename":
            await require_all_fresh(visit.auth, visit.settings.fresh or FRESH)
        try:
            match action:
                case "options":
                    options = await self._registration.begin(visit.request.connection, key, visit.user_id() or "")
                    return PageAnswer(json={"publicKey": options}, to=visit.link("passkeys"))
                case "add":
                    return await self._add(visit, key, params)
                case "rename":
                    done = await self._registration.rename(key, params.get("id"), label_in(params.get("label"), "?"))
                    return await self._done(visit, key, "passkey_renamed", found=done)
                case "remove":
                    removed = await self._remove(visit, key, params.get("id"))
                    return await self._done(visit, key, "passkey_removed", found=removed)
            raise InvalidParams({"action": ["is unknown"]})
        except InvalidParams as error:
            return await self._refused(visit, key, error)

    async def _add(self, visit: PageVisit, key: Key, params: Params) -> PageAnswer:
        request = visit.request.connection
        label = label_in(params.get("label"), device_name(request.header("user-agent"), visit.messages))
        added = await self._registration.add(visit.auth.auth, request, key, params.get(CREDENTIAL), label)
        return PageAnswer(status=201, json=_json(added), to=visit.link("passkeys", "passkey_added"))

    @uncancellable
    async def _remove(self, visit: PageVisit, key: Key, name: object) -> bool:
        """Remove a passkey, and end the user's other sessions.

        If passkeys are second factors, `SecondFactor` decides whether the user needs it.
        """
        engine = _engine(visit)
        if engine is None or FACTOR not in engine.factors or not isinstance(name, str):
            removed = await self._registration.remove(visit.request.connection, key, name) is not None
        else:
            removed = await engine.remove(visit.auth, FACTOR, name, words_of(visit))
        if removed:
            await visit.auth.revoke_others()
        return removed

    async def _done(self, visit: PageVisit, key: Key, done: str, *, found: bool) -> PageAnswer:
        if found:
            return PageAnswer(status=204, to=visit.link("passkeys", done))
        failure = visit.texts["passkeys_gone"]
        context = self._page(visit, await self._passkeys.of_user(key), failure=failure)
        return PageAnswer(status=404, json={"error": "not_found"}, context=context)

    async def _refused(self, visit: PageVisit, key: Key, error: InvalidParams) -> PageAnswer:
        texts = visit.texts
        sentences = [
            texts[SENTENCES[text]] if text in SENTENCES else visit.messages.error(name, text)
            for name, found in error.errors.items()
            for text in found
        ]
        context = self._page(visit, await self._passkeys.of_user(key), failure=" ".join(sentences))
        return visit.refused(error, context=context)

    def _page(self, visit: PageVisit, found: list[StoredPasskey], failure: str | None = None) -> dict[str, object]:
        form = visit.messages.time_format
        shown = [
            {
                **_json(each),
                "created": each.created_at.astimezone(UTC).strftime(form),
                "used": None if each.last_used_at is None else each.last_used_at.astimezone(UTC).strftime(form),
            }
            for each in found
        ]
        fresh = visit.auth.is_fresh(visit.settings.fresh or FRESH)
        return visit.form(passkeys=shown, fresh=fresh, failure=failure)

    @staticmethod
    def _key(visit: PageVisit) -> Key:
        visit.auth.require_user()
        key = visit.auth.auth.current_key(visit.request.connection)
        if key is None:
            raise NotSignedIn("sign in first")
        return key


SENTENCES: Final = {
    TOO_MANY: "passkeys_most",
    LAST_WAY: "passkeys_last",
    TAKEN: "passkeys_taken",
    INVALID: "passkeys_failed",
}
"""The texts for people, by the messages for programs."""


def _engine(visit: PageVisit) -> SecondFactor[Any] | None:
    """Return the extension that asks for second factors, if the app has it."""
    for each in visit.auth.auth.accounts.hooks.extensions:
        if isinstance(each, SecondFactor):
            return each
    return None


async def _check_current(visit: PageVisit, key: Key) -> None:
    """Check that the account is still the one that signed in. An older session of it may add no passkey.

    It reads the session again: the session may have ended while a client was sending the body of the request.

    Raises:
        NotSignedIn: if the session has ended, or the user is gone or locked, or has another password or user id.
    """
    auth, request = visit.auth.auth, visit.request.connection
    if not await auth.recheck(request):
        raise NotSignedIn("the session has ended: sign in again")
    account = await auth.accounts.users.get(key)
    if account is None or not auth.is_current(request, account):
        await auth.do_delete(request)
        raise NotSignedIn("the account no longer exists, or was changed: sign in again")


def _json(each: StoredPasskey) -> dict[str, Any]:
    return {
        "id": str(each.id),
        "label": each.label,
        "backed_up": each.backed_up,
        "created_at": iso(each.created_at),
        "last_used_at": None if each.last_used_at is None else iso(each.last_used_at),
    }
