"""Shared parts of the tests of the ``powauth`` command: a store with sessions."""

from collections.abc import Callable
from time import time

from harness.core_support import a_subject
from powauth.backends.base import drive
from powauth.backends.lmdb import LMDBBackend
from powauth.sessions.record import Session, StoredKey, new_session
from powauth.sessions.store import CredentialsCache

NOW = int(time() * 1000)


def fill(
    url: str,
    *,
    users: int = 3,
    each: int = 2,
    agent: str = "curl",
    ttl: int = 3_600_000,
    key_of: Callable[[int], StoredKey] = str,
) -> list[Session]:
    store = CredentialsCache(LMDBBackend(url.removeprefix("lmdb://")))
    made = []
    for number in range(users * each):
        key = key_of(number % users)
        metadata = {"ip": "192.0.2.7", "user_agent": agent}
        session = new_session(store.owner(key), a_subject(key), NOW + number, dict(metadata))
        assert drive(store.create(session, drive(store.epoch(key, NOW)), NOW + ttl, NOW))
        made.append(session)
    drive(store.close())
    return made
