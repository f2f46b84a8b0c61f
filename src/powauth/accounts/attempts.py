"""`AttemptLimits`: limits for the attempts of clients at an extension, such as requests for mail or invalid tokens."""

from collections.abc import Callable

from powauth._options import matching
from powauth.accounts.addresses import source_network
from powauth.accounts.throttle import SCOPE_OF_EXTENSION, UNCOUNTED, Admission, Counters, Limit
from powauth.backends.base import Backend, Millis
from powauth.errors import Throttled


class AttemptLimits:
    """Counts attempts by purpose and subject, in the counters of the throttle; see ``Parts.limits``.

    It also works if the app has turned the throttle of sign-ins off.

    Args:
        counters: count attempts.
        backend: stores the counters.
        now: the time in milliseconds.
        throttled: is called with the purpose of each attempt that is not admitted, for the event.
    """

    def __init__(
        self, counters: Counters, backend: Backend, now: Callable[[], Millis], throttled: Callable[[str], None]
    ) -> None:
        self._counters = counters
        self._backend = backend
        self._now = now
        self._throttled = throttled

    async def admit(self, purpose: str, subject: str, limit: Limit) -> Admission:
        """Count an attempt before it is made. ``undo`` of the result takes the count back.

        Args:
            purpose: the extension's name, a dot and a word, such as ``"reset.address"``. Each purpose has counters of
                its own.
            subject: the subject of the attempt, such as an address. The store holds only a keyed hash of it.
            limit: the most attempts for one subject.

        Raises:
            Throttled: if there were too many. The event ``throttled`` has the purpose as its detail.
            StoreUnavailable: if the attempt cannot be counted.
            ConfigError: if the purpose has another format.
        """
        matching("the purpose of a limit", purpose, SCOPE_OF_EXTENSION, "a text such as 'reset.address'")
        try:
            return await self._counters.admit_for(self._backend, self._now, purpose, subject, limit)
        except Throttled:
            self._throttled(purpose)
            raise

    async def forget(self, purpose: str, subject: str) -> bool:
        """Forget the attempts of one subject, so that the next one is admitted. Return whether there were any.

        The arguments are those of `admit`.

        Raises:
            StoreUnavailable: if the store cannot be reached.
        """
        return await self._counters.forget_for(self._backend, purpose, subject, self._now())

    async def admit_source(self, purpose: str, address: str | None, limit: Limit) -> Admission:
        """Count an attempt by its source, as the throttle of sign-ins sees it: an address, or an IPv6 network.

        Args:
            purpose: see `admit`.
            address: the result of the request's `powauth.http.connection.Connection.client_ip`. If the server reports
                none, the attempt is not counted.
            limit: see `admit`.

        Raises:
            Throttled: see `admit`.
            StoreUnavailable: see `admit`.
        """
        network = source_network(address)
        return UNCOUNTED if network is None else await self.admit(purpose, network, limit)
