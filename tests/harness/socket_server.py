"""A WebSocket server that echoes messages, for `test_websockets_processes`; see `main`."""

import socket
import sys
import time
from typing import Any

import uvicorn

from harness.session_processes import ANN
from harness.support import SECRET, Me, MemoryUsers, User
from powauth import CredentialsCache, SessionAuth
from powauth.integrations.asgi import SessionAuthMiddleware, request_auth


def make_auth(store: CredentialsCache) -> SessionAuth[User, Me]:
    """The plug as each process makes it, on the real clock."""
    users = MemoryUsers()
    users.rows[ANN.id] = ANN
    return SessionAuth(secret_key=SECRET, users=users, store=store, metadata=None, clock=time.time)


async def echo(scope: Any, receive: Any, send: Any) -> None:
    """Greets, then repeats. What it hears it prints, so that a test sees what was delivered to the app."""
    if scope["type"] != "websocket":
        return
    user = request_auth(scope).require_user()
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "text": user.email})
    await receive()
    while (message := await receive())["type"] == "websocket.receive":
        print("heard", message["text"], flush=True)
        await send({"type": "websocket.send", "text": message["text"]})
    print("left", message["code"], flush=True)


def main() -> None:
    """``socket_server.py URL NAMESPACE``: prints its port, then serves until it is ended."""
    url, namespace = sys.argv[1:]
    app = SessionAuthMiddleware(echo, make_auth(CredentialsCache(url, namespace=namespace)))
    listener = socket.create_server(("127.0.0.1", 0))
    print("port", listener.getsockname()[1], flush=True)
    server = uvicorn.Server(uvicorn.Config(app, log_level="warning", lifespan="off"))
    server.run(sockets=[listener])


if __name__ == "__main__":
    main()
