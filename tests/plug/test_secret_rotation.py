"""A new secret in a rolling deployment: old and new workers serve the same clients, and nobody is signed out."""

import secrets
from collections.abc import Sequence

import pytest

from harness.core_support import KINDS
from harness.http_support import App
from harness.support import Browser, Clock, Kind, MemoryUsers
from powauth.backends.memory import MemoryBackend

OLD, NEW = secrets.token_urlsafe(48), secrets.token_urlsafe(48)

RENEWAL_SECONDS = 900
LIFETIME_SECONDS = 12 * 3600

STEPS: list[tuple[Sequence[str], Sequence[str]]] = [
    # workers that still run, workers that are started
    ([OLD], [OLD, NEW]),  # 1: add the new secret last, everywhere
    ([OLD, NEW], [NEW, OLD]),  # 2: move it to the front
]


class Fleet:
    """Workers that share a store and users, each with its own secrets."""

    def __init__(self, kind: Kind) -> None:
        self.kind = kind
        self.backend = MemoryBackend()
        self.users = MemoryUsers()
        self.clock = Clock()

    def worker(self, secret_keys: Sequence[str]) -> App:
        return App(self.backend, self.kind, users=self.users, clock=self.clock, secret_key=secret_keys)


def seen_by(worker: App, browser: Browser) -> str | None:
    """Who the browser's user is to a worker. The browser keeps the cookie that it gets."""
    visitor = Browser(worker.app, worker.kind, browser.jar)
    user: str | None = visitor.get("/").json()["user"]
    return user


@pytest.mark.parametrize("kind", KINDS)
def test_rep_16_two_steps_sign_nobody_out(kind: Kind) -> None:
    fleet = Fleet(kind)
    email = next(iter(fleet.worker([OLD]).users.rows.values())).email
    browsers = [fleet.worker([OLD]).signed_in()]
    for running, started in STEPS:
        workers = [fleet.worker(running), fleet.worker(started)]
        browsers.extend(worker.signed_in() for worker in workers)
        for _ in range(3):
            # Each worker in turn renews ids, and every worker recognises every client.
            for order in (workers, workers[::-1]):
                fleet.clock.advance(RENEWAL_SECONDS)
                for worker in order:
                    assert [seen_by(worker, browser) for browser in browsers] == [email] * len(browsers)
        leaving = workers[0].signed_in()
        Browser(workers[1].app, kind, leaving.jar).get("/logout")
        assert [seen_by(worker, leaving) for worker in workers] == [None, None]
        workers[1].signed_in()
        browsers.append(workers[1].signed_in())

    # All live ids are of the new secret once sessions have been renewed, and at the latest after `max_lifetime`.
    fleet.clock.advance(RENEWAL_SECONDS)
    current, next_one = fleet.worker([NEW, OLD]), fleet.worker([NEW])
    assert [seen_by(current, browser) for browser in browsers] == [email] * len(browsers)
    assert [seen_by(next_one, browser) for browser in browsers] == [email] * len(browsers)


@pytest.mark.parametrize("kind", KINDS)
def test_rep_16_one_step_makes_new_ids_anonymous_on_old_workers(kind: Kind) -> None:
    fleet = Fleet(kind)
    old, new = fleet.worker([OLD]), fleet.worker([NEW, OLD])
    assert seen_by(new, old.signed_in()) is not None
    assert seen_by(old, new.signed_in()) is None, "why the docs say to add it last first"


@pytest.mark.parametrize("kind", KINDS)
def test_rep_16_the_old_secret_is_needed_until_its_sessions_have_ended(kind: Kind) -> None:
    fleet = Fleet(kind)
    browser = fleet.worker([OLD, NEW]).signed_in()
    assert seen_by(fleet.worker([NEW]), browser) is None, "dropped too early"
    assert seen_by(fleet.worker([NEW, OLD]), browser) is not None
    fleet.clock.advance(LIFETIME_SECONDS)
    assert seen_by(fleet.worker([NEW, OLD]), browser) is None, "the longest session has ended"
