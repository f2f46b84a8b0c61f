"""`Outbox`: sends mail in the background. No request waits for it.

A flow gives its mail to `Outbox.post`, which only appends it to a bounded queue. A thread takes the messages from the
queue one by one and gives them to the mailer. The thread starts with the first message and ends when the queue is
empty. So a response reveals neither the time nor the failure of a mail, under WSGI and ASGI.

If the flow must first look something up, such as whether a user exists, it gives a coroutine function to
`Outbox.prepare`. That runs on the event loop of the request, after the handler, or in the same thread.

If a mail could not be sent, the outbox emits the event ``mail_failed``. It does not retry. The user can ask for another
mail.
"""

import asyncio
import atexit
import contextlib
import contextvars
import smtplib
import threading
import time
from collections import deque
from collections.abc import Callable, Coroutine
from datetime import timedelta
from email.message import EmailMessage
from typing import Any, Final, NamedTuple
from weakref import WeakKeyDictionary, WeakSet

from powauth import _forks
from powauth._options import instance, whole_number
from powauth._running import WorkerThreads, on_event_loop
from powauth._times import duration
from powauth.accounts.hooks import Parts
from powauth.accounts.identity import Key
from powauth.accounts.throttle import Limit
from powauth.backends.base import drive
from powauth.errors import StoreUnavailable, Throttled
from powauth.extensions.mail import Mailer

CAPACITY: Final = 1000
"""The most messages that wait by default. More would fill the memory while a server is down."""

CLOSING: Final = timedelta(seconds=10)
"""The default time for which `Outbox.aclose` waits. Servers of apps give a process some 30 seconds to end."""

PAUSE: Final = timedelta(milliseconds=250)
"""The default time after which `Outbox.prepare` begins. The response has been sent by then. Python's threads share a
lock, so work that begins at once would delay the response. The delay would reveal whether there was any work."""

NOTICES: Final = Limit(10, timedelta(hours=1))
"""The most notices of one kind to one address. Each kind counts alone: many of one kind hide none of another."""

_threads = WorkerThreads("mail")


class _Letter(NamedTuple):
    """A message that waits."""

    what: str
    key: Key | None
    make: Callable[[], EmailMessage | None]


class _Draft(NamedTuple):
    """A message that a coroutine makes."""

    what: str
    key: Key | None
    make: Callable[[], Coroutine[Any, Any, EmailMessage | None]]
    due: float


class _Drafts:
    """The messages that are made on one event loop. ``hurry`` ends the pauses."""

    def __init__(self) -> None:
        self.waiting: deque[_Draft] = deque()
        self.hurry = asyncio.Event()


_TOO_LATE: Final = "not sent before the app ended"


def _nothing() -> None:
    return None


class Outbox:
    """Sends the mail of one extension in a thread.

    An extension makes one in its `Extension.bind`, and closes it in its `Extension.aclose`. A forked process has its
    own queue and thread. The parent sends what the parent had queued.

    Args:
        mailer: sends a message.
        parts: the parts that `Extension.bind` was given.
        capacity: the most messages that wait. Any further message fails.
        closing: the longest time for which `aclose`, or the end of the process, waits for the waiting messages.
        pause: the time after which `prepare` begins.

    Raises:
        ConfigError: if an option is wrong.
    """

    def __init__(
        self,
        mailer: Mailer,
        parts: Parts[Any],
        *,
        capacity: int = CAPACITY,
        closing: timedelta = CLOSING,
        pause: timedelta = PAUSE,
    ) -> None:
        instance("mailer", mailer, Mailer, "an object with a method send, such as SMTPMailer")
        instance("the parts of an outbox", parts, Parts, "the Parts that bind was given")
        self._mailer: Final = mailer
        self._emit: Final = parts.emit
        self._limits: Final = parts.limits
        self._capacity: Final = whole_number("the capacity of an outbox", capacity)
        self._closing: Final = duration("the closing of an outbox", closing) / 1000
        self._pause: Final = duration("the pause of an outbox", pause) / 1000
        self._reset()
        _forks.on_fork(self, Outbox._reset)
        _all.add(self)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._waiting: deque[_Letter] = deque()
        self._sending: _Letter | None = None
        self._thread: threading.Thread | None = None
        self._hurry = threading.Event()
        self._drafts: WeakKeyDictionary[asyncio.AbstractEventLoop, _Drafts] = WeakKeyDictionary()
        self._tasks: set[asyncio.Task[None]] = set()

    def post(self, what: str, make: Callable[[], EmailMessage | None], *, key: Key | None = None) -> None:
        """Send a message later. This takes microseconds and raises no error.

        Args:
            what: the kind of mail, for the event: a constant such as ``"reset"``, never input from a client.
            make: makes the message, in the thread. If it returns ``None``, nothing is sent. A flow that must not reveal
                whether an account exists posts for each request, and decides here.
            key: the key of the user whom the message concerns, for the event.
        """
        _forks.check()
        letter = _Letter(what, key, make)
        failure = None
        with self._lock:
            if len(self._waiting) >= self._capacity:
                failure = "too many messages wait"
            else:
                self._waiting.append(letter)
                if self._thread is None:
                    failure = self._start()
        if failure is not None:
            self._failed(letter, failure)

    async def notify(
        self, what: str, to: str, make: Callable[[], EmailMessage | None], *, key: Key | None = None
    ) -> None:
        """Send a notice of a change that a user has made later, unless the address has got `NOTICES` of this kind.

        Nobody has to prove an address before such a notice goes to it, and a user can make the same change again and
        again. So this has a limit, which keeps a stranger's mailbox and the queue from being filled. If the store
        cannot be reached, the notice is sent.

        Args:
            what: see `post`. It is also the part of the limit's purpose after ``notice.``.
            to: the address.
            make: see `post`.
            key: see `post`.
        """
        try:
            await self._limits.admit(f"notice.{what}", to.casefold(), NOTICES)
        except Throttled:
            return
        except StoreUnavailable:
            pass
        self.post(what, make, key=key)

    def prepare(
        self, what: str, make: Callable[[], Coroutine[Any, Any, EmailMessage | None]], *, key: Key | None = None
    ) -> None:
        """Make a message later by a coroutine, and then send it. This takes microseconds and raises no error.

        It begins after a pause, when the response has been sent, so that its work does not show in the time of the
        response. On an event loop the coroutines run one after another in a task, which suspends. So they may use
        whatever is bound to that loop. Without an event loop they run in the outbox's thread. In both cases they count
        among the messages that wait.

        Args:
            what: see `post`.
            make: makes the message; see `post`. It must not use the request.
            key: see `post`.
        """
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            if on_event_loop():  # of trio
                self._failed(_Letter(what, key, _nothing), "the outbox needs asyncio")
            else:
                due = time.monotonic() + self._pause
                self.post(what, lambda: self._made(make, due), key=key)
            return
        _forks.check()
        draft = _Draft(what, key, make, loop.time() + self._pause)
        with self._lock:
            drafts = self._drafts.setdefault(loop, _Drafts())
            full = len(self._waiting) + sum(len(each.waiting) for each in self._drafts.values()) >= self._capacity
            if not full:
                drafts.waiting.append(draft)
        if full:
            self._failed(draft, "too many messages wait")
        elif len(drafts.waiting) == 1:
            # The task must not see the request's context variables.
            task = loop.create_task(self._prepare_all(drafts), context=contextvars.Context())
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    def _made(self, make: Callable[[], Coroutine[Any, Any, EmailMessage | None]], due: float) -> EmailMessage | None:
        """Make a message in the thread, once it is due."""
        self._hurry.wait(max(0.0, due - time.monotonic()))
        return drive(make())

    async def _prepare_all(self, drafts: _Drafts) -> None:
        """Make the messages of one event loop. The one that is being made stays the first."""
        waiting = drafts.waiting
        try:
            while waiting:
                draft = waiting[0]
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout_at(draft.due):
                        await drafts.hurry.wait()
                try:
                    message = await draft.make()
                except Exception as error:
                    self._failed(draft, _reason(error))
                else:
                    if message is not None:
                        self.post(draft.what, lambda message=message: message, key=draft.key)  # type: ignore[misc]
                waiting.popleft()
        finally:  # if the loop ends, this task is cancelled
            while waiting:
                self._failed(waiting.popleft(), _TOO_LATE)

    async def aclose(self) -> None:
        """Wait for the queued messages, at most for ``closing``. Emit ``mail_failed`` for the others.

        The outbox can be used again afterwards.
        """
        if on_event_loop():
            await self._finish_tasks()
            await _threads(self.close)
        else:
            self.close()

    async def _finish_tasks(self) -> None:
        """Wait for the messages that are being made on this event loop, and cancel those that take too long."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # of trio
            return
        tasks = [task for task in tuple(self._tasks) if task.get_loop() is loop]
        if tasks:
            drafts = self._drafts[loop]
            drafts.hurry.set()
            _, late = await asyncio.wait(tasks, timeout=self._closing)
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=1)
            drafts.hurry.clear()

    def close(self) -> None:
        """Do what `aclose` does, without an event loop."""
        _forks.check()
        thread = self._thread
        if thread is None:
            return
        self._hurry.set()
        thread.join(self._closing)
        self._hurry.clear()
        if not thread.is_alive():
            return
        with self._lock:
            left = list(self._waiting)
            self._waiting.clear()
            if self._sending is not None:
                left.insert(0, self._sending)
        for letter in left:
            self._failed(letter, _TOO_LATE)

    def _start(self) -> str | None:
        """Start the thread. Return why the message that waits cannot be sent, if that fails."""
        thread = threading.Thread(target=self._work, name="powauth mail", daemon=True)
        try:
            thread.start()
        except RuntimeError:  # the process is ending, or has as many threads as it may
            self._waiting.clear()
            return "no thread can start"
        self._thread = thread
        return None

    def _work(self) -> None:
        while True:
            with self._lock:
                self._sending = self._waiting.popleft() if self._waiting else None
                letter = self._sending
                if letter is None:
                    self._thread = None
                    return
            try:
                message = letter.make()
                if message is not None:
                    self._mailer.send(message)
            except Exception as error:
                self._failed(letter, _reason(error))

    def _failed(self, letter: "_Letter | _Draft", reason: str) -> None:
        self._emit("mail_failed", letter.key, f"{letter.what}: {reason}")


_all: WeakSet[Outbox] = WeakSet()


def _close_all() -> None:
    """Close all outboxes at the end of the process. Otherwise their threads would end in the middle of a message."""
    for outbox in list(_all):
        outbox.close()


atexit.register(_close_all)


def _reason(error: Exception) -> str:
    """Return why a message was not sent. The text has no addresses, and no text of a server, which may repeat them."""
    name = type(error).__name__
    if isinstance(error, smtplib.SMTPResponseException):
        return f"{name} {error.smtp_code}"
    if isinstance(error, smtplib.SMTPRecipientsRefused):
        return f"{name} {', '.join(sorted({str(code) for code, _ in error.recipients.values()}))}"
    if isinstance(error, OSError) and error.strerror:
        return f"{name}: {error.strerror}"
    return name
