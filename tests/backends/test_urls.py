"""URLs of backends: schemes, drivers, and schemes of other packages."""

import asyncio
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import pytest

from harness.support import SECRET, MemoryUsers
from powauth import ConfigError, SessionAuth
from powauth.backends import backend_from_url
from powauth.backends.anywhere import AnywhereBackend, anywhere
from powauth.backends.base import Backend, drive
from powauth.backends.memory import MemoryBackend
from powauth.backends.redis import RedisBackend
from powauth.backends.sql import SQLBackend


def driver_of(backend: object) -> str:
    assert isinstance(backend, SQLBackend)
    engine = backend._engine or backend._async_engine  # no public name gives the engine of a URL
    assert engine is not None
    return str(engine.url.drivername)


@pytest.fixture
def without(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """Packages that count as not installed."""
    missing: set[str] = set()
    looked_up = SimpleNamespace(find_spec=lambda name: None if name in missing else find_spec(name))
    monkeypatch.setattr("powauth.backends._sql_drivers.find_spec", looked_up.find_spec)
    return missing


@pytest.mark.parametrize(
    ("url", "plain", "on_a_loop"),
    [
        ("postgresql://u@h/db", "postgresql+psycopg", "postgresql+psycopg_async"),
        ("postgres://u@h/db", "postgresql+psycopg", "postgresql+psycopg_async"),
        ("PostgreSQL://u@h/db", "postgresql+psycopg", "postgresql+psycopg_async"),
        ("postgres+asyncpg://u@h/db", "postgresql+psycopg", "postgresql+asyncpg"),
        ("mysql://u@h/db", "mysql+pymysql", "mysql+asyncmy"),
        ("mariadb://u@h/db", "mariadb+pymysql", "mariadb+asyncmy"),
    ],
)
def test_rep_08_a_url_without_a_driver_takes_the_one_that_is_installed(url: str, plain: str, on_a_loop: str) -> None:
    assert driver_of(backend_from_url(url, asynchronous=False)) == plain
    assert driver_of(backend_from_url(url, asynchronous=True)) == on_a_loop


def test_rep_08_so_does_an_sql_backend_of_a_url() -> None:
    assert driver_of(SQLBackend("postgres://u@h/db")) == "postgresql+psycopg"
    assert driver_of(SQLBackend("mysql://u@h/db")) == "mysql+pymysql"


def uses_on_loops(backend: Backend) -> None:
    """Use a backend on two event loops, as reads and writes do."""
    assert isinstance(backend, AnywhereBackend)

    async def use() -> None:
        for _ in range(3):
            backend.here()

    for _ in range(2):
        asyncio.run(use())


def test_a_missing_driver_for_event_loops_is_looked_for_once(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    for name in [name for name in sys.modules if name.partition(".")[0] == "asyncmy"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "asyncmy", None)  # as if it were not installed
    looked_for: list[bool | None] = []

    def counted(url: str, *, asynchronous: bool | None = None) -> Backend:
        looked_for.append(asynchronous)
        return backend_from_url(url, asynchronous=asynchronous)

    monkeypatch.setattr("powauth.backends.anywhere.backend_from_url", counted)
    uses_on_loops(anywhere("mariadb://u@127.0.0.1:1/db"))
    assert looked_for.count(True) == 1
    assert [record.message for record in caplog.records if "asynchronous driver" in record.message] == [
        "the backend's asynchronous driver is not installed: each read or write takes a worker thread"
    ]


def test_rep_08_the_other_driver_will_do(without: set[str]) -> None:
    without |= {"psycopg", "pymysql"}
    assert driver_of(backend_from_url("postgresql://u@h/db")) == "postgresql+asyncpg"
    assert driver_of(backend_from_url("mariadb://u@h/db")) == "mariadb+asyncmy"


@pytest.mark.parametrize(
    ("url", "meant", "extra"),
    [
        ("postgres://u:secret@h/db", "postgresql+psycopg:// or postgresql+asyncpg://", "postgresql"),
        ("mysql://u:secret@h/db", "mysql+pymysql:// or mysql+asyncmy://", "mariadb"),
    ],
)
def test_rep_08_where_no_driver_is_installed_the_error_asks(
    url: str, meant: str, extra: str, without: set[str]
) -> None:
    without |= {"psycopg", "asyncpg", "pymysql", "asyncmy"}
    with pytest.raises(ConfigError) as caught:
        backend_from_url(url)
    assert f"did you mean {meant}?" in str(caught.value)
    assert f"powauth[{extra}]" in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("url", ["valkey://h:6379/0", "valkeys://h:6379/0", "REDIS://h", "valkey+sentinel://h:1/main"])
def test_rep_08_valkey_is_another_word_for_redis(url: str) -> None:
    assert isinstance(backend_from_url(url), RedisBackend)
    assert isinstance(RedisBackend(url.lower()), RedisBackend)


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("postgresql+psycopg2://u:secret@h/db", "did you mean postgresql+psycopg://?"),
        ("postgresq://u:secret@h/db", "did you mean postgresql://?"),
        ("reddis://:secret@h", "did you mean redis://?"),
        ("redis+sentinal://:secret@h", "redis+sentinel://"),
        ("redis-cluster://:secret@h", "did you mean redis+cluster://?"),
        ("sqllite:///secret.db", "did you mean sqlite://?"),
        ("sqlite:secret.db", "did you mean sqlite:/// and a path?"),
        ("sqlite:/secret.db", "did you mean sqlite:/// and a path?"),
        ("sqlite://secret.db", "did you mean sqlite:/// and a path?"),
        ("postgresql:/u:secret@h", "did you mean postgresql://user@host/database?"),
        ("redis::secret@h", "did you mean redis://?"),
        ("valkeys:/:secret@h", "did you mean rediss://?"),
        ("memory://secret", "did you mean memory://?"),
        ("memory:", "did you mean memory://?"),
        ("lmdb://secret", "lmdb:/// and a path"),
        ("oracle://u:secret@h", "scheme is unknown: use one of memory://, lmdb:///path"),
        ("/var/lib/secret", "begins with a scheme"),
        ("secret", "begins with a scheme"),
        ("", "begins with a scheme"),
    ],
)
def test_rep_08_a_mistake_in_a_url_is_answered_with_what_was_meant(url: str, says: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(says)) as caught:
        backend_from_url(url)
    assert "secret" not in str(caught.value)


# Schemes of other packages

PACKAGE = """
from powauth.backends.memory import MemoryBackend
from powauth.backends.sql import SQLBackend

opened = []


def open_backend(url, *, asynchronous, create):
    opened.append((url, asynchronous, create))
    return MemoryBackend()


def open_blocking(url, *, asynchronous, create):
    opened.append((url, asynchronous, create))
    return SQLBackend("postgresql+psycopg://127.0.0.1:1/none")


def open_nothing(url, *, asynchronous, create):
    return None
"""


@pytest.fixture
def site_packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of packages that are installed."""
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "drawer", raising=False)
    return tmp_path


def install(folder: Path, name: str, points: str) -> None:
    """Lay down a package as pip does: its module, and the metadata with its entry points."""
    (folder / f"{name}.py").write_text(PACKAGE)
    info = folder / f"{name}-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[powauth.backends]\n{points}\n")


def test_another_package_has_a_scheme_by_an_entry_point(site_packages: Path) -> None:
    install(site_packages, "drawer", "drawer = drawer:open_backend")
    backend = backend_from_url("Drawer+oak://upper?depth=3", asynchronous=True, create=False)
    assert isinstance(backend, MemoryBackend)
    import drawer  # type: ignore[import-not-found]

    assert drawer.opened == [("drawer+oak://upper?depth=3", True, False)]
    auth = SessionAuth(secret_key=SECRET, users=MemoryUsers(), backend="drawer://upper")
    assert drive(auth.store.count(0)) == 0
    drive(auth.aclose())


def test_a_package_that_offers_one_driver_is_asked_once_for_another(site_packages: Path) -> None:
    install(site_packages, "drawer", "drawer = drawer:open_blocking")
    uses_on_loops(anywhere("drawer://upper"))
    import drawer

    assert [asynchronous for _, asynchronous, _ in drawer.opened] == [None, True]


def test_rep_08_an_error_lists_the_schemes_of_other_packages(site_packages: Path) -> None:
    install(site_packages, "drawer", "drawer = drawer:open_backend")
    for url in ("oracle://h", "nothing"):
        with pytest.raises(ConfigError, match=r"redis\+cluster://…, drawer://…$"):
            backend_from_url(url)
    with pytest.raises(ConfigError, match=r"did you mean drawer://\?"):
        backend_from_url("drawers://upper")


@pytest.mark.parametrize(
    ("points", "says"),
    [
        ("drawer = drawer:open_nothing", "the result of the entry point of drawer:// must be a Backend, not NoneType"),
        ("drawer = drawer:absent", "the backend of drawer:// cannot be loaded from drawer:absent"),
        ("drawer = absent_package:open", "the backend of drawer:// cannot be loaded from absent_package:open"),
    ],
)
def test_an_entry_point_that_is_wrong_is_an_error_of_the_configuration(
    site_packages: Path, points: str, says: str
) -> None:
    install(site_packages, "drawer", points)
    with pytest.raises(ConfigError, match=re.escape(says)):
        backend_from_url("drawer://upper")


def test_two_packages_with_one_scheme_are_refused(site_packages: Path) -> None:
    install(site_packages, "drawer", "drawer = drawer:open_backend")
    install(site_packages, "drawers", "drawer = drawers:open_backend")
    with pytest.raises(ConfigError, match="uninstall one of drawer:open_backend and drawers:open_backend"):
        backend_from_url("drawer://upper")


def test_no_package_replaces_what_ships_with_powauth(site_packages: Path) -> None:
    install(site_packages, "drawer", "memory = drawer:open_nothing")
    assert isinstance(backend_from_url("memory://"), MemoryBackend)
