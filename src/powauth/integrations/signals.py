"""Events as blinker signals, for apps that already connect to them, as Flask's do.

>>> signals = Signals()
>>> def greet(sender: object, event: Event) -> None:
...     print("welcome", event.user_key)
>>> _ = signals["signed_in"].connect(greet)
>>> signals(Event(name="signed_in", at=0, user_key="42"))  # what SessionAuth(on_event=signals) does
welcome 42

Receivers are plain functions. blinker holds them weakly. They are called where the request runs.
"""

import logging
from typing import get_args

from powauth._extras import needs
from powauth.events import Event, EventName, log

with needs("events", "Signals", "blinker"):
    from blinker import NamedSignal, Namespace


class Signals:
    """One signal for each event name, for ``SessionAuth(on_event=…)``.

    Args:
        sender: the sender that receivers get, and can select when they connect. The default is this object.
    """

    def __init__(self, sender: object = None) -> None:
        self.sender = self if sender is None else sender
        namespace = Namespace()
        self._signals: dict[str, NamedSignal] = {name: namespace.signal(name) for name in get_args(EventName)}

    def __getitem__(self, name: EventName) -> NamedSignal:
        """Return the signal of an event. Raise ``KeyError`` if there is no such event."""
        return self._signals[name]

    def __call__(self, event: Event) -> None:
        """Send an event to each of its receivers. If one fails, log the error and send it to the others."""
        for receiver in self._signals[event.name].receivers_for(self.sender):
            try:
                receiver(self.sender, event=event)
            except Exception as error:
                log(logging.ERROR, "a receiver of the signal %s failed", event.name, error=error)
