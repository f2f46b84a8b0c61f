"""Lets sessions follow the changes of users that the app's own code makes through SQLAlchemy's ORM.

`SQLAlchemyUsers.follow` listens to the database sessions of the app. What it notices becomes a note, and a note counts
only if its transaction commits:

1. A flush or a bulk statement changes or deletes a user. powauth notes the user in the frame of the open transaction or
   savepoint. If the sessions live in the same database, it ends them in this transaction.
2. A savepoint that is released passes its notes on. If it is rolled back, powauth drops its notes.
3. Before the commit, powauth ends the sessions that live elsewhere. If the store is down, the commit fails, and the app
   rolls back. Nothing is half done. It also calls the extensions, but not on SQLite: there the transaction has locked
   the file, and a statement of an extension would wait for that lock.
4. After the commit, it calls the extensions and ends the sessions once more: somebody may have signed in meanwhile. It
   marks identities stale. The commit stands, so powauth logs an error of this step, and does not raise it.

Step 4 waits until the transaction has returned its connection. Otherwise, under load, commits would hold all
connections of the pool, and each would wait for another one.
"""

import logging
from collections.abc import Callable, Sequence
from typing import Any, Final, Generic

from sqlalchemy import Connection, event, inspect
from sqlalchemy.ext.asyncio import AsyncSession, async_scoped_session, async_sessionmaker
from sqlalchemy.orm import ORMExecuteState, Session, SessionTransaction, scoped_session, sessionmaker

from powauth._outages import report
from powauth._running import shielded
from powauth.accounts._database import OWN
from powauth.accounts._waiting import needs_blocking, wait_for
from powauth.accounts._watched import WatchedColumns
from powauth.accounts.base import U
from powauth.accounts.changes import Change, ChangeListener
from powauth.accounts.identity import Key
from powauth.errors import ConfigError, StoreUnavailable
from powauth.events import log

Sessions = (
    type[Session]
    | type[AsyncSession]
    | sessionmaker[Any]
    | async_sessionmaker[Any]
    | scoped_session[Any]
    | async_scoped_session[Any]
)
"""The targets that `SQLAlchemyUsers.follow` accepts."""

_EVENTS: Final = (
    "before_flush",
    "after_flush",
    "persistent_to_deleted",
    "do_orm_execute",
    "before_commit",
    "after_commit",
    "after_transaction_end",
)

_TARGETS = "users.follow takes a Session class, a sessionmaker, an async_sessionmaker or a scoped_session (db.session)"


ProofIn = Callable[[Connection, Key], bytes | None]
"""Reads the proof of a user on a connection; ``None`` if there is no such user."""


class Notes:
    """The users whom one transaction of a database session has changed so far.

    Attributes:
        committing: whether the commit has begun. What is noted now is acted upon at once.
        committed: the changes that were committed; ``None`` until then.
        joined: the listeners whose sessions end in this transaction.
        computed: the changes that the flush in progress writes as SQL expressions.
    """

    def __init__(self) -> None:
        self._frames: dict[SessionTransaction, dict[Key, Change]] = {}
        self.committing = False
        self.committed: dict[Key, Change] | None = None
        self.joined: set[ChangeListener] = set()
        self.computed: list[tuple[Key | None, Change | None]] = []

    def take_computed(self) -> list[tuple[Key | None, Change | None]]:
        """Return the changes that the flush has written as SQL expressions, once."""
        taken, self.computed = self.computed, []
        return taken

    def add(self, frame: SessionTransaction, key: Key, change: Change) -> bool:
        """Note a change. Return whether this transaction had no note of it, or of a higher one."""
        known = self.all().get(key)
        if known is not None and known >= change:
            return False
        self._frames.setdefault(frame, {})[key] = change
        return True

    def all(self) -> dict[Key, Change]:
        """Return the notes of all frames that are still open."""
        found: dict[Key, Change] = {}
        for frame in self._frames.values():
            for key, change in frame.items():
                found[key] = max(change, found.get(key, change))
        return found

    def release(self, savepoint: SessionTransaction) -> None:
        """Pass the notes of a savepoint on to the transaction around it."""
        outer = savepoint.parent
        while outer is not None and not outer.nested and outer.parent is not None:
            outer = outer.parent
        frame = self._frames.pop(savepoint, {})
        if outer is not None:
            for key, change in frame.items():
                self.add(outer, key, change)

    def drop(self, transaction: SessionTransaction) -> None:
        """Drop the notes of a transaction that was rolled back."""
        self._frames.pop(transaction, None)


class Following(Generic[U]):
    """Follows database sessions. One object belongs to one users context.

    Args:
        watched: the columns whose changes concern sessions.
        listeners: the authenticators to tell. The list may grow later.
        proof_in: reads the proof of a user in a transaction of the app.
    """

    def __init__(self, watched: WatchedColumns[U], listeners: Sequence[ChangeListener], proof_in: ProofIn) -> None:
        self._watched = watched
        self._proof_in = proof_in
        self._listeners = listeners
        self._followed: list[type[Session]] = []

    @property
    def active(self) -> bool:
        """True if any database session is followed."""
        return bool(self._followed)

    def follow(self, target: object) -> None:
        """Listen to the sessions of a class or a factory. Do nothing if they are followed already.

        Raises:
            ConfigError: if ``target`` is no such class or factory.
        """
        wanted = session_class(target)
        if any(issubclass(wanted, each) for each in self._followed):
            return
        self._leave([each for each in self._followed if issubclass(each, wanted)])
        for name in _EVENTS:
            event.listen(wanted, name, self._handler(name))
        self._followed.append(wanted)
        for listener in self._listeners:
            listener.track_requests()

    def unfollow(self) -> None:
        """Listen to nothing any more."""
        self._leave(list(self._followed))

    def _leave(self, classes: Sequence[type[Session]]) -> None:
        for each in classes:
            for name in _EVENTS:
                event.remove(each, name, self._handler(name))
            self._followed.remove(each)

    def _handler(self, name: str) -> Callable[..., None]:
        handler: Callable[..., None] = getattr(self, name)
        return handler

    # --- what SQLAlchemy calls ----------------------------------------------------------------------------------------

    def before_flush(self, session: Session, context: object, instances: object) -> None:
        """Remember the users to whom the flush will write SQL expressions. `after_flush` notes them."""
        del context, instances
        if OWN in session.info:
            return
        states = [state for state in map(inspect, session.dirty) if self._watched.covers(state.mapper)]
        computed = [(self._watched.key_of(state), self._watched.computed_change_of(state)) for state in states]
        if computed or self in session.info:
            self._notes(session).computed = computed

    def after_flush(self, session: Session, context: object) -> None:
        """Note the users whose columns were just written."""
        del context
        if OWN in session.info:
            return
        # The UPDATE has locked the rows. If the sessions ended before it, two transactions could wait for each other.
        for key, change in self._notes(session).take_computed() if self in session.info else ():
            self._note(session, key, change)
        for changed in session.dirty:
            state = inspect(changed)
            if self._watched.covers(state.mapper):
                self._note(session, self._watched.key_of(state), self._watched.change_of(state))

    def persistent_to_deleted(self, session: Session, instance: object) -> None:
        """Note a user whom a flush has deleted, also by a cascade of the ORM."""
        state = inspect(instance)
        if OWN not in session.info and state is not None and self._watched.covers(state.mapper):
            self._note(session, self._watched.key_of(state), Change.CREDENTIALS)

    def do_orm_execute(self, state: ORMExecuteState) -> None:
        """Note the users whom a bulk statement is about to change."""
        if (state.is_update or state.is_delete) and OWN not in state.session.info:
            for key, change in list(self._watched.changes_by(state)):
                self._note(state.session, key, change)

    def before_commit(self, session: Session) -> None:
        """End the sessions that live elsewhere. A flush that follows still belongs to the commit."""
        if session.in_nested_transaction() or OWN in session.info:
            return
        notes = self._notes(session)
        notes.committing = True
        try:
            self._before(session, notes, notes.all())
        except BaseException:
            notes.committing = False
            raise

    def after_commit(self, session: Session) -> None:
        """Pass the notes of a savepoint on, or keep those of a transaction until it has ended."""
        notes: Notes | None = session.info.get(self)
        if notes is None:
            return
        savepoint = session.get_nested_transaction()
        if savepoint is not None:
            notes.release(savepoint)
        else:
            notes.committed = notes.all()

    def after_transaction_end(self, session: Session, transaction: SessionTransaction) -> None:
        """Drop the notes of a transaction that was rolled back, or act on those of one that was committed."""
        notes: Notes | None = session.info.get(self)
        if notes is None:
            return
        notes.drop(transaction)
        if transaction.parent is None:
            del session.info[self]
            if notes.committed:
                self._after(notes, notes.committed)

    # --- inside -------------------------------------------------------------------------------------------------------

    def _notes(self, session: Session) -> Notes:
        notes: Notes = session.info.setdefault(self, Notes())
        return notes

    def _note(self, session: Session, key: Key | None, change: Change | None) -> None:
        if key is None or change is None:
            return
        connection = self._connection(session)
        frame = session.get_nested_transaction() or session.get_transaction()
        assert frame is not None  # noqa: S101 - it has just begun
        notes = self._notes(session)
        if not notes.add(frame, key, change):
            return
        if change is Change.CREDENTIALS:
            for listener in self._listeners:
                if listener.end_in_transaction(connection, key):
                    notes.joined.add(listener)
        if notes.committing:
            self._before(session, notes, {key: change})

    def _before(self, session: Session, notes: Notes, changes: dict[Key, Change]) -> None:
        if not changes:
            return
        blocking = self._stores_work_off_loop()
        ending = [key for key, change in changes.items() if change is Change.CREDENTIALS]
        proofs = self._new_proofs(session, ending)
        self._accept_in_transaction(session, notes, proofs)
        # SQLite locks the whole file. Nobody else can write to it until the commit, and nobody can sign in.
        locked = session.get_bind(self._watched.mapper).dialect.name == "sqlite"
        telling = [each for each in self._listeners if not locked or each not in notes.joined]

        async def work() -> None:
            for key in ending:
                for listener in telling:
                    joined = listener in notes.joined
                    await listener.before_commit(key, joined=joined, locked=locked, proof=proofs.get(key))

        if ending and telling:
            wait_for(work, blocking=blocking)

    def _connection(self, session: Session) -> Connection:
        """Return the connection of the app's transaction. If there is no transaction, begin it."""
        return session.connection(bind_arguments={"mapper": self._watched.mapper})

    def _new_proofs(self, session: Session, keys: Sequence[Key]) -> dict[Key, bytes]:
        """Return the proofs that users will have after the commit, for users of whom a session stays."""
        proofs: dict[Key, bytes] = {}
        for key in keys:
            if any(listener.keeps(key) for listener in self._listeners):
                proof = self._proof_in(self._connection(session), key)
                if proof is not None:
                    proofs[key] = proof
        return proofs

    def _accept_in_transaction(self, session: Session, notes: Notes, proofs: dict[Key, bytes]) -> None:
        """Let the sessions in the app's own database accept the new proofs, in its transaction."""
        for key, proof in proofs.items():
            for listener in self._listeners:
                if listener in notes.joined and listener.keeps(key):
                    listener.accept_in_transaction(self._connection(session), key, proof)

    def _stores_work_off_loop(self) -> bool:
        """Return whether all stores work without an event loop.

        Raises:
            ConfigError: if one does not, and this thread cannot wait for its event loop.
        """
        try:
            for listener in self._listeners:
                listener.check_waitable()
        except ConfigError as error:
            if needs_blocking():
                raise ConfigError(
                    "a user was changed by a Session on the event loop's own thread, and the session store is "
                    "asynchronous: use an AsyncSession, commit in a worker thread, or give powauth a URL"
                ) from error
            return False
        return True

    def _after(self, notes: Notes, changes: dict[Key, Change]) -> None:
        async def work() -> None:
            for key, change in changes.items():
                for listener in self._listeners:
                    await _told(listener, key, change, joined=listener in notes.joined)

        try:
            wait_for(lambda: shielded(work()), blocking=self._stores_work_off_loop())
        except Exception as error:
            _log(error)


async def _told(listener: ChangeListener, key: Key, change: Change, *, joined: bool) -> None:
    try:
        await listener.after_commit(key, change, joined=joined)
    except Exception as error:
        _log(error)


def _log(error: Exception) -> None:
    """Log an error after a commit. The app's transaction stands, so its code must not see a failure."""
    if isinstance(error, StoreUnavailable):
        report(error)
    log(logging.ERROR, "a user's change is committed, but the sessions may not have followed it", error=error)


def session_class(target: object) -> type[Session]:
    """Return the class whose sessions a target makes. Events are listened to on a class.

    An `async_sessionmaker` makes plain ``Session`` objects inside, so it gets a class of its own, as a `sessionmaker`
    has one. Otherwise every database session of the process would be followed.

    Raises:
        ConfigError: if the target makes no sessions.
    """
    if isinstance(target, scoped_session | async_scoped_session):
        target = target.session_factory
    if isinstance(target, async_sessionmaker):
        target = _class_inside(target)
    if isinstance(target, type) and issubclass(target, AsyncSession):
        target = target.sync_session_class
    if isinstance(target, sessionmaker):
        target = target.class_
    if isinstance(target, type) and issubclass(target, Session):
        return target
    raise ConfigError(f"{_TARGETS}; not {target!r}")


def _class_inside(maker: "async_sessionmaker[Any]") -> object:
    chosen = maker.kw.get("sync_session_class")
    if chosen is None:
        usual = maker.class_.sync_session_class
        chosen = type(usual.__name__, (usual,), {})
        maker.configure(sync_session_class=chosen)
    return chosen
