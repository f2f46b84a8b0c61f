"""``powauth sessions``: list, count and end the sessions of a store, or of an app."""

import argparse
import asyncio
import os
import sys
from collections.abc import AsyncIterator, Callable, Coroutine
from time import time
from typing import Any

from powauth.accounts.identity import stored_key
from powauth.backends import EXAMPLES, backend_from_url
from powauth.backends.base import Backend, Millis, drive
from powauth.backends.wrapping import BackendWrapper
from powauth.cli.app import is_per_process, load_auth, run_with
from powauth.cli.output import Row, Table, iso, no_such_session, print_json, print_result, printable, progress
from powauth.cli.status import Status, UsageError
from powauth.cli.users import end_all_of, keys_of
from powauth.errors import ConfigError
from powauth.sessions.ids import decode_sid
from powauth.sessions.info import session_info
from powauth.sessions.record import key_text
from powauth.sessions.store import CredentialsCache, Stored, UnreadableRecord

BACKEND_VARIABLE = "POWAUTH_BACKEND"
"""The environment variable for ``--backend``. It keeps a password in the URL out of the process list."""

PURGE_STEP = 500
"""Records removed in one step. Other clients can run between the steps."""

IN_MEMORY = "memory:// is inside of the app's process, where no command can look"

COLUMNS = ("sid", "user", "created_at", "renewed_at", "expires_at", "ip", "user_agent")


def run(options: argparse.Namespace) -> int:
    """Open the store, and run an action on it.

    Raises:
        PowauthError: if the store cannot be used.
    """
    if options.app:
        return _run_in_app(options)
    url = options.backend or os.environ.get(BACKEND_VARIABLE)
    if not url:
        print(f"powauth: give --backend, or set {BACKEND_VARIABLE}, or give --app: {EXAMPLES}", file=sys.stderr)
        return Status.USAGE
    if url.lower().startswith("memory:"):
        raise ConfigError(IN_MEMORY)
    # A missing store is probably a typo, so do not create it. Only `create-tables` may create a SQLite file.
    makes_file = options.action is create_tables and url.lower().startswith("sqlite")
    backend = backend_from_url(url, create=makes_file)
    store = CredentialsCache(backend, namespace=options.namespace or "credentials")
    run_it: Callable[[Coroutine[Any, Any, int]], int] = asyncio.run if backend.mode == "async" else drive
    return run_it(_closing(backend, options.action(store, options)))


def _run_in_app(options: argparse.Namespace) -> int:
    if options.backend or options.namespace:
        raise UsageError("--app brings its own backend and namespace: leave --backend and --namespace out")
    auth = load_auth(options.app)
    if is_per_process(auth):
        raise ConfigError(IN_MEMORY)
    options.auth = auth
    return run_with(auth, options.action(auth.store, options))


async def _closing(backend: Backend, work: Coroutine[Any, Any, int]) -> int:
    try:
        return await work
    finally:
        await backend.close()


async def list_sessions(store: CredentialsCache, options: argparse.Namespace) -> int:
    """Print live sessions as they are found."""
    table = None if options.json else Table(COLUMNS)
    found = 0
    async for stored in _found(store, options.user):
        if options.limit and found == options.limit:
            progress(f"only the first {options.limit}; --limit 0 is all\n")
            break
        found += 1
        row = _row(stored)
        if table is None:
            print_json(row)
        else:
            table.add(row)
    if table is not None:
        table.end()
    return Status.DONE


async def _found(store: CredentialsCache, user: str | None) -> AsyncIterator[Stored]:
    if user is not None:
        for key in _keys(user):
            for stored in await store.sessions(key, _now()):
                yield stored
        return
    async for stored in store.scan(_now()):
        yield stored


def _keys(text: str) -> list[str]:
    """Return the keys that ``text`` may mean, as records name them."""
    return list(dict.fromkeys(key_text(stored_key(key)) for key in keys_of(text)))


async def show(store: CredentialsCache, options: argparse.Namespace) -> int:
    """Print one session with its metadata."""
    stored = await _get(store, options.sid)
    if stored is None:
        return no_such_session()
    row = _row(stored) | {"metadata": stored.session.metadata}
    if options.json:
        print_json(row)
    else:
        for name, value in row.items():
            print(f"{name:12} {printable(value)}")
    return Status.DONE


async def revoke(store: CredentialsCache, options: argparse.Namespace) -> int:
    """End one session."""
    sid = decode_sid(options.sid)
    if sid is None or not await store.delete(sid, _now()):
        return no_such_session()
    print_result(options, {"revoked": 1}, "ended")
    return Status.DONE


async def revoke_user(store: CredentialsCache, options: argparse.Namespace) -> int:
    """End all sessions of a user. In an app, end everything that signs the user in."""
    if options.auth is not None:
        ended = await end_all_of(options.auth, options.user)
    else:
        ended = sum([await store.delete_sessions(key, _now()) for key in _keys(options.user)])
    print_result(options, {"revoked": ended}, f"{ended} ended")
    return Status.DONE


async def purge(store: CredentialsCache, options: argparse.Namespace) -> int:
    """Remove expired sessions in steps of `PURGE_STEP`."""
    total = 0
    while went := await store.purge(PURGE_STEP, _now()):
        total += went
        progress(f"{total} removed")
        if went < PURGE_STEP:
            break
    print_result(options, {"purged": total}, f"{total} removed")
    return Status.DONE


async def count(store: CredentialsCache, options: argparse.Namespace) -> int:
    """Count live sessions."""
    live = await store.count(_now())
    print_result(options, {"count": live}, str(live))
    return Status.DONE


async def create_tables(store: CredentialsCache, options: argparse.Namespace) -> int:
    """Create the tables of a SQL backend that do not exist.

    Raises:
        ConfigError: if the backend has no tables.
    """
    backend = store.backend
    while isinstance(backend, BackendWrapper):
        backend = backend.here()
    create = getattr(backend, "create_tables", None)
    if create is None:
        raise ConfigError("this backend has no tables: create-tables is for SQL")
    await create()
    print_result(options, {"created": 1}, "the tables are there")
    return Status.DONE


async def _get(store: CredentialsCache, text: str) -> Stored | None:
    sid = decode_sid(text)
    try:
        return None if sid is None else await store.get(sid, _now())
    except UnreadableRecord:
        return None


def _row(stored: Stored) -> Row:
    info = session_info(stored, current=False)
    return {
        "sid": info.sid,
        "user": key_text(stored.session.user_key),
        "created_at": iso(info.created_at),
        "renewed_at": iso(info.renewed_at),
        "expires_at": iso(info.expires_at),
        "ip": info.metadata.get("ip"),
        "user_agent": info.metadata.get("user_agent"),
    }


def _now() -> Millis:
    return int(time() * 1000)
