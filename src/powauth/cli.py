"""``powauth``: a secret, the pages' templates, and the administration of sessions over a backend's URL.

    powauth secret
    powauth templates app/templates/auth
    powauth sessions --backend lmdb:///var/lib/app/sessions list --user 42

What it prints of sessions opens none of them: ids are public ones.
"""

import argparse
import asyncio
import os
import secrets
import sys
from collections.abc import AsyncIterator, Callable, Coroutine, Sequence
from datetime import UTC, datetime
from time import time
from typing import Any, TypeVar

import msgspec

from powauth.backends import SCHEMES, backend_from_url
from powauth.backends.base import Millis, drive
from powauth.errors import PowauthError
from powauth.http.metadata import session_info
from powauth.pages.shipped import copy_templates
from powauth.sessions.record import decode_sid
from powauth.sessions.store import CredentialsCache, Stored, UnreadableRecord

T = TypeVar("T")

BACKEND_VARIABLE = "POWAUTH_BACKEND"
"""The environment variable that stands in for ``--backend``, so that a password in it stays out of the process list."""

SECRET_BYTES = 48
PURGE_STEP = 500
"""Records removed at a time: other clients come in between."""

COLUMNS = ("id", "user", "created_at", "renewed_at", "expires_at", "ip", "user_agent")

Row = dict[str, Any]


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command; the process's exit status: 0, 1 if there was no such session, 2 for an error."""
    options = _parser().parse_args(arguments)
    if options.command == "secret":
        print(secrets.token_urlsafe(SECRET_BYTES))
        return 0
    if options.command == "templates":
        return _templates(options)
    url = options.backend or os.environ.get(BACKEND_VARIABLE)
    if not url:
        print(f"powauth: give --backend or set {BACKEND_VARIABLE}: {SCHEMES}", file=sys.stderr)
        return 2
    try:
        backend = backend_from_url(url)
        store = CredentialsCache(backend, namespace=options.namespace)
        run: Callable[[Coroutine[Any, Any, int]], int] = asyncio.run if backend.mode == "async" else drive
        return run(_closing(store, options.action(store, options)))
    except PowauthError as error:
        print(f"powauth: {error}", file=sys.stderr)
        return 2


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="powauth", description="Administer powauth.")
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("secret", help="print a new secret key")
    templates = commands.add_parser("templates", help="copy the pages' templates into a folder, to change them")
    templates.add_argument("folder", metavar="DIR")
    templates.add_argument("--force", action="store_true", help="overwrite what is there")
    sessions = commands.add_parser("sessions", help="look at sessions and end them")
    sessions.add_argument("--backend", metavar="URL", help=f"where they live; or set {BACKEND_VARIABLE}")
    sessions.add_argument("--namespace", default="credentials", help="which sessions (default: %(default)s)")
    sessions.add_argument("--json", action="store_true", help="print JSON, a line each")
    actions = sessions.add_subparsers(dest="sessions_command", required=True)

    def action(name: str, function: Callable[..., Coroutine[Any, Any, int]], text: str) -> argparse.ArgumentParser:
        added = actions.add_parser(name, help=text)
        added.set_defaults(action=function)
        return added

    listing = action("list", _list, "list live sessions")
    listing.add_argument("--user", metavar="KEY", help="of this user only")
    listing.add_argument("--limit", type=int, default=100, help="at most so many (default: %(default)s; 0 is all)")
    action("show", _show, "show one session").add_argument("id")
    action("revoke", _revoke, "end one session").add_argument("id")
    action("revoke-user", _revoke_user, "end all sessions of a user").add_argument("user", metavar="KEY")
    action("purge", _purge, "remove expired sessions")
    action("count", _count, "count live sessions")
    return parser


def _templates(options: argparse.Namespace) -> int:
    try:
        written = copy_templates(options.folder, overwrite=options.force)
    except PowauthError as error:
        print(f"powauth: {error}", file=sys.stderr)
        return 2
    for path in written:
        print(path)
    return 0


async def _closing(store: CredentialsCache, work: Coroutine[Any, Any, int]) -> int:
    try:
        return await work
    finally:
        await store.close()


async def _list(store: CredentialsCache, options: argparse.Namespace) -> int:
    rows: list[Row] = []
    async for stored in _found(store, options.user):
        if options.limit and len(rows) == options.limit:
            _progress(f"only the first {options.limit}; --limit 0 is all\n")
            break
        rows.append(_row(stored))
        if len(rows) % 1000 == 0:
            _progress(f"{len(rows)} sessions")
    _print_rows(rows, as_json=options.json)
    return 0


async def _found(store: CredentialsCache, user: str | None) -> AsyncIterator[Stored]:
    if user is not None:
        for stored in await store.sessions(user, _now()):
            yield stored
        return
    async for stored in store.scan(_now()):
        yield stored


async def _show(store: CredentialsCache, options: argparse.Namespace) -> int:
    stored = await _get(store, options.id)
    if stored is None:
        return _no_such_session()
    row = _row(stored) | {"metadata": stored.session.metadata}
    if options.json:
        _print_json(row)
    else:
        for name, value in row.items():
            print(f"{name:12} {_printable(value)}")
    return 0


async def _revoke(store: CredentialsCache, options: argparse.Namespace) -> int:
    sid = decode_sid(options.id)
    if sid is None or not await store.delete(sid, _now()):
        return _no_such_session()
    _done(options, {"revoked": 1}, "ended")
    return 0


async def _revoke_user(store: CredentialsCache, options: argparse.Namespace) -> int:
    ended = await store.delete_user(options.user, _now())
    _done(options, {"revoked": ended}, f"{ended} ended")
    return 0


async def _purge(store: CredentialsCache, options: argparse.Namespace) -> int:
    total = 0
    while went := await store.purge(PURGE_STEP, _now()):
        total += went
        _progress(f"{total} removed")
        if went < PURGE_STEP:
            break
    _done(options, {"purged": total}, f"{total} removed")
    return 0


async def _count(store: CredentialsCache, options: argparse.Namespace) -> int:
    live = await store.count(_now())
    _done(options, {"count": live}, str(live))
    return 0


async def _get(store: CredentialsCache, session_id: str) -> Stored | None:
    sid = decode_sid(session_id)
    try:
        return None if sid is None else await store.get(sid, _now())
    except UnreadableRecord:
        return None


def _row(stored: Stored) -> Row:
    info = session_info(stored, current=False)
    return {
        "id": info.id,
        "user": stored.session.user_key,
        "created_at": _iso(info.created_at),
        "renewed_at": _iso(info.renewed_at),
        "expires_at": _iso(info.expires_at),
        "ip": info.metadata.get("ip"),
        "user_agent": info.metadata.get("user_agent"),
    }


def _print_rows(rows: list[Row], *, as_json: bool) -> None:
    if as_json:
        for row in rows:
            _print_json(row)
        return
    cells = [COLUMNS, *([_printable(row[name]) for name in COLUMNS] for row in rows)]
    widths = [max(len(line[column]) for line in cells) for column in range(len(COLUMNS))]
    for line in cells:
        print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip())


def _done(options: argparse.Namespace, result: dict[str, int], text: str) -> None:
    if options.json:
        _print_json(result)
    else:
        print(text)


def _print_json(value: object) -> None:
    print(msgspec.json.encode(value).decode())


def _printable(value: object) -> str:
    """A cell that cannot move the cursor or change the terminal, whatever a client called itself."""
    text = "-" if value is None else str(value)
    return "".join(character if character.isprintable() else "?" for character in text)


def _progress(text: str) -> None:
    if sys.stderr.isatty() or text.endswith("\n"):
        print(f"\r{text}", end="", file=sys.stderr, flush=True)


def _no_such_session() -> int:
    print("powauth: no such session", file=sys.stderr)
    return 1


def _iso(moment: datetime) -> str:
    return moment.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _now() -> Millis:
    return int(time() * 1000)


if __name__ == "__main__":
    sys.exit(main())
