"""Mailers, which send mail: over SMTP, or to the terminal during development.

A mailer sends one message and returns when the message has been accepted. It may take seconds, so no request calls it:
an extension gives its mail to an `powauth.extensions.Outbox`, which calls the mailer in a thread of its own.

Messages are `email.message.EmailMessage` objects of the standard library. That class refuses line breaks in headers.
"""

import contextlib
import smtplib
import ssl
import sys
from datetime import timedelta
from email.errors import MessageError
from email.headerregistry import Address
from email.message import EmailMessage
from email.utils import format_datetime, localtime, make_msgid
from typing import Final, Literal, Protocol, TextIO, get_args, runtime_checkable

from powauth._options import choice, instance, whole_number, wrong
from powauth._times import duration
from powauth.errors import ConfigError

Security = Literal["starttls", "tls", "none"]
"""The encryption of a connection to an SMTP server; see `SMTPMailer`."""

PORTS: Final = {"starttls": 587, "tls": 465, "none": 25}
"""The usual ports of an SMTP server (RFC 6409, RFC 8314)."""

MAX_TIMEOUT: Final = timedelta(minutes=5)
"""The longest timeout of an SMTP connection. RFC 5321, section 4.5.3.2, asks no client to wait longer for a reply."""

_UNREADABLE: Final = (ValueError, IndexError, MessageError)
"""Errors of the standard library for what is no address. An empty one is an `IndexError`."""


@runtime_checkable
class Mailer(Protocol):
    """Sends mail. An app may bring its own, such as one over the HTTP API of a mail service."""

    def send(self, message: EmailMessage) -> None:
        """Send a message, and return when it has been accepted.

        An outbox calls this in a thread. Set the sender (``From``) if the message has none, and limit the time.

        Raises:
            Exception: if the message was not accepted, or was not accepted for each of its recipients.
        """
        ...


def compose(*, to: str, subject: str, text: str, html: str | None = None) -> EmailMessage:
    """Return a message to one address, with a text and, if given, the same in HTML.

    >>> compose(to="ada@example.org", subject="Welcome", text="Hello!")["To"]
    'ada@example.org'

    Raises:
        ValueError: if ``to`` is not exactly one address, or the subject has a line break. Otherwise a user id such as
            ``a@example.org, b@example.org`` would get mail to somebody else.
    """
    message = EmailMessage()
    try:
        message["To"] = Address(addr_spec=to)
    except _UNREADABLE as error:
        raise ValueError("the recipient is not one e-mail address") from error
    message["Subject"] = subject
    message.set_content(text)
    if html is not None:
        message.add_alternative(html, subtype="html")
    return message


class SMTPMailer:
    """Sends mail over SMTP. It opens a connection for each message.

    Args:
        host: the name of the SMTP server. Its certificate must be valid for this name.
        sender: the address in ``From``, such as ``"Example <no-reply@example.org>"``.
        port: the port. By default it is 587 for ``"starttls"``, 465 for ``"tls"`` and 25 for ``"none"``.
        username: the user name to log in with, together with ``password``. ``None`` does not log in.
        password: the password to log in with.
        security: ``"starttls"`` encrypts the connection by STARTTLS, and fails if the server does not offer it.
            ``"tls"`` encrypts it from the start. ``"none"`` does not encrypt: it is for a relay on the same machine.
        timeout: the longest wait for the server: for the connection and for each reply.
        ssl_context: replaces the default context, which verifies the certificate and the name.

    Raises:
        ConfigError: if an option is wrong, or the password would be sent without encryption.
    """

    def __init__(
        self,
        host: str,
        *,
        sender: str,
        port: int | None = None,
        username: str | None = None,
        password: str | None = None,
        security: Security = "starttls",
        timeout: timedelta = timedelta(seconds=10),
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        if not isinstance(host, str) or not host:
            raise wrong("the host of a mailer", "the name of an SMTP server", host)
        choice("the security of a mailer", security, *get_args(Security))
        self._host: Final = host
        self._port: Final = PORTS[security] if port is None else whole_number("the port", port, at_most=65_535)
        self._sender: Final = _checked_sender(sender)
        self._security: Final = security
        self._timeout: Final = duration("the timeout of a mailer", timeout, at_least=1, at_most=MAX_TIMEOUT) / 1000
        if (username is None) != (password is None):
            raise ConfigError("a mailer needs username and password together, or neither")
        if username is not None and security == "none":
            raise ConfigError(
                "a mailer must not send a password without encryption: set security to 'starttls' or 'tls'"
            )
        self._login: Final = None if username is None or password is None else (username, password)
        instance("ssl_context", ssl_context, ssl.SSLContext | None, "an ssl.SSLContext or None")
        self._context: Final = ssl_context or ssl.create_default_context()

    def __repr__(self) -> str:  # without the password
        return f"<SMTPMailer {self._host}:{self._port} {self._security}>"

    def send(self, message: EmailMessage) -> None:
        """Send a message.

        Raises:
            smtplib.SMTPException: if the server refuses the login, the message, or one of its recipients.
            OSError: if the server cannot be reached, does not answer in time, or has no valid certificate.
        """
        completed = _completed(message, self._sender)
        smtp = self._connect()
        try:
            if self._security == "starttls":
                smtp.starttls(context=self._context)
            if self._login is not None:
                smtp.login(*self._login)
            refused = smtp.send_message(completed)
            if refused:
                raise smtplib.SMTPRecipientsRefused(refused)
            with contextlib.suppress(OSError):  # the message has been accepted
                smtp.quit()
        finally:
            smtp.close()

    def _connect(self) -> smtplib.SMTP:
        if self._security == "tls":
            return smtplib.SMTP_SSL(self._host, self._port, timeout=self._timeout, context=self._context)
        return smtplib.SMTP(self._host, self._port, timeout=self._timeout)


class ConsoleMailer:
    """Prints mail instead of sending it. It is for development: whoever reads the terminal can use the links.

    Args:
        stream: the text stream to print to. By default this is the standard error at the time of printing.
    """

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream: Final = stream

    def send(self, message: EmailMessage) -> None:
        """Print the recipient, the subject and the text of a message."""
        body = message.get_body(("plain", "html"))
        text = "" if body is None else str(body.get_content())
        lines = [f"To: {message['To']}", f"Subject: {message['Subject']}", "", *text.splitlines()]
        # Another person may have chosen a name in the text: no control character may reach the terminal.
        shown = "".join(f"  {_printable(line)}\n" for line in lines)
        print(f"--- mail ---\n{shown}------------", file=self._stream or sys.stderr, flush=True)


def _printable(line: str) -> str:
    return "".join(each if each.isprintable() else ascii(each)[1:-1] for each in line)


def _checked_sender(sender: object) -> str:
    """Return the sender if it is one address.

    Raises:
        ConfigError: if it is not.
    """
    message = EmailMessage()
    try:
        message["From"] = sender
        (address,) = message["From"].addresses
        Address(addr_spec=address.addr_spec)
    except (*_UNREADABLE, TypeError, AttributeError):
        raise wrong("the sender of a mailer", "one address, such as 'Example <no-reply@example.org>'", sender) from None
    return str(sender)


def _completed(message: EmailMessage, sender: str) -> EmailMessage:
    """Return a message with the headers that each mail needs (RFC 5322, section 3.6)."""
    if "From" not in message:
        message["From"] = sender
    if "Date" not in message:
        message["Date"] = format_datetime(localtime())
    if "Message-ID" not in message:
        message["Message-ID"] = make_msgid(domain=message["From"].addresses[0].domain)
    if "Auto-Submitted" not in message:
        message["Auto-Submitted"] = "auto-generated"  # RFC 3834: no vacation notice answers it
    return message
