"""Real servers of several processes: a few cells of the table that ``make processes`` prints."""

import pytest

from harness.process_servers import SERVERS, left_out, run, suspicious

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
