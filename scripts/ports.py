"""Ports of the loopback for servers that tests, benchmarks and scripts start."""

import secrets
import socket

_PORTS = range(10_000, 20_000)
"""Linux gives ports from 32768 on to connections, macOS and Windows from 49152 on. A port 10,000 higher is free of them
as well: Redis's cluster bus uses it."""

_given: set[int] = set()


def free_port() -> int:
    """Return a port on which a server can listen: no connection takes it by chance before the server has started.

    Each process gets a port once. Two processes choose at random, so that they hardly ever choose the same.
    """
    while True:
        port = secrets.choice(_PORTS)  # Hypothesis gives every process the same random numbers
        if port in _given:
            continue
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
        _given.add(port)
        return port
