"""A directory of people that answers JSON over HTTP. It is the service for ``examples/users_service.py``."""

import hashlib
import json
import secrets
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Person = dict[str, Any]


class Directory:
    """The people. Each call has the directory to itself."""

    def __init__(self) -> None:
        self.people: dict[str, Person] = {}
        self.work = 0
        self.broken = False
        self._lock = threading.Lock()

    def call(self, verb: str, fields: dict[str, Any]) -> tuple[int, object]:
        """Answer a call with a status, and a person or ``None``."""
        with self._lock:
            if self.broken:
                return 500, "out of order"
            person = self._found(fields)
            status = 200
            if verb == "check":
                proven = self._is_password(person, fields.get("password"))
                person = person if proven else None
            elif verb == "add":
                status, person = self._add(fields) if person is None else (409, None)
            elif verb == "change":
                status = self._change(person, fields)
            elif verb == "remove" and person is not None:
                status = self._proof(person, fields)
                if status == 200:
                    del self.people[person["id"]]
            return status, None if person is None else {name: each for name, each in person.items() if name != "hash"}

    def _found(self, fields: dict[str, Any]) -> Person | None:
        if "id" in fields:
            return self.people.get(fields["id"])
        return next((each for each in self.people.values() if each["email"] == fields.get("email")), None)

    def _hash(self, password: object, salt: str) -> str:
        self.work += 1
        digest = hashlib.sha256(str(password).encode(errors="surrogatepass")).digest()
        return hashlib.pbkdf2_hmac("sha256", digest, salt.encode(), 2).hex()

    def _is_password(self, person: Person | None, password: object) -> bool:
        found = self._hash(password, (person or {}).get("password_version") or "salt")
        return person is not None and isinstance(password, str) and found == person["hash"]

    def _version(self, person: Person) -> str | None:
        """What a caller must know of a person in order to change them as they are."""
        known = f"{person['email']} {person['password_version']}".encode()
        return known.hex() if person["enabled"] else None

    def _proof(self, person: Person, fields: dict[str, Any]) -> int:
        given = "current_password" in fields
        return 403 if given and not self._is_password(person, fields["current_password"]) else 200

    def _set_password(self, person: Person, password: str) -> None:
        person["password_version"] = secrets.token_hex(8)
        person["hash"] = self._hash(password, person["password_version"])

    def _add(self, fields: dict[str, Any]) -> tuple[int, Person]:
        person = {"id": secrets.token_hex(8), "email": fields["email"], "team": "new", "enabled": True}
        self._set_password(person, fields["password"])
        self.people[person["id"]] = person
        return 200, person

    def _change(self, person: Person | None, fields: dict[str, Any]) -> int:
        if person is None:
            return 200
        if fields.get("proof") not in (None, self._version(person)):
            return 412
        status = self._proof(person, fields)
        email = fields.get("email", person["email"])
        if status == 200 and any(each["email"] == email and each is not person for each in self.people.values()):
            return 409
        if status == 200:
            person["email"] = email
            if "password" in fields:
                self._set_password(person, fields["password"])
        return status


@contextmanager
def served(directory: Directory) -> Iterator[str]:
    """The address at which a directory answers."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"]))
            status, answer = directory.call(self.path.removeprefix("/"), json.loads(body))
            content = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - as the base class calls it
            return

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
