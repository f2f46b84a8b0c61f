"""Real servers of several processes: a few cells of the table that ``make processes`` prints."""

from pathlib import Path

import pytest

from harness.process_servers import ENGINES, SERVERS, left_out, run, suspicious

ROUNDS = 2


def serve(server: str, engine: str) -> None:
    reason = left_out(SERVERS[server], engine)
    if reason is not None:
        pytest.skip(f"{server} on {engine} is left out: {reason}")
    counts = run(SERVERS[server], engine, ROUNDS)
    assert counts.requests > 0
    assert (counts.anonymous, counts.undead, counts.errors) == (0, 0, 0), counts.examples
    assert suspicious(SERVERS[server], engine, counts) == []


@pytest.mark.parametrize(
    ("server", "engine"),
    [
        ("gunicorn --preload, sync", "PostgreSQL"),
        ("gunicorn --preload, sync", "MariaDB, the app's engine"),
        ("gunicorn --preload, uvicorn", "MariaDB"),
    ],
)
def test_rep_10_a_server_that_python_forks(server: str, engine: str) -> None:
    serve(server, engine)


@pytest.mark.parametrize("engine", ["PostgreSQL", "Redis", "Redis, near cache", "SQLite"])
def test_rep_11_a_server_that_forks_in_c(engine: str) -> None:
    serve("uWSGI", engine)


def test_a_server_whose_processes_begin_anew() -> None:
    serve("granian", "LMDB")


def test_the_page_on_operating_names_each_server_and_engine() -> None:
    page = (Path(__file__).parents[2] / "docs" / "operating.md").read_text()
    _, _, rest = page.partition("## Servers with several processes")
    section = " ".join(rest.partition("\n## ")[0].split())
    servers = {word for server in SERVERS.values() for word in (server.name.split()[0], server.package)}
    engines = {part for engine in ENGINES for part in engine.split(", ")}
    assert [name for name in sorted(servers | engines) if name.lower() not in section.lower()] == []
