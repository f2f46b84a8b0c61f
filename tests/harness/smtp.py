"""A real SMTP server on a free port of the loopback, which accepts, refuses, fails or hangs."""

import asyncio
import re
import shutil
import ssl
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path
from typing import Any, Literal

import pytest
from aiosmtpd.smtp import SMTP, AuthResult

Answer = Literal["accept", "refuse", "fail", "hang"]
PATIENCE_SECONDS = 30
"""The longest wait for a mail that is on its way."""


@dataclass
class Server:
    """A server that runs.

    Attributes:
        port: its port.
        answer: what it does with a message. Tests change it.
        messages: what it has accepted.
        logins: the user names and passwords that clients gave.
        encrypted: whether each accepted message came over TLS.
    """

    port: int = 0
    answer: Answer = "accept"
    messages: list[EmailMessage] = field(default_factory=list)
    logins: list[tuple[bytes, bytes]] = field(default_factory=list)
    encrypted: list[bool] = field(default_factory=list)
    busy: threading.Event = field(default_factory=threading.Event)

    def to(self, address: str) -> list[str]:
        """The texts of the messages to an address, oldest first."""
        found = [message.get_body(("plain",)) for message in self.messages if message["To"] == address]
        return [body.get_content() for body in found if body is not None]

    def link(self, address: str, path: str, *, newer_than: str | None = None) -> str:
        """The newest link to a path in the mail to an address. It waits until there is one."""
        deadline = time.monotonic() + PATIENCE_SECONDS
        while True:
            found = re.findall(rf"https?://[^/\s]+{re.escape(path)}#\S+", "\n".join(self.to(address)))
            if found and found[-1] != newer_than:
                return str(found[-1])
            assert time.monotonic() < deadline, f"no link to {path} for {address} in {len(self.messages)} mails"
            time.sleep(0.02)

    # The names that aiosmtpd calls

    async def handle_RCPT(self, server: Any, session: Any, envelope: Any, address: str, options: Any) -> str:  # noqa: N802
        del server, session, options
        if self.answer == "refuse":
            return f"550 no such user {address}"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        del session
        self.busy.set()
        if self.answer == "fail":
            return "451 try later"
        if self.answer == "hang":
            await asyncio.Event().wait()
        message = message_from_bytes(envelope.content, policy=policy.default)
        assert isinstance(message, EmailMessage)
        self.encrypted.append(server.transport.get_extra_info("ssl_object") is not None)
        self.messages.append(message)
        return "250 OK"

    def authenticate(self, server: Any, session: Any, envelope: Any, mechanism: Any, data: Any) -> AuthResult:
        del server, session, envelope, mechanism
        self.logins.append((data.login, data.password))
        return AuthResult(success=data.password == b"right", handled=False)


async def some_rounds() -> None:
    """Let the loop finish what it has begun. asyncio needs four rounds from an accepted socket to its protocol."""
    for _ in range(10):
        await asyncio.sleep(0)


@contextmanager
def smtp_server(
    *, starttls: ssl.SSLContext | None = None, tls: ssl.SSLContext | None = None, login: bool = False
) -> Iterator[Server]:
    """Run a server, with TLS from the start, with STARTTLS, or without."""
    handler = Server()
    loop = asyncio.new_event_loop()
    connections: list[SMTP] = []

    def protocol() -> SMTP:
        connection = SMTP(
            handler,
            hostname="localhost",
            loop=loop,
            tls_context=starttls,
            require_starttls=starttls is not None,
            authenticator=handler.authenticate if login else None,
            auth_required=login,
            auth_require_tls=starttls is not None,
        )
        connections.append(connection)
        return connection

    server = loop.run_until_complete(loop.create_server(protocol, "127.0.0.1", 0, ssl=tls))
    handler.port = server.sockets[0].getsockname()[1]
    thread = threading.Thread(target=loop.run_forever)
    thread.start()
    try:
        yield handler
    finally:

        async def end() -> None:
            for listener in server.sockets:
                loop.remove_reader(listener)
            await some_rounds()  # a connection that was just accepted gets its transport, if its server still runs
            server.close()
            others = asyncio.all_tasks() - {asyncio.current_task()}
            for task in others:
                task.cancel()
            await asyncio.gather(*others, return_exceptions=True)
            for connection in connections:
                if isinstance(connection.transport, asyncio.Transport):
                    connection.transport.abort()
            await some_rounds()  # a transport closes its socket after it was told to

        asyncio.run_coroutine_threadsafe(end(), loop).result(30)
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@dataclass(frozen=True)
class Certificate:
    """A certificate for ``localhost``, which signs itself."""

    server: ssl.SSLContext
    client: ssl.SSLContext


def certificate(folder: Path) -> Certificate:
    """Make one with the command ``openssl``."""
    if shutil.which("openssl") is None:
        pytest.skip("no openssl: install it to test mail over TLS")
    key, chain = folder / "key.pem", folder / "chain.pem"
    command = "openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost"
    files = ["-addext", "subjectAltName=DNS:localhost", "-keyout", str(key), "-out", str(chain)]
    subprocess.run([*command.split(), *files], check=True, capture_output=True, timeout=60)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(chain, key)
    return Certificate(server, ssl.create_default_context(cafile=str(chain)))
