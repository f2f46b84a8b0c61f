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
from powauth.events import Event, EventKind, EventName, log

with needs("events", "Signals", "blinker"):
    from blinker import NamedSignal, Namespace


class Signals:
    """One signal for each event, for ``SessionAuth(on_event=…)``.

    Args:
        sender: the sender that receivers get, and can select when they connect. The default is this object.
    """

    def __init__(self, sender: object = None) -> None:
        self.sender = self if sender is None else sender
        self._namespace = Namespace()
        self._signals: dict[str, NamedSignal] = {name: self._namespace.signal(name) for name in get_args(EventName)}

    def __getitem__(self, event: EventName | EventKind) -> NamedSignal:
        """Return the signal of an event: of a name of powauth, or of an extension's `EventKind`.

        Raises:
            KeyError: if powauth has no event of this name.
        """
        if isinstance(event, EventKind):
            return self._signals.setdefault(event.name, self._namespace.signal(event.name))
        return self._signals[event]

    def __call__(self, event: Event) -> None:
        """Send an event to each of its receivers. If one fails, log the error and send it to the others."""
        signal = self._signals.get(event.name)  # nobody has asked for the signal of some events of extensions
        for receiver in () if signal is None else signal.receivers_for(self.sender):
            try:
                receiver(self.sender, event=event)
            except Exception as error:
                log(logging.ERROR, "a receiver of the signal %s failed", event.name, error=error)
