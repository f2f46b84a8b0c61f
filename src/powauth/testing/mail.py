"""A mailer that keeps messages in memory, for tests of apps and extensions."""

import threading
from datetime import timedelta
from email.message import EmailMessage
from typing import Final

PATIENCE: Final = timedelta(seconds=30)
"""The default time for which `MemoryMailer.wait` waits."""


class MemoryMailer:
    """Keeps each message in the list ``messages``.

    An outbox sends mail in a thread. So a test waits for it::

        mailer = MemoryMailer()
        ...
        [message] = mailer.wait(1)
    """

    def __init__(self) -> None:
        self.messages: list[EmailMessage] = []
        self._arrived = threading.Condition()

    def send(self, message: EmailMessage) -> None:
        """Keep a message."""
        with self._arrived:
            self.messages.append(message)
            self._arrived.notify_all()

    def wait(self, number: int, timeout: timedelta = PATIENCE) -> list[EmailMessage]:
        """Wait until there are at least so many messages, and return all of them.

        Raises:
            AssertionError: if there are fewer messages after ``timeout``.
        """
        with self._arrived:
            enough = self._arrived.wait_for(lambda: len(self.messages) >= number, timeout.total_seconds())
            assert enough, f"{len(self.messages)} messages were sent, and not {number}"
            return list(self.messages)
