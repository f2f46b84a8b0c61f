"""`Passkeys`: the extension."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar, Final, Self

from powauth._options import instance, whole_number, wrong
from powauth._running import uncancellable
from powauth._times import duration
from powauth.accounts.base import key_of_user
from powauth.accounts.changes import CLAIMED, CREATED
from powauth.accounts.hooks import Extension, Parts, Step
from powauth.accounts.identity import I, Key
from powauth.accounts.throttle import Limit, checked_limit
from powauth.accounts.user_tables import bind_to_users
from powauth.errors import ConfigError
from powauth.events import EventKind
from powauth.extensions.letters import Letters, Words, mail_texts_of
from powauth.extensions.links import Links
from powauth.extensions.mail import Mailer
from powauth.extensions.outbox import Outbox
from powauth.extensions.passkeys.authentication import Authentication
from powauth.extensions.passkeys.ceremonies import RelyingParty
from powauth.extensions.passkeys.challenges import Challenges
from powauth.extensions.passkeys.events import EVENTS
from powauth.extensions.passkeys.factor import PasskeyFactor
from powauth.extensions.passkeys.letters import FOLDER, Post
from powauth.extensions.passkeys.pages import PasskeyPages, Paths
from powauth.extensions.passkeys.registration import Registration
from powauth.extensions.passkeys.table import PasskeyMixin, PasskeyTable, StoredPasskey
from powauth.extensions.passkeys.texts import MAIL_TEXTS
from powauth.extensions.passkeys.user_passkeys import UserPasskeys

TTL: Final = timedelta(minutes=2)
"""The time for which a challenge is valid, and which browsers give their user."""

MOST: Final = 20
"""The most passkeys of a user by default."""

PER_SOURCE: Final = Limit(600, timedelta(minutes=5))
"""The most challenges that one source gets by default. Each open page to sign in asks for three in five minutes."""


class Passkeys(Extension[I]):
    """Users sign in with passkeys (WebAuthn): without a password, and without typing a user name.

    A passkey counts as two factors, because the device verifies its user each time.

    Args:
        engine: the app's ``Engine`` or ``AsyncEngine``.
        model: a declarative class with `PasskeyMixin`, whose table exists.
        mailer: sends a notice when a passkey is added or removed. ``None`` sends none.
        title: the name of the app, in browsers and in mail.
        origins: further origins whose pages use the same passkeys, such as ``["https://shop.example.org"]``.
        rp_id: the domain of the passkeys: a parent domain of the hosts of all origins, or their only host. The default
            is the host of ``public_url``. If you change the domain, all existing passkeys stop working.
        most: the most passkeys of a user.
        per_source: the most challenges that one source gets within a time, and the most answers that it gives.
        address_field: the field of the identity with the e-mail address, for notices.
        paths: the paths of the pages.
        lang: the language of the mail (BCP 47).
        mail_texts: texts that replace those of the mail; see `powauth.extensions.passkeys.texts`.
        mail_templates: a folder of the app with templates that replace those of the mail. ``None`` replaces none.

    Raises:
        ConfigError: if an option is wrong. `SessionAuth` raises it if it has no ``public_url``, or if browsers would
            make no passkeys for that address.
    """

    name: ClassVar[str] = "passkeys"
    events: ClassVar[tuple[EventKind, ...]] = EVENTS

    passkeys: UserPasskeys[I]
    """Finds the passkeys of users, once the extension is bound."""

    authentication: Authentication[I]
    """The flows in which somebody uses a passkey."""

    registration: Registration[I]
    """The flows in which a user adds, renames and removes passkeys."""

    _parts: Parts[I]
    _outbox: Outbox | None = None

    def __init__(
        self,
        engine: object,
        model: type[PasskeyMixin],
        *,
        mailer: Mailer | None = None,
        title: str = "Account",
        origins: Sequence[str] = (),
        rp_id: str | None = None,
        most: int = MOST,
        per_source: Limit = PER_SOURCE,
        address_field: str = "email",
        paths: Paths | None = None,
        lang: str = "en",
        mail_texts: Mapping[str, str] | None = None,
        mail_templates: str | Path | None = None,
    ) -> None:
        instance("mailer", mailer, Mailer | None, "an object with a method send, such as SMTPMailer")
        if not isinstance(title, str) or not title.strip():
            raise wrong("title", "the name of the app", title)
        checked_limit("per_source", per_source)
        instance("paths", paths, Paths | None, "Paths(...) of powauth.extensions.passkeys")
        self.table: Final = PasskeyTable(engine, model)
        self.mailer: Final = mailer
        self.title: Final = title
        self.origins: Final = origins
        self.rp_id: Final = rp_id
        self.most: Final = whole_number("most", most)
        self.per_source: Final = per_source
        self.address_field: Final = address_field
        self.paths: Final = Paths() if paths is None else paths
        self.lang: Final = lang
        self.mail_texts: Final = mail_texts_of("Passkeys", MAIL_TEXTS, mail_texts)
        self.mail_templates: Final = mail_templates

    def bind(self, parts: Parts[I]) -> Self:
        """See `Extension.bind`.

        Raises:
            ConfigError: if there is no ``public_url``, or browsers would make no passkeys for it, or the table has
                passkeys of users in another table.
        """
        if parts.public_url is None:
            raise ConfigError(
                "Passkeys are made for one site, so SessionAuth needs public_url, the address below which the pages "
                "are mounted: public_url='https://example.org'"
            )
        bound = type(self)(
            self.table.engine,
            self.table.model,
            mailer=self.mailer,
            title=self.title,
            origins=self.origins,
            rp_id=self.rp_id,
            most=self.most,
            per_source=self.per_source,
            address_field=self.address_field,
            paths=self.paths,
            lang=self.lang,
            mail_texts=self.mail_texts,
            mail_templates=self.mail_templates,
        )
        milliseconds = duration("the ttl of a challenge", TTL)
        party = RelyingParty(parts.public_url, self.title, origins=self.origins, rp_id=self.rp_id, timeout=milliseconds)
        bind_to_users(self.table.model, parts.users, self.table.engine)
        bound._parts = parts
        bound._outbox = None if self.mailer is None else Outbox(self.mailer, parts)
        challenges = Challenges(parts, self.name, TTL, self.per_source)
        bound.passkeys = UserPasskeys(parts.users, bound.table)
        bound.authentication = Authentication(parts, bound.passkeys, party, challenges)
        bound.registration = Registration(parts, bound.passkeys, party, challenges, bound._post(parts), most=self.most)
        return bound

    def _post(self, parts: Parts[I]) -> Post | None:
        if self._outbox is None:
            return None
        if self.address_field not in parts.users.identity.__struct_fields__:  # type: ignore[attr-defined]
            raise ConfigError(
                f"Passkeys sends notices, and the identity has no field {self.address_field!r}: add the field, name "
                "another one in address_field, or give no mailer"
            )
        words = Words(self.mail_texts, self.lang, "ltr", self.title)
        link = Links(parts, "Passkeys").to(self.paths.passkeys)
        return Post(self._outbox, Letters(FOLDER, self.mail_templates), words, link, self.address_field)

    def factor(self) -> PasskeyFactor[I]:
        """Return passkeys as a second factor, for `SecondFactor`. Give the extension itself, too.

        Write ``extensions=[passkeys, SecondFactor(passkeys.factor(), …)]``.
        """
        return PasskeyFactor(self, Passkeys)

    # --- for the app's own code ---------------------------------------------------------------------------------------

    async def of_user(self, user: object) -> list[StoredPasskey]:
        """Return the passkeys of a user, oldest first. ``user`` is an identity, a row, or a key.

        Raises:
            StoreUnavailable: if the database cannot be reached.
        """
        return await self.passkeys.of_user(key_of_user(self._parts.users, user))

    @uncancellable
    async def remove_all(self, user: object, *, by: object = None, request: Any = None) -> int:
        """Remove all passkeys of a user, and end the sessions. Return how many passkeys there were.

        The app decides who may call it, such as an administrator's view.

        Args:
            user: an identity, a row, or a key.
            by: the user who does this, for the events.
            request: the request in which this happens, for the events.

        Raises:
            StoreUnavailable: if the database cannot be reached, or a session may still be live.
        """
        key, actor = key_of_user(self._parts.users, user), None if by is None else key_of_user(self._parts.users, by)
        removed = await self.registration.remove_all(key, by=actor, request=request)
        await self._parts.end_sessions(key, "passkeys removed")
        # Repeat it: a session that has just ended may have added a passkey after the first call.
        return removed + await self.registration.remove_all(key, by=actor, request=request)

    # --- the flows ----------------------------------------------------------------------------------------------------

    async def before(self, step: Step[I]) -> None:
        """See `Extension.before`. It notes the use of the passkey with which a session begins."""
        if step.flow == "sign_in":
            await self.registration.before_sign_in(step)
            await self.authentication.before_sign_in(step)

    async def credentials_changed(self, key: Key, why: str) -> None:
        """See `Extension.credentials_changed`. Passkeys survive a new password. A deletion removes them.

        They also end if the owner of the address claims an account that somebody else may have made, and if the key has
        become that of a new user.
        """
        await self.registration.forget(key)
        if why in (CLAIMED, CREATED):
            await self.registration.clear(key)

    async def sessions_ended(self, key: Key, why: str) -> None:
        """See `Extension.sessions_ended`. A session may have added a passkey after `credentials_changed`."""
        if why in (CLAIMED, CREATED):
            await self.registration.clear(key)

    def pages(self) -> Sequence[Any]:
        """See `Extension.pages`."""
        return PasskeyPages(self.authentication, self.registration, self.passkeys, self.paths).pages()

    def page_parts(self) -> Sequence[Any]:
        """See `Extension.page_parts`."""
        return PasskeyPages.parts()

    async def aclose(self) -> None:
        """See `Extension.aclose`."""
        if self._outbox is not None:
            await self._outbox.aclose()
