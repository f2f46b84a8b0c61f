"""`Audit`: the extension."""

from collections.abc import Collection, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, ClassVar, Final, Self

from powauth._options import flag, whole_number, wrong_type
from powauth._times import duration, moment
from powauth.accounts.anywhere import call_anywhere
from powauth.accounts.base import key_of_user
from powauth.accounts.hooks import Extension, Parts
from powauth.accounts.user_tables import bind_to_users
from powauth.errors import ConfigError, StoreUnavailable
from powauth.events import Event, EventKind
from powauth.extensions.audit._table import BEGINNINGS, AuditMixin, AuditTable, Entry, row_of
from powauth.extensions.audit._writer import DirectWriter, LoopWriter, Losses, ThreadWriter, Writer
from powauth.pages.page import Page, PageLink
from powauth.pages.visit import PageAnswer, PageVisit
from powauth.pages.wire import iso

LOST = EventKind(
    "audit_lost", "entries of the audit log were not written; `detail` is the reason or the number", "warning"
)

CAPACITY: Final = 10_000
"""The most entries that wait by default: some megabytes."""

CLOSING: Final = timedelta(seconds=10)
"""The default time for which `Audit.aclose` waits."""

SKIPPED: Final = ("renewed", "unknown_id", "forged_id", "conflicting_ids", "api_key_refused")
"""The events that are not written by default. Anybody can cause the last four without limit, and so fill a table."""

THROTTLED: Final = "throttled"

THROTTLED_EVERY: Final = timedelta(minutes=1)
"""The minimum time between two written events ``throttled`` without a user, for each counter. Anybody can cause such
events without limit: each attempt beyond a limit emits one."""

SHOWN: Final[Mapping[str, str]] = {
    "registered": "You created your account",
    "signed_in": "You signed in",
    "signed_out": "You signed out",
    "updated": "Your account was changed",
    "revoked": "Devices were signed out",
    "reuse_detected": "An old copy of a sign-in was used, and the device was signed out",
    "throttled": "There were too many attempts to change your account",
}
"""The events that users see by default, with their texts."""

ENTRIES: Final = 50
"""The most entries on the page."""

ALARMING: Final = ("reuse_detected",)
"""The events that the account page reports at once."""

WATCHED_ENTRIES: Final = 2
"""The newest sign-ins and alarming events: the sign-in after such an event, and the event."""

TEXTS: Final = {
    "activity": "Recent activity",
    "activity_link": "Recent activity",
    "activity_intro": "If you do not recognise something, change your password and sign out other devices.",
    "activity_none": "There is nothing to show yet.",
    "activity_time": "Time",
    "activity_alert": "A device was signed out, because an old copy of its sign-in was used. See your recent activity.",
}


class Audit(Extension[Any]):
    """Writes each event to a table, and shows users their recent activity.

    If an entry cannot be written, the request goes on. `Audit` counts the entry, and emits the event ``audit_lost``.
    Python's log has all events, also if the table fails.

    Args:
        engine: the app's ``Engine`` or ``AsyncEngine``.
        model: a declarative class with `AuditMixin`, whose table exists.
        synchronous: whether to write each entry before the request goes on. It needs an ``Engine``, and blocks an
            event loop while the database works. ``False`` writes in the background.
        skip: the names of events that are not written.
        shown: the events that users see on the page, with their texts.
        path: the path of the page, below the mount of the pages. ``None`` makes no page.
        capacity: the most entries that wait.
        closing: the longest time for which `aclose`, or the end of the process, waits for them.

    Raises:
        ConfigError: if an option is wrong.
    """

    name: ClassVar[str] = "audit"
    events: ClassVar[tuple[EventKind, ...]] = (LOST,)

    _parts: Parts[Any]
    _losses: Losses
    _throttled_at: dict[str | None, datetime]
    _writer: Writer | None = None

    def __init__(
        self,
        engine: object,
        model: type[AuditMixin],
        *,
        synchronous: bool = False,
        skip: Collection[str] = SKIPPED,
        shown: Mapping[str, str] = SHOWN,
        path: str | None = "/account/activity",
        capacity: int = CAPACITY,
        closing: timedelta = CLOSING,
    ) -> None:
        self._table: Final = AuditTable(engine, model)
        self._synchronous: Final = flag("synchronous", synchronous)
        if synchronous and self._table.database.mode == "async":
            raise ConfigError("synchronous=True needs an Engine: on_event cannot wait for an AsyncEngine")
        if isinstance(skip, str) or not isinstance(skip, Collection):
            raise wrong_type("skip", "a collection of names of events", skip)
        self._skip: Final = frozenset(skip)
        if needed := sorted(self._skip & {*BEGINNINGS}):
            raise ConfigError(
                f"skip must not contain {needed[0]!r}: Audit needs it to hide the entries of a deleted user from a new "
                "user with the same key"
            )
        self._shown: Final = dict(shown)
        self._path: Final = path
        self._capacity: Final = whole_number("the capacity of an audit log", capacity)
        self._closing: Final = closing
        duration("the closing of an audit log", closing)

    def bind(self, parts: Parts[Any]) -> Self:
        """See `Extension.bind`.

        Raises:
            ConfigError: if the table has entries of users in another table.
        """
        bound = type(self)(
            self._table.engine,
            self._table.model,
            synchronous=self._synchronous,
            skip=self._skip,
            shown=self._shown,
            path=self._path,
            capacity=self._capacity,
            closing=self._closing,
        )
        bind_to_users(self._table.model, parts.users, self._table.engine)
        bound._parts = parts
        bound._throttled_at = {}
        bound._losses = Losses(lambda reason: parts.emit(LOST, None, reason))
        background = LoopWriter if self._table.database.mode == "async" else ThreadWriter
        kind = DirectWriter if self._synchronous else background
        bound._writer = kind(bound._table, bound._losses, self._capacity, self._closing.total_seconds())
        return bound

    @property
    def lost(self) -> int:
        """The number of entries that this process could not write."""
        return self._losses.total

    def on_event(self, event: Event) -> None:
        """See `Extension.on_event`. The entry is written in the background, unless the log is synchronous."""
        if self._writer is None or event.name in self._skip or event.name == LOST.name:
            return
        if event.name == THROTTLED and event.user_key is None and not self._is_due(event):
            return
        self._writer.put(row_of(event))

    def _is_due(self, event: Event) -> bool:
        """Return whether to write an event ``throttled`` without a user. Its detail is the name of a counter."""
        last = self._throttled_at.get(event.detail)
        if last is not None and abs(event.at - last) < THROTTLED_EVERY:
            return False
        self._throttled_at[event.detail] = event.at
        return True

    async def recent(self, user: object = None, *, limit: int = ENTRIES) -> list[Entry]:
        """Return the newest entries of a user, newest first. Without ``user``, return those of all users.

        ``user`` is an identity, a row, or a key. Entries in the queue are not included.

        Raises:
            ConfigError: if ``user`` is no user, or ``limit`` is no number.
            StoreUnavailable: if the database cannot be reached.
        """
        most = whole_number("limit", limit)
        key = None if user is None else key_of_user(self._parts.users, user)
        return await call_anywhere(self._table.database.mode, lambda: self._table.recent(key, None, most))

    async def purge(self, older_than: timedelta) -> int:
        """Delete the entries that are older, and return how many there were. Call it from a daily job.

        Raises:
            ConfigError: if ``older_than`` is no length of time.
            StoreUnavailable: if the database cannot be reached.
        """
        before = moment(self._parts.now() - duration("older_than", older_than, at_least=1))
        return await call_anywhere(self._table.database.mode, lambda: self._table.purge(before))

    async def aclose(self) -> None:
        """See `Extension.aclose`. Write the entries that wait."""
        if self._writer is not None:
            await self._writer.aclose()

    # --- the page -----------------------------------------------------------------------------------------------------

    def pages(self) -> list[Page]:
        """See `Extension.pages`."""
        if self._path is None:
            return []
        texts = {f"activity_{name}": text for name, text in self._shown.items()}
        page = Page(
            name="activity",
            path=self._path,
            get=self._show,
            template="activity",
            folder=Path(__file__).parent / "templates",
            messages={**texts, **TEXTS},
            offered_on="account",
            offered_to=self._offered,
        )
        return [page]

    async def _offered(self, visit: PageVisit) -> PageLink:
        """Return the link to the page. The link reports a reuse directly before or after the newest sign-in.

        If the table cannot be read, the account page shows the plain link.
        """
        watched = [name for name in ALARMING if name in self._shown and name not in self._skip]
        user = visit.auth.current_user
        if user is None or not watched:
            return PageLink()
        key, events = key_of_user(self._parts.users, user), [*watched, "signed_in"]
        try:
            newest = await call_anywhere(
                self._table.database.mode, lambda: self._table.recent(key, events, WATCHED_ENTRIES)
            )
        except StoreUnavailable:
            return PageLink()
        if not any(each.event in watched for each in newest):
            return PageLink()
        text = visit.messages.more.get("activity_alert", TEXTS["activity_alert"])
        return PageLink(text=text, urgent=True)

    async def _show(self, visit: PageVisit) -> PageAnswer:
        key = key_of_user(self._parts.users, visit.auth.require_user())
        shown = [name for name in self._shown if name not in self._skip]
        found = await call_anywhere(self._table.database.mode, lambda: self._table.recent(key, shown, ENTRIES))
        session = visit.auth.session
        sid = None if session is None else session.sid
        entries = [
            {"event": each.event, "at": iso(each.at), "ip": each.ip, "session": each.sid, "current": each.sid == sid}
            for each in found
        ]
        form, texts = visit.messages.time_format, visit.texts
        rows = [
            {
                "text": texts[f"activity_{each.event}"],
                "iso": iso(each.at),
                "time": _shown(each.at, form),
                "ip": each.ip,
                "current": sid is not None and each.sid == sid,
            }
            for each in found
        ]
        return PageAnswer(json={"activity": entries}, context={"entries": rows})


def _shown(at: datetime, form: str) -> str:
    return at.astimezone(UTC).strftime(form)
