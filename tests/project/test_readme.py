"""The README's two programs, run as printed, one user on both."""

import os
import re
import secrets
import subprocess
import sys
import time
from pathlib import Path

import httpx

from harness.demo_support import free_port

README = (Path(__file__).parents[2] / "README.md").read_text()
PROGRAMS = {
    block.split(":", 1)[0].lstrip("# "): block for block in re.findall(r"```python\n(.*?)```", README, re.DOTALL)
}


def test_each_program_is_under_30_lines() -> None:
    assert set(PROGRAMS) == {"app.py", "web.py"}
    for block in PROGRAMS.values():
        assert len(block.splitlines()) < 30


def test_the_first_commands_are_demo_and_test() -> None:
    assert re.findall(r"^    (make \w+)", README, re.MULTILINE)[:2] == ["make demo", "make test"]


def test_the_programs_run_as_printed_and_share_their_users(tmp_path: Path) -> None:
    for name, block in PROGRAMS.items():
        (tmp_path / name).write_text(block)
    commands = {
        free_port(): ["uvicorn", "app:app", "--log-level", "warning", "--port"],
        free_port(): ["flask", "--app", "web", "run", "--port"],
    }
    environment = os.environ | {"SECRET_KEY": secrets.token_urlsafe(48)}
    servers = [
        subprocess.Popen([sys.executable, "-m", *command, str(port)], cwd=tmp_path, env=environment)
        for port, command in commands.items()
    ]
    fastapi, flask = (f"http://127.0.0.1:{port}" for port in commands)
    try:
        with httpx.Client() as browser:
            for url in (fastapi, flask):
                _wait(browser, f"{url}/me")
            who = {"email": "mia@example.org", "password": "five brown owls hoot"}
            assert browser.post(f"{flask}/register", json=who).status_code == 201
            assert browser.get(f"{fastapi}/me").json() == {"email": who["email"]}
            browser.cookies.clear()
            assert browser.get(f"{flask}/me").status_code == 401
            wrong = {**who, "password": "six brown owls hoot"}
            assert browser.post(f"{fastapi}/login", json=wrong).status_code == 401
            assert browser.post(f"{fastapi}/login", json=who).status_code == 200
            assert browser.get(f"{flask}/me").json() == {"email": who["email"]}
    finally:
        for server in servers:
            server.terminate()
        for server in servers:
            server.wait(20)


def _wait(browser: httpx.Client, url: str) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            assert browser.get(url).status_code == 401
        except httpx.TransportError:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        else:
            return
