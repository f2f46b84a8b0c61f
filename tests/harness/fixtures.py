"""Fixtures of several modules of tests. A module may have its own of the same name."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import sqlalchemy as sa

from harness.core_support import BACKENDS, KINDS, Site, open_backend
from harness.http_support import COMBINATION_IDS, COMBINATIONS, App, apps
from harness.people import people_engine
from harness.support import MemoryUsers
from harness.users_databases import memory_engine
from powauth.backends.base import Backend, drive

MakeApp = Callable[..., App]
NewEngine = Callable[..., sa.Engine]
Start = Callable[..., Site]


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[sa.Engine]:
    """An engine with the tables of `harness.people`."""
    with people_engine(tmp_path) as engine:
        yield engine


@pytest.fixture
def new_engine() -> Iterator[NewEngine]:
    """Makes engines as `memory_engine` does, and disposes of them after the test. From Python 3.13 on, SQLite's driver
    warns of a connection that nobody has closed, and the warning is the error of whichever test runs then.
    """
    with ExitStack() as stack:
        yield lambda *models: stack.enter_context(memory_engine(*models))


@pytest.fixture(params=COMBINATIONS, ids=COMBINATION_IDS)
def make_app(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[MakeApp]:
    """Makes apps over real HTTP: each kind of app on each backend."""
    with apps(request.param, tmp_path) as make:
        yield make


@pytest.fixture
def app(make_app: MakeApp) -> App:
    return make_app()


@pytest.fixture(params=[(kind, name) for kind in KINDS for name in BACKENDS], ids="-".join)
def start(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Start]:
    """Makes sites over one backend with one set of users, as several apps or releases of one would be."""
    kind, name = request.param
    backend: Backend = open_backend(name, tmp_path)
    users = MemoryUsers()
    yield lambda **options: Site(backend, kind, users=users, **options)
    drive(backend.close())
