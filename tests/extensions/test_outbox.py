"""The outbox: no request waits for mail, and no mail is lost silently."""

import asyncio
import contextlib
import contextvars
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from datetime import timedelta
from email.message import EmailMessage
from typing import Any, Self

import pytest
import trio

from harness.forks import BOTH, in_children, needs_fork
from harness.smtp import Server, smtp_server
from harness.support import Browser, Kind, Me, MemoryUsers, make_app
from harness.visits import SmallApp
from powauth import ConfigError, Event, Extension, Parts, SessionAuth, StoreUnavailable
from powauth.backends.base import drive
from powauth.extensions import Mailer, Outbox, SMTPMailer, compose
from powauth.testing import MemoryMailer

ADA = "ada@example.org"
SENDER = "no-reply@example.org"
SHORT = timedelta(milliseconds=200)


class Greets(Extension[Me]):
    """Sends a mail when it is asked to."""

    name = "greets"
    outbox: Outbox
    key: str | None = None

    def __init__(self, mailer: Mailer, **options: Any) -> None:
        self._mailer, self._options = mailer, options

    def bind(self, parts: Parts[Me]) -> Self:
        bound = type(self)(self._mailer, **self._options)
        bound.outbox = Outbox(self._mailer, parts, **self._options)
        return bound

    def greet(self, to: str = ADA, key: str | None = None) -> None:
        self.outbox.post("greeting", lambda: compose(to=to, subject="Hello", text="Hello!"), key=key)

    async def aclose(self) -> None:
        await self.outbox.aclose()


class Gate:
    """A mailer that waits until it may go on, and tells how many calls have begun."""

    def __init__(self) -> None:
        self.begun, self.may = threading.Semaphore(0), threading.Event()
        self.sent: list[EmailMessage] = []

    def send(self, message: EmailMessage) -> None:
        self.begun.release()
        assert self.may.wait(60)
        self.sent.append(message)


class App:
    def __init__(self, mailer: Mailer, **options: Any) -> None:
        self.app = SmallApp(extensions=[Greets(mailer, **options)])
        self.greets = self.app.auth.extension(Greets)

    def failures(self) -> list[str | None]:
        return [event.detail for event in self.app.events if event.name == "mail_failed"]

    def close(self) -> None:
        drive(self.app.auth.aclose())


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.may.set()


def smtp(server: Server, **options: Any) -> SMTPMailer:
    return SMTPMailer("127.0.0.1", sender=SENDER, port=server.port, security="none", **options)


# --- sending ----------------------------------------------------------------------------------------------------------


def test_mail_is_sent_in_order_and_an_outbox_is_used_again_after_it_was_closed() -> None:
    mailer = MemoryMailer()
    app = App(mailer)
    for _ in range(2):
        for number in range(5):
            app.greets.greet(f"user{number}@example.org")
        app.close()
    assert [each["To"] for each in mailer.messages] == [f"user{number}@example.org" for number in range(5)] * 2
    assert app.failures() == []


def test_a_test_waits_for_mail() -> None:
    mailer = MemoryMailer()
    App(mailer).greets.greet()
    (message,) = mailer.wait(1)
    assert message["To"] == ADA
    with pytest.raises(AssertionError, match="1 messages were sent, and not 2"):
        mailer.wait(2, SHORT)


def test_mail_goes_through_a_real_server() -> None:
    with smtp_server() as server:
        app = App(smtp(server))
        app.greets.greet()
        app.close()
    assert [(each["From"], each["To"]) for each in server.messages] == [(SENDER, ADA)]


def test_what_turns_out_to_be_no_mail_is_not_sent() -> None:
    mailer = MemoryMailer()
    app = App(mailer)
    app.greets.outbox.post("greeting", lambda: None)
    app.close()
    assert (mailer.messages, app.failures()) == ([], [])


def test_no_thread_is_left_when_nothing_waits() -> None:
    app = App(MemoryMailer())
    app.greets.greet()
    app.close()
    assert [each for each in threading.enumerate() if each.name == "powauth mail"] == []


# --- failures ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        ("refuse", "SMTPRecipientsRefused 550"),
        ("fail", "SMTPDataError 451"),
        ("hang", "SMTPServerDisconnected"),
    ],
)
@pytest.mark.parametrize("kind", ["asgi", "wsgi"])
def test_with_a_server_that_hangs_refuses_or_fails_no_request_waits_and_an_event_reports_it(
    kind: Kind, answer: Any, reason: str
) -> None:
    events: list[Event] = []
    with smtp_server() as server:
        server.answer = answer
        mailer = smtp(server, timeout=timedelta(seconds=1))
        users = MemoryUsers()
        auth = SessionAuth(
            secret_key="Wq9Zx7rT4yUj1aSdPkLmB6eHgQoIi83N2fC5cN0v",
            users=users,
            backend="memory://",
            extensions=[Greets(mailer)],
            on_event=events.append,
        )

        async def handler(request: Any) -> object:
            del request
            before = len(events)
            auth.extension(Greets).greet(key="7")
            return {"failed before the response": len(events) - before}

        browser = Browser(make_app(kind, auth, {"/greet": handler}), kind)
        assert browser.get("/greet").json() == {"failed before the response": 0}
        asyncio.run(auth.aclose()) if kind == "asgi" else drive(auth.aclose())
    assert [(each.name, each.user_key, each.detail) for each in events] == [("mail_failed", "7", f"greeting: {reason}")]
    assert server.messages == []


def test_a_request_does_not_wait_while_the_mailer_hangs(gate: Gate) -> None:
    app = App(gate)
    for _ in range(100):
        app.greets.greet()  # would never return if it waited: nobody opens the gate yet
    assert gate.begun.acquire(timeout=60)
    assert gate.sent == []
    gate.may.set()
    app.close()
    assert len(gate.sent) == 100


def test_a_server_that_is_not_there_is_an_event_and_the_next_mail_arrives() -> None:
    with smtp_server() as server:
        pass
    mailer = smtp(server)
    app = App(mailer)
    app.greets.greet()
    app.close()
    assert app.failures() == ["greeting: ConnectionRefusedError: Connection refused"]


def test_a_message_that_cannot_be_made_is_an_event_without_what_a_client_sent() -> None:
    mailer = MemoryMailer()
    app = App(mailer)
    app.greets.greet("a@example.org, b@example.org")
    app.greets.greet()
    app.close()
    assert app.failures() == ["greeting: ValueError"]
    assert len(mailer.messages) == 1


def test_too_many_messages_are_reported_and_take_no_room(gate: Gate) -> None:
    app = App(gate, capacity=3)
    app.greets.greet()
    assert gate.begun.acquire(timeout=60)  # the first one is being sent
    for _ in range(5):
        app.greets.greet()
    assert app.failures() == ["greeting: too many messages wait"] * 2
    gate.may.set()
    app.close()
    assert len(gate.sent) == 4


def test_a_close_waits_only_so_long_and_reports_what_is_left(gate: Gate) -> None:
    app = App(gate, closing=SHORT)
    for _ in range(3):
        app.greets.greet()
    assert gate.begun.acquire(timeout=60)
    begun = time.monotonic()
    app.close()
    assert time.monotonic() - begun < 30
    assert app.failures() == ["greeting: not sent before the app ended"] * 3


def test_a_close_does_not_stop_the_event_loop(gate: Gate) -> None:
    app = App(gate)
    app.greets.greet()

    async def main() -> None:
        closing = asyncio.ensure_future(app.app.auth.aclose())
        await asyncio.sleep(0)
        gate.may.set()
        await closing

    asyncio.run(main())
    assert len(gate.sent) == 1


def test_a_lifespan_closes_the_outbox() -> None:
    mailer = MemoryMailer()
    app = App(mailer)

    async def main() -> None:
        async with app.app.auth.lifespan():
            app.greets.greet()

    asyncio.run(main())
    assert len(mailer.messages) == 1


def test_a_thread_that_cannot_start_is_an_event(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(self: threading.Thread) -> None:
        raise RuntimeError("can't start new thread")

    mailer = MemoryMailer()
    app = App(mailer)
    with monkeypatch.context() as patched:
        patched.setattr(threading.Thread, "start", refuses)
        app.greets.greet()
    assert app.failures() == ["greeting: no thread can start"]
    app.greets.greet()
    app.close()
    assert len(mailer.messages) == 1


def test_an_extension_that_fails_to_close_keeps_nothing_open(caplog: pytest.LogCaptureFixture) -> None:
    class Fails(Extension[Me]):
        name = "fails"

        async def aclose(self) -> None:
            raise RuntimeError("no")

    mailer = MemoryMailer()
    app = SmallApp(extensions=[Fails(), Greets(mailer)])
    app.auth.extension(Greets).greet()
    drive(app.auth.aclose())
    assert len(mailer.messages) == 1
    assert [each.getMessage() for each in caplog.records if each.levelname == "ERROR"] == [
        "the extension fails failed to close"
    ]


# --- processes --------------------------------------------------------------------------------------------------------


@needs_fork
@BOTH
def test_each_process_sends_its_own_mail(fork: Callable[[], int], gate: Gate) -> None:
    with smtp_server() as server:
        app = App(gate)
        own = App(smtp(server))
        app.greets.greet()
        app.greets.greet()
        assert gate.begun.acquire(timeout=60)

        def work(number: int) -> tuple[int, list[str | None]]:
            app.close()  # nothing waits here: the parent sends what the parent had queued
            own.greets.greet(f"child{number}@example.org")
            own.close()
            return len(gate.sent), app.failures() + own.failures()

        assert in_children(work, fork, 2) == [(0, [])] * 2
        gate.may.set()
        app.close()
    assert len(gate.sent) == 2
    assert sorted(each["To"] for each in server.messages) == ["child0@example.org", "child1@example.org"]


PROGRAM = """
import sys
from powauth import Extension, SessionAuth
from powauth.extensions import Outbox, SMTPMailer, compose
from harness.support import SECRET, MemoryUsers

class Greets(Extension):
    name = "greets"
    def bind(self, parts):
        mailer = SMTPMailer("127.0.0.1", sender="a@example.org", port=int(sys.argv[1]), security="none")
        self.outbox = Outbox(mailer, parts)
        return self

auth = SessionAuth(secret_key=SECRET, users=MemoryUsers(), backend="memory://", extensions=[Greets()])
for _ in range(3):
    auth.extension(Greets).outbox.post("x", lambda: compose(to="ada@example.org", subject="x", text="x"))
"""


def test_the_end_of_a_process_waits_for_its_mail() -> None:
    with smtp_server() as server:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
        command = [sys.executable, "-c", PROGRAM, str(server.port)]
        subprocess.run(command, check=True, timeout=60, env=environment)
    assert len(server.messages) == 3


# --- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"mailer": object()}, "mailer must be an object with a method send, such as SMTPMailer, not object"),
        ({"capacity": 0}, "the capacity of an outbox must be a whole number of 1 or more"),
        ({"closing": 10}, "the closing of an outbox must be a timedelta"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        App(**{"mailer": MemoryMailer(), **options})


def test_parts_are_those_of_an_authenticator() -> None:
    with pytest.raises(ConfigError, match="must be the Parts that bind was given, not dict"):
        Outbox(MemoryMailer(), {})  # type: ignore[arg-type]


# --- making a message in the background -------------------------------------------------------------------------------


class Prepares(Greets):
    """Looks something up before it makes a message."""

    name = "prepares"

    async def look_up(self, to: str, begun: list[str]) -> EmailMessage | None:
        begun.append(to)
        if to == "nobody":
            return None
        if to == "broken":
            raise StoreUnavailable("out of order")
        with contextlib.suppress(RuntimeError):  # no event loop runs
            asyncio.get_running_loop()
            await asyncio.sleep(0)
        return compose(to=to, subject="Hello", text="Hello!")


def prepares(mailer: Mailer, **options: Any) -> tuple[SmallApp, Outbox, Callable[..., None]]:
    app, begun = SmallApp(extensions=[Prepares(mailer, **options)]), list[str]()
    extension = app.auth.extension(Prepares)

    def ask(to: str) -> None:
        extension.outbox.prepare("greeting", lambda: extension.look_up(to, begun), key="7")

    return app, extension.outbox, ask


MANY = [f"{number}@example.org" for number in range(5)]


def test_messages_are_made_and_sent_in_a_thread() -> None:
    mailer = MemoryMailer()
    app, outbox, ask = prepares(mailer)
    for to in ["nobody", *MANY, "broken"]:
        ask(to)
    outbox.close()
    assert [message["To"] for message in mailer.messages] == MANY
    assert [event.detail for event in app.events] == ["greeting: StoreUnavailable"]


def test_messages_are_made_on_the_event_loop_after_the_handler() -> None:
    mailer = MemoryMailer()
    app, _, ask = prepares(mailer)

    async def serve() -> None:
        for to in ["nobody", *MANY, "broken"]:
            ask(to)
        assert mailer.messages == []
        await app.auth.aclose()
        assert [message["To"] for message in mailer.messages] == MANY
        ask("ada@example.org")
        await app.auth.aclose()

    asyncio.run(serve())
    assert [message["To"] for message in mailer.messages] == [*MANY, "ada@example.org"]
    assert [(event.detail, event.user_key) for event in app.events] == [("greeting: StoreUnavailable", "7")]


def test_messages_that_are_being_made_count_among_those_that_wait() -> None:
    mailer = MemoryMailer()
    app, _, ask = prepares(mailer, capacity=3)

    async def serve() -> None:
        for to in MANY:
            ask(to)
        await app.auth.aclose()

    asyncio.run(serve())
    assert [message["To"] for message in mailer.messages] == MANY[:3]
    assert [event.detail for event in app.events] == ["greeting: too many messages wait"] * 2


def test_messages_that_cannot_be_made_before_the_loop_ends_are_reported() -> None:
    app, outbox, _ = prepares(MemoryMailer(), closing=SHORT)

    async def hang() -> EmailMessage | None:
        await asyncio.Event().wait()
        return None

    async def serve(*, closes: bool) -> None:
        outbox.prepare("greeting", hang)
        outbox.prepare("greeting", hang)
        await asyncio.sleep(0)
        if closes:
            await app.auth.aclose()

    for closes in (True, False):
        asyncio.run(serve(closes=closes))
    assert [event.detail for event in app.events] == ["greeting: not sent before the app ended"] * 4


def test_the_task_does_not_see_the_variables_of_the_request() -> None:
    app, outbox, _ = prepares(MemoryMailer())
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="nothing")
    seen = []

    async def look() -> EmailMessage | None:
        seen.append(variable.get())
        return None

    async def serve() -> None:
        variable.set("of the request")
        outbox.prepare("greeting", look)
        await app.auth.aclose()

    asyncio.run(serve())
    assert seen == ["nothing"]


def test_on_trio_a_message_that_must_be_made_fails_at_once() -> None:
    app, _, ask = prepares(MemoryMailer())

    async def serve() -> None:
        ask(ADA)
        await app.auth.aclose()

    trio.run(serve)
    assert [event.detail for event in app.events] == ["greeting: the outbox needs asyncio"]


def test_a_message_is_made_after_a_pause() -> None:
    made: list[float] = []
    done, in_thread = asyncio.Event(), threading.Event()

    async def look() -> EmailMessage | None:
        made.append(time.monotonic())
        (done if len(made) == 1 else in_thread).set()
        return None

    async def serve(outbox: Outbox) -> None:
        outbox.prepare("greeting", look)
        await asyncio.wait_for(done.wait(), 60)

    _, outbox, _ = prepares(MemoryMailer(), pause=SHORT)
    begun = [time.monotonic()]
    asyncio.run(serve(outbox))
    begun.append(time.monotonic())
    outbox.prepare("greeting", look)
    assert in_thread.wait(60)
    outbox.close()
    assert all(end - start >= SHORT.total_seconds() * 0.99 for start, end in zip(begun, made, strict=True))
