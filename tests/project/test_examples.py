"""The programs of ``examples/``, each on a real server: register, be known, sign out, be unknown."""

import json
import os
import re
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from scripts.ports import free_port

EXAMPLES = Path(__file__).parents[2] / "examples"
UVICORN = ["-m", "uvicorn", "--app-dir", str(EXAMPLES), "--no-access-log", "--log-level", "warning", "--port"]
GUNICORN = ["-m", "gunicorn", "--pythonpath", str(EXAMPLES), "--log-level", "warning", "--no-control-socket", "--bind"]

PROGRAMS = {
    "fastapi_app": [*UVICORN, "{port}", "fastapi_app:app"],
    "starlette_app": [*UVICORN, "{port}", "starlette_app:app"],
    "litestar_app": [*UVICORN, "{port}", "litestar_app:app"],
    "asgi_app": [*UVICORN, "{port}", "--lifespan", "off", "asgi_app:app"],
    "flask_app": [*GUNICORN, "127.0.0.1:{port}", "flask_app:app"],
    "wsgi_app": [str(EXAMPLES / "wsgi_app.py"), "{port}"],
}
STORE = {
    "web": [*GUNICORN, "127.0.0.1:{port}", "shared_store:web"],
    "api": [*UVICORN, "{port}", "shared_store:api"],
}


@contextmanager
def serving(folder: Path, *commands: list[str]) -> Iterator[list[str]]:
    """The programs on their servers, sharing a folder and a secret; their addresses."""
    ports = [free_port() for _ in commands]
    environment = os.environ | {"SECRET_KEY": secrets.token_urlsafe(48)}
    servers = []
    try:
        urls = [f"http://127.0.0.1:{port}" for port in ports]
        for port, url, command in zip(ports, urls, commands, strict=True):
            arguments = [sys.executable, *(part.format(port=port) for part in command)]
            servers.append(subprocess.Popen(arguments, cwd=folder, env=environment))
            wait_for(url, servers[-1])
        yield urls
    finally:
        for server in servers:
            server.terminate()
        for server in servers:
            server.wait(20)


def wait_for(url: str, server: subprocess.Popen[bytes]) -> None:
    deadline = time.monotonic() + 40
    while True:
        try:
            assert httpx.get(f"{url}/me").status_code == 401
        except httpx.TransportError:
            assert server.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.1)
        else:
            return


PARTS = {
    "backend": ("testing/test_backend_example.py", 60),
    "aiohttp_integration": ("integrations/test_example_integrations.py", 80),
    "audit_log": ("accounts/test_audit_log.py", 80),
    "quart_integration": ("integrations/test_example_integrations.py", 40),
    "users_service": ("testing/test_users_service.py", 60),
}
"""Parts that an app writes itself: the tests in which they are run, and their most lines, blank ones not counted."""


def private_names(path: Path) -> list[str]:
    """Names of powauth that a program imports or uses although they are private."""
    return re.findall(r"(?:from|import) powauth\S*\._\w+|import .*\b_\w+|(?<!self)\._[a-z]\w*", path.read_text())


@pytest.mark.parametrize("path", sorted(EXAMPLES.glob("*.py")), ids=lambda path: str(path.stem))
def test_each_program_is_short_and_is_run_by_a_test(path: Path) -> None:
    if path.stem in PARTS:
        test, lines = PARTS[path.stem]
        assert path.stem in (EXAMPLES.parent / "tests" / test).read_text()
        assert len([line for line in path.read_text().splitlines() if line.strip()]) <= lines
        assert private_names(path) == []
        return
    assert len(path.read_text().splitlines()) < 40
    assert path.stem in {*PROGRAMS, "shared_store", "accounts"}


@pytest.mark.parametrize("name", PROGRAMS)
def test_a_user_registers_signs_out_and_signs_in(name: str, tmp_path: Path) -> None:
    who = {"email": "mia@example.org", "password": "five brown owls hoot"}
    with serving(tmp_path, PROGRAMS[name]) as (url,), httpx.Client(base_url=url) as browser:
        registered = browser.post("/register", json=who)
        assert (registered.status_code, registered.json()) == (201, {"email": who["email"]})
        assert browser.get("/me").json() == {"email": who["email"]}
        stolen = dict(browser.cookies)
        assert browser.post("/logout", json={}).is_success
        assert browser.get("/me").status_code == 401
        assert httpx.get(f"{url}/me", cookies=stolen).status_code == 401
        assert browser.post("/login", json={**who, "password": "six brown owls hoot"}).status_code == 401
        assert browser.get("/me").status_code == 401
        assert browser.post("/login", json=who).json() == {"email": who["email"]}
        assert browser.get("/me").json() == {"email": who["email"]}
        assert browser.post("/register", json=who).status_code == 422
        # A form of another site can send JSON as text.
        foreign = {"content-type": "text/plain", "origin": "https://evil.example", "sec-fetch-site": "cross-site"}
        signed_in = httpx.post(f"{url}/login", content=json.dumps(who), headers=foreign)
        assert 400 <= signed_in.status_code < 500
        assert "set-cookie" not in signed_in.headers


def test_two_frameworks_share_one_store(tmp_path: Path) -> None:
    who = {"email": "mia@example.org", "password": "five brown owls hoot"}
    with serving(tmp_path, *STORE.values()) as (web, api), httpx.Client() as browser:
        assert browser.post(f"{web}/register", json=who).status_code == 201
        for url in (web, api):
            assert browser.get(f"{url}/me").json() == {"email": who["email"]}
        assert browser.post(f"{api}/logout", json={}).status_code == 204
        for url in (web, api):
            assert browser.get(f"{url}/me").status_code == 401
