"""What the tests of the ``powauth`` command share: a store with sessions."""

from time import time

from powauth.backends.base import drive
from powauth.backends.lmdb import LMDBBackend
from powauth.sessions.record import Session, new_session
from powauth.sessions.store import CredentialsCache

NOW = int(time() * 1000)


def fill(url: str, *, users: int = 3, each: int = 2, agent: str = "curl", ttl: int = 3_600_000) -> list[Session]:
    store = CredentialsCache(LMDBBackend(url.removeprefix("lmdb://")))
    made = []
    for number in range(users * each):
        key = str(number % users)
        metadata = {"ip": "192.0.2.7", "user_agent": agent}
        session = new_session(store.owner(key), key, b"", NOW + number, dict(metadata))
        assert drive(store.create(session, drive(store.epoch(key, NOW)), NOW + ttl, NOW))
        made.append(session)
    drive(store.close())
    return made
