"""`Invitation`: the extension."""

from collections.abc import Mapping, Sequence
from datetime import timedelta
from math import ceil
from pathlib import Path
from typing import Any, ClassVar, Final, Self

from powauth._options import instance, whole_number, wrong
from powauth._times import duration
from powauth.accounts.attempts import AttemptLimits
from powauth.accounts.base import UsersContext
from powauth.accounts.changes import CHANGED, FOLLOWED
from powauth.accounts.hooks import Extension, Parts, Step
from powauth.accounts.identity import I, Key
from powauth.accounts.throttle import Limit, checked_limit
from powauth.errors import ConfigError
from powauth.events import EventKind
from powauth.extensions.invitation.events import EVENTS
from powauth.extensions.invitation.flows import Invitations, Invited, MayInvite
from powauth.extensions.invitation.letters import FOLDER, Post
from powauth.extensions.invitation.pages import InvitationPages, Paths
from powauth.extensions.invitation.texts import MAIL_TEXTS
from powauth.extensions.letters import Letters, Words, mail_texts_of
from powauth.extensions.links import Links
from powauth.extensions.mail import Mailer
from powauth.extensions.offers import Offers
from powauth.extensions.outbox import Outbox

TTL: Final = timedelta(days=7)
"""The time for which an invitation is valid by default."""

MOST: Final = 20
"""The most invitations that a user has open at once by default."""

PER_INVITER: Final = Limit(20, timedelta(hours=1))
"""The most invitations that a user makes within a time by default."""

PER_ADDRESS: Final = Limit(3, timedelta(minutes=5))
"""The most mails that one address gets by default."""

KEPT_AFTER: Final = (CHANGED, FOLLOWED)
"""The reasons of `Extension.credentials_changed` after which the invitations of an active user stay open."""

ADDRESS: Final = "email"
"""The user id to which invitations are mailed."""


class Invitation(Extension[I]):
    """Lets users invite others, by mail or by a link that they hand out themselves.

    Nothing is written to the users table until somebody accepts. Accepting registers a user, and signs in.

    Args:
        mailer: sends the mail.
        may_invite: takes the identity of a user, and returns whether that user may invite. It may be a coroutine
            function, which then needs an event loop.
        ttl: the time for which an invitation is valid.
        most: the most invitations that a user has open at once.
        per_inviter: the most invitations that a user makes within a time.
        per_address: the most mails that one address gets, from all inviters.
        paths: the paths of the pages.
        title: the name of the app in mail.
        lang: the language of the mail (BCP 47).
        mail_texts: texts that replace those of the mail; see `powauth.extensions.invitation.texts`.
        mail_templates: a folder of the app with templates that replace those of the mail. ``None`` replaces none.

    Raises:
        ConfigError: if an option is wrong.
    """

    name: ClassVar[str] = "invitation"
    events: ClassVar[tuple[EventKind, ...]] = EVENTS

    invitations: Invitations[I]
    """The flows, once the extension is bound."""

    _users: UsersContext[Any, I]
    _limits: AttemptLimits
    _outbox: Outbox

    def __init__(
        self,
        mailer: Mailer,
        *,
        may_invite: MayInvite,
        ttl: timedelta = TTL,
        most: int = MOST,
        per_inviter: Limit = PER_INVITER,
        per_address: Limit = PER_ADDRESS,
        paths: Paths | None = None,
        title: str = "Account",
        lang: str = "en",
        mail_texts: Mapping[str, str] | None = None,
        mail_templates: str | Path | None = None,
    ) -> None:
        instance("mailer", mailer, Mailer, "an object with a method send, such as SMTPMailer")
        self.mailer: Final = mailer
        if not callable(may_invite):
            raise wrong("may_invite", "a function of an identity, such as lambda user: user.is_admin", may_invite)
        self.may_invite: Final = may_invite
        duration("ttl", ttl, at_least=1000)
        self.ttl: Final = ttl
        self.most: Final = whole_number("most", most)
        checked_limit("per_inviter", per_inviter)
        self.per_inviter: Final = per_inviter
        checked_limit("per_address", per_address)
        self.per_address: Final = per_address
        self.paths: Final = Paths() if paths is None else paths
        self.title: Final = title
        self.lang: Final = lang
        self.mail_texts: Final = mail_texts_of("Invitation", MAIL_TEXTS, mail_texts)
        self.mail_templates: Final = mail_templates
        self._letters: Final = Letters(FOLDER, mail_templates)

    def bind(self, parts: Parts[I]) -> Self:
        """See `Extension.bind`.

        Raises:
            ConfigError: if there is no ``public_url``, or no user id ``email``.
        """
        users = parts.users
        if ADDRESS not in (users.user_id_field, *users.other_user_id_fields):
            raise ConfigError(
                "Invitation needs users who sign in with an e-mail address: name 'email' in user_id_field"
            )
        bound = type(self)(
            self.mailer,
            may_invite=self.may_invite,
            ttl=self.ttl,
            most=self.most,
            per_inviter=self.per_inviter,
            per_address=self.per_address,
            paths=self.paths,
            title=self.title,
            lang=self.lang,
            mail_texts=self.mail_texts,
            mail_templates=self.mail_templates,
        )
        outbox = Outbox(self.mailer, parts)
        days = ceil(self.ttl / timedelta(days=1))
        words = Words(self.mail_texts, self.lang, "ltr", self.title)
        post = Post(outbox, Links(parts, "Invitation"), self._letters, words, self.paths.accept, days=days)
        offers = Offers(parts, self.name, Invited, ttl=self.ttl)
        bound._outbox, bound._users, bound._limits = outbox, users, parts.limits
        bound.invitations = Invitations(
            parts,
            self.name,
            offers,
            post,
            self.may_invite,
            most=self.most,
            limit=self.per_inviter,
            per_address=self.per_address,
        )
        return bound

    async def credentials_changed(self, key: Key, why: str) -> None:
        """See `Extension.credentials_changed`.

        The invitations of an active user survive a new password and a new user id. Every other reason ends them:
        somebody else may have used the account.
        """
        if why in KEPT_AFTER:
            await self.invitations.ended_with(key)
        else:
            await self.invitations.end_all(key)

    async def sessions_ended(self, key: Key, why: str) -> None:
        """See `Extension.sessions_ended`. A session may have made an invitation after `credentials_changed`."""
        await self.credentials_changed(key, why)

    async def after(self, step: Step[I]) -> None:
        """See `Extension.after`."""
        if step.flow == "registration" and step.key is not None:
            self.invitations.accepted(step.request, step.key)

    def pages(self) -> Sequence[Any]:
        """See `Extension.pages`."""
        return InvitationPages(self.invitations, self._users, self._limits, self.paths).pages()

    async def aclose(self) -> None:
        """See `Extension.aclose`."""
        await self._outbox.aclose()
