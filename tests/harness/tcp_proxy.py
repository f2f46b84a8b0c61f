"""A TCP proxy on the loopback that counts round trips, and that can cut, stall or refuse connections."""

import selectors
import socket
import struct
import threading
from types import TracebackType
from typing import Self


class Proxy:
    """Between a client and a server, in a thread of its own.

    A round trip is a turn of the conversation: the client speaks for the first time, or after the server has spoken.
    """

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._selector = selectors.DefaultSelector()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._listener.setblocking(False)
        self.port: int = self._listener.getsockname()[1]
        self._peers: dict[socket.socket, socket.socket] = {}
        self._clients: set[socket.socket] = set()
        self._client_spoke_last: dict[socket.socket, bool] = {}
        self._lock = threading.Lock()
        self._stalled = False
        self._refusing = False
        self._resetting = False
        self.losing = False
        self._ending = False
        self.round_trips = 0
        self.connections = 0
        self._wake, self._woken = socket.socketpair()
        self._selector.register(self._listener, selectors.EVENT_READ)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._thread = threading.Thread(target=self._serve, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._ending = True
        self._wake.send(b"x")
        self._thread.join()
        self.cut()
        for each in (self._listener, self._wake, self._woken):
            each.close()
        self._selector.close()

    def cut(self) -> None:
        """Close every connection, as a server that restarts does."""
        with self._lock:
            for client in list(self._clients):
                self._drop(client)

    def stall(self, *, stalled: bool = True) -> None:
        """Let nothing through, in neither direction, or let it again."""
        self._stalled = stalled
        self._wake.send(b"x")

    def refuse(self, *, refusing: bool = True) -> None:
        """Close new connections at once, or serve them again."""
        self._refusing = refusing

    def reset_next(self) -> None:
        """Answer the next words of a client with a reset, as a firewall that has forgotten the connection does."""
        self._resetting = True

    def lose_next_reply(self) -> None:
        """Pass the next words of a client on, and close the connection when the server has answered."""
        self.losing = True

    @property
    def clients(self) -> int:
        """How many connections are open. A connection that is being closed counts until it is closed."""
        with self._lock:
            return len(self._clients)

    @property
    def ports(self) -> set[int]:
        """The ports from which the server sees the clients come."""
        with self._lock:
            return {int(self._peers[client].getsockname()[1]) for client in self._clients}

    def _drop(self, client: socket.socket) -> None:
        server = self._peers.pop(client)
        self._peers.pop(server)
        self._clients.discard(client)
        self._client_spoke_last.pop(client)
        for each in (client, server):
            if each in self._selector.get_map():
                self._selector.unregister(each)
            each.close()

    def _accept(self) -> None:
        client, _ = self._listener.accept()
        if self._refusing:
            client.close()
            return
        server = socket.create_connection(self._target)
        for each in (client, server):
            each.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._selector.register(each, selectors.EVENT_READ)
        self._peers |= {client: server, server: client}
        self._clients.add(client)
        self._client_spoke_last[client] = False
        self.connections += 1

    def _pass_on(self, source: socket.socket) -> None:
        target = self._peers[source]
        by_client = source in self._clients
        client = source if by_client else target
        try:
            data = source.recv(65536)
            if data and by_client and self._resetting:
                self._resetting = False
                client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            elif data and not by_client and self.losing:
                self.losing = False
            elif data:
                if by_client and not self._client_spoke_last[client]:
                    self.round_trips += 1
                self._client_spoke_last[client] = by_client
                target.sendall(data)
                return
        except OSError:
            pass
        self._drop(client)

    def _serve(self) -> None:
        paused: list[socket.socket] = []
        while not self._ending:
            for key, _ in self._selector.select():
                ready = key.fileobj
                assert isinstance(ready, socket.socket)
                with self._lock:
                    if ready is self._woken:
                        self._woken.recv(100)
                    elif self._stalled and ready is not self._listener:
                        # Do not spin: look away until the stall is over.
                        if ready in self._peers:
                            self._selector.unregister(ready)
                            paused.append(ready)
                    elif ready is self._listener:
                        self._accept()
                    elif ready in self._peers:
                        self._pass_on(ready)
            if not self._stalled and paused:
                with self._lock:
                    for each in paused:
                        if each in self._peers:
                            self._selector.register(each, selectors.EVENT_READ)
                    paused.clear()
