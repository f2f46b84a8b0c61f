"""Mailers against a real SMTP server, and messages."""

import io
import smtplib
import socket
import ssl
import time
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from harness.smtp import Certificate, Server, certificate, smtp_server
from powauth import ConfigError
from powauth.extensions import ConsoleMailer, Mailer, SMTPMailer, compose

SENDER = "Example <no-reply@example.org>"
SHORT = timedelta(seconds=1)  # the greeting of a server on a busy machine takes less


@pytest.fixture
def server() -> Iterator[Server]:
    with smtp_server() as running:
        yield running


@pytest.fixture(scope="module")
def tls(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    return certificate(tmp_path_factory.mktemp("certificate"))


def mailer(server: Server, **options: Any) -> SMTPMailer:
    return SMTPMailer(**{"host": "localhost", "sender": SENDER, "port": server.port, "security": "none", **options})


def message(to: str = "ada@example.org") -> Any:
    return compose(to=to, subject="Réset", text="Use this link: x\n", html="<p>Use this link: x</p>")


def test_a_message_arrives_whole(server: Server) -> None:
    mailer(server).send(message())
    (got,) = server.messages
    assert (got["From"], got["To"], got["Subject"]) == (SENDER, "ada@example.org", "Réset")
    assert got["Message-ID"].endswith("@example.org>")
    assert got["Date"].datetime.tzinfo is not None
    assert got["Auto-Submitted"] == "auto-generated"
    parts = {part.get_content_type(): part.get_content() for part in got.iter_parts()}
    assert parts["text/plain"].splitlines() == ["Use this link: x"]
    assert parts["text/html"].strip() == "<p>Use this link: x</p>"


def test_headers_that_a_message_has_stay(server: Server) -> None:
    given = message()
    headers = {
        "From": "shop@example.com",
        "Date": "Thu, 01 Jan 2026 00:00:00 +0000",
        "Message-ID": "<1@example.com>",
        "Auto-Submitted": "no",
    }
    for name, value in headers.items():
        given[name] = value
    mailer(server).send(given)
    assert {name: str(server.messages[0][name]) for name in headers} == headers


def test_mail_goes_over_starttls_with_a_login(tls: Certificate) -> None:
    with smtp_server(starttls=tls.server, login=True) as server:
        options = {"security": "starttls", "ssl_context": tls.client, "username": "app"}
        mailer(server, **options, password="right").send(message())
        with pytest.raises(smtplib.SMTPAuthenticationError):
            mailer(server, **options, password="wrong").send(message())
    assert server.encrypted == [True]
    assert server.logins[0] == (b"app", b"right")


def test_mail_goes_over_tls_from_the_start(tls: Certificate) -> None:
    with smtp_server(tls=tls.server) as server:
        mailer(server, security="tls", ssl_context=tls.client).send(message())
    assert server.encrypted == [True]


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_a_certificate_is_verified(tls: Certificate, security: str) -> None:
    starttls, from_start = (tls.server, None) if security == "starttls" else (None, tls.server)
    with smtp_server(starttls=starttls, tls=from_start) as server:
        with pytest.raises(ssl.SSLCertVerificationError):
            mailer(server, security=security).send(message())
        with pytest.raises(ssl.SSLCertVerificationError):  # the name is another
            mailer(server, security=security, host="127.0.0.1", ssl_context=tls.client).send(message())
    assert server.messages == []


def test_a_server_without_starttls_gets_no_mail_and_no_password(server: Server) -> None:
    with pytest.raises(smtplib.SMTPNotSupportedError):
        mailer(server, security="starttls", username="app", password="right").send(message())
    assert (server.messages, server.logins) == ([], [])


def test_a_refused_recipient_is_an_error(server: Server) -> None:
    server.answer = "refuse"
    with pytest.raises(smtplib.SMTPRecipientsRefused):
        mailer(server).send(message())


def test_one_refused_recipient_of_two_is_an_error(server: Server) -> None:
    async def only_ada(_: Any, __: Any, envelope: Any, address: str, options: Any) -> str:
        del options
        if not address.startswith("ada"):
            return "550 no"
        envelope.rcpt_tos.append(address)
        return "250 OK"

    server.handle_RCPT = only_ada  # type: ignore[method-assign,assignment]
    given = message()
    given["Cc"] = "bob@example.org"
    with pytest.raises(smtplib.SMTPRecipientsRefused) as error:
        mailer(server).send(given)
    assert list(error.value.recipients) == ["bob@example.org"]
    assert len(server.messages) == 1


def test_a_failure_is_an_error(server: Server) -> None:
    server.answer = "fail"
    with pytest.raises(smtplib.SMTPDataError):
        mailer(server).send(message())


def test_a_server_that_hangs_is_left_after_the_timeout(server: Server) -> None:
    server.answer = "hang"
    begun = time.monotonic()
    with pytest.raises(smtplib.SMTPServerDisconnected):
        mailer(server, timeout=SHORT).send(message())
    assert time.monotonic() - begun < 20


def test_a_server_that_says_nothing_is_left_after_the_timeout() -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent, pytest.raises(OSError):
        SMTPMailer("127.0.0.1", sender=SENDER, port=silent.getsockname()[1], security="none", timeout=SHORT).send(
            message()
        )


def test_a_server_that_is_not_there_is_an_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
    with pytest.raises(ConnectionRefusedError):
        SMTPMailer("127.0.0.1", sender=SENDER, port=port, security="none").send(message())


def test_a_connection_that_breaks_after_the_message_is_no_failure(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def breaks(self: smtplib.SMTP) -> Any:
        self.close()
        raise smtplib.SMTPServerDisconnected("gone")

    monkeypatch.setattr(smtplib.SMTP, "quit", breaks)
    mailer(server).send(message())
    assert len(server.messages) == 1


# --- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "why"),
    [
        ({"host": ""}, "the host of a mailer must be the name of an SMTP server"),
        ({"host": None}, "the host of a mailer must be"),
        ({"security": "ssl"}, "the security of a mailer must be 'starttls', 'tls' or 'none', not 'ssl'"),
        ({"port": 70_000}, "the port must be a whole number from 1 to 65535"),
        ({"timeout": 10}, "the timeout of a mailer must be a timedelta"),
        ({"timeout": timedelta(hours=1)}, "the timeout of a mailer must be more than zero"),
        ({"username": "app"}, "a mailer needs username and password together"),
        ({"password": "right"}, "a mailer needs username and password together"),
        ({"username": "app", "password": "x", "security": "none"}, "must not send a password without encryption"),
        ({"ssl_context": True}, "ssl_context must be an ssl.SSLContext or None, not bool"),
        ({"sender": "nobody"}, "the sender of a mailer must be one address"),
        ({"sender": "a@example.org, b@example.org"}, "the sender of a mailer must be one address"),
        ({"sender": "a@example.org\r\nBcc: b@example.org"}, "the sender of a mailer must be one address"),
        ({"sender": ""}, "the sender of a mailer must be one address"),
        ({"sender": None}, "the sender of a mailer must be one address"),
    ],
)
def test_wrong_options_are_refused(options: dict[str, Any], why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        SMTPMailer(**{"host": "localhost", "sender": SENDER, **options})


def test_the_port_follows_the_encryption_and_nothing_shows_the_password() -> None:
    shown = repr(SMTPMailer("mail.example.org", sender=SENDER, username="app", password="hunter2"))
    assert shown == "<SMTPMailer mail.example.org:587 starttls>"
    assert ":465" in repr(SMTPMailer("mail.example.org", sender=SENDER, security="tls"))
    assert ":25 " in repr(SMTPMailer("localhost", sender=SENDER, security="none"))


# --- messages ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "to",
    [
        "",
        "nobody",
        "a@example.org, b@example.org",
        "<a@example.org>",
        "Ada <a@example.org>",
        "a@example.org\r\nBcc: b@example.org",
        "a@example.org\nX: y",
        "a b@example.org",
        "a@example.org\x00",
    ],
)
def test_a_message_goes_to_exactly_one_address(to: str) -> None:
    with pytest.raises(ValueError, match="the recipient is not one e-mail address"):
        compose(to=to, subject="x", text="x")


def test_a_subject_has_no_line_breaks() -> None:
    with pytest.raises(ValueError):
        compose(to="a@example.org", subject="x\r\nBcc: b@example.org", text="x")


def test_a_console_mailer_prints_the_text_and_no_control_characters() -> None:
    stream = io.StringIO()
    given = compose(to="ada@example.org", subject="Hello", text="café \x1b[31mred\x1b[0m\u202e\nhttps://x.example/#t\n")
    console: Mailer = ConsoleMailer(stream)
    console.send(given)
    assert stream.getvalue().splitlines() == [
        "--- mail ---",
        "  To: ada@example.org",
        "  Subject: Hello",
        "  ",
        "  café \\x1b[31mred\\x1b[0m\\u202e",
        "  https://x.example/#t",
        "------------",
    ]


def test_a_console_mailer_prints_to_the_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    ConsoleMailer().send(compose(to="ada@example.org", subject="Hello", text="x"))
    assert "To: ada@example.org" in capsys.readouterr().err
