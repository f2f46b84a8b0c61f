"""An extension outside of the package: an audit log of sign-ins and accounts.

Each entry is a line of JSON with a code. The code's key comes from the app's secret, so `AuditLog.entries` finds a line
that somebody has changed.
"""

import os
from pathlib import Path
from typing import Any, Self

import msgspec

from powauth import ConfigError, Extension, Parts, Refused, Step


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    at: int  # milliseconds since the Unix epoch
    what: str
    who: str | None = None  # the key of the user, or what somebody typed as the user id
    source: str | None = None  # the client's address
    why: str | None = None


class AuditLog(Extension[Any]):
    """Keep an audit log in a file. Several processes may write to it at once.

    While the file cannot be written, nobody can make, change or delete an account. Everything else goes on.
    """

    name = "audit"
    parts: Parts[Any]

    def __init__(self, path: Path) -> None:
        self.path = path

    def bind(self, parts: Parts[Any]) -> Self:
        bound = type(self)(self.path)
        bound.parts = parts
        try:
            bound.write("started")
        except OSError as error:
            raise ConfigError(f"the audit log cannot be written: {error}") from error
        return bound

    async def before(self, step: Step[Any]) -> None:
        who = self.parts.users.login_key(step.params or {}) if step.key is None else step.key
        try:
            self.write(f"before {step.flow}", who=who, source=step.request.client_ip())
        except OSError as error:
            if step.flow in ("registration", "update", "deletion"):
                raise Refused("accounts cannot be changed now") from error

    async def after(self, step: Step[Any]) -> None:
        self.write(step.flow, who=step.key, source=step.request.client_ip())

    async def credentials_changed(self, key: Any, why: str) -> None:
        self.write("credentials changed", who=key, why=why)

    def write(self, what: str, *, who: object = None, source: str | None = None, why: str | None = None) -> None:
        known = None if who is None else str(who)
        line = msgspec.json.encode(Entry(at=self.parts.now(), what=what, who=known, source=source, why=why))
        file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        try:
            os.write(file, self.code(line) + b" " + line + b"\n")  # one call: lines of two processes never mix
        finally:
            os.close(file)

    def entries(self) -> list[Entry]:
        lines = [line.partition(b" ") for line in self.path.read_bytes().splitlines()]
        if any(self.code(line) != code for code, _, line in lines):
            raise ValueError("somebody has changed the audit log")
        return [msgspec.json.decode(line, type=Entry) for _, _, line in lines]

    def code(self, line: bytes) -> bytes:
        return self.parts.keyring.mac(self.name, self.parts.namespace).sign(line).hex().encode()
