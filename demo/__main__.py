"""Runs both apps until a signal stops it: ``python -m demo``. It leaves no process behind."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from types import FrameType

from .config import Settings, prepare, settings

START_SECONDS = 60  # for a server, and for each of its workers, on a busy machine
STOP_SECONDS = 10.0

GUIDE = """
powauth demo: FastAPI on http://127.0.0.1:{port} and Flask on http://127.0.0.1:{flask_port}
Users in {data}/users.sqlite3, sessions in {backend}; {workers} worker processes each.
Plain http: the cookie goes without Secure, which only this demo asks for.

With a browser: open http://localhost:{port} or http://localhost:{flask_port}, and register. You can sign in to both.
Passkeys and the links in the mail are for localhost, because browsers make no passkeys for an IP address.
/account leads to your devices and your recent activity, to keys for programs, to passkeys, and to codes of an
authenticator app. Change your e-mail address there, and follow the links in the mail. The sign-in page can keep you
signed in, takes a passkey, and has a link for a forgotten password.
(POWAUTH_DEMO_FRESH: seconds after a sign-in in which you may change factors. POWAUTH_DEMO_CHALLENGE: seconds in which
you must enter a second factor.)
Mail is printed here. (POWAUTH_DEMO_SMTP=host:port sends it.)
The first user who registers is the administrator, who invites and locks users and reads the audit log: /administration.
(POWAUTH_DEMO_ADMINISTRATOR=you@example.org appoints another user at the start.)
The demo refuses the password "correct horse battery staple" as a breached one, without a network.
(POWAUTH_DEMO_BREACHED=online asks Have I Been Pwned about each new password. The service gets 5 digits of the SHA-1.)
With a program:
  curl -c jar -H 'content-type: application/json' -d '{{"email":"you@example.org","password":"a long pass phrase"}}' \\
       http://127.0.0.1:{port}/registration
  curl -b jar http://127.0.0.1:{flask_port}/session
Make an API key, which the demo shows once, and use it instead of a cookie (in a browser: /account/keys):
  curl -b jar -H 'content-type: application/json' -d '{{"name":"curl","scopes":["profile"]}}' http://127.0.0.1:{port}/account/keys
  curl -H 'authorization: Bearer powkey_...' http://127.0.0.1:{flask_port}/session
List your sessions, sign out on one app, and see that you are signed out on both:
  curl -b jar http://127.0.0.1:{port}/sessions
  curl -b jar -c jar -X DELETE http://127.0.0.1:{flask_port}/session
  curl -b jar http://127.0.0.1:{port}/session
Ctrl-C stops it.
"""


class Stop(Exception):
    """A signal asks the demo to stop."""


def main() -> int:
    """Start the servers, print a guide, and stop all servers together."""
    chosen = settings()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _stop)
    prepare(chosen)
    servers: list[subprocess.Popen[bytes]] = []
    try:
        servers = [_start(_uvicorn(chosen)), _start(_gunicorn(chosen))]
        for port in (chosen.port, chosen.flask_port):
            _wait_for(port, servers)
        print(GUIDE.format(**{name: getattr(chosen, name) for name in chosen.__dataclass_fields__}), flush=True)
        while all(server.poll() is None for server in servers):
            time.sleep(0.2)
        print("powauth demo: a server ended by itself; stopping", file=sys.stderr)
        return 1
    except Stop:
        return 0
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        _end(servers)


def _stop(number: int, frame: FrameType | None) -> None:
    del frame
    raise Stop(signal.Signals(number).name)


def _uvicorn(chosen: Settings) -> Sequence[str]:
    bind = ["--host", "127.0.0.1", "--port", str(chosen.port), "--workers", str(chosen.workers)]
    # Without it, uvicorn gives up a worker that does not answer within 5 seconds.
    patience = ["--timeout-worker-healthcheck", str(START_SECONDS)]
    return ["uvicorn", "demo.fastapi_app:app", *bind, *patience, "--no-access-log", "--log-level", "warning"]


def _gunicorn(chosen: Settings) -> Sequence[str]:
    bind = ["--bind", f"127.0.0.1:{chosen.flask_port}", "--workers", str(chosen.workers)]
    return ["gunicorn", "demo.flask_app:app", *bind, "--log-level", "warning", "--no-control-socket"]


def _start(arguments: Sequence[str]) -> subprocess.Popen[bytes]:
    # In a new process session, Ctrl-C does not reach the server, and its remaining processes can be killed as a group.
    return subprocess.Popen([sys.executable, "-m", *arguments], start_new_session=True)


def _wait_for(port: int, servers: Sequence[subprocess.Popen[bytes]]) -> None:
    deadline = time.monotonic() + START_SECONDS
    while True:
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        if any(server.poll() is not None for server in servers) or time.monotonic() > deadline:
            raise SystemExit(f"powauth demo: the server for port {port} did not start; is the port free?")
        time.sleep(0.1)


def _end(servers: Sequence[subprocess.Popen[bytes]]) -> None:
    for server in servers:
        if server.poll() is None:
            server.terminate()
    deadline = time.monotonic() + STOP_SECONDS
    for server in servers:
        with contextlib.suppress(subprocess.TimeoutExpired):
            server.wait(max(0.0, deadline - time.monotonic()))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(server.pid, signal.SIGKILL)
        server.wait()


if __name__ == "__main__":
    sys.exit(main())
