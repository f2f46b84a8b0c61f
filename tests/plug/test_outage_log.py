"""Requests that meet a store that fails: the log names the cause, and no more than once."""

import logging
from pathlib import Path

import pytest

from harness.core_support import KINDS, Site
from harness.http_support import App
from harness.support import Kind, Request
from powauth.backends.base import drive
from powauth.backends.memory import MemoryBackend
from powauth.backends.sql import SQLBackend
from powauth.errors import StoreUnavailable

pytestmark = pytest.mark.usefixtures("new_outage_log")


def errors_in(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR]


@pytest.mark.parametrize("kind", KINDS)
def test_rep_06_a_missing_table_is_503_and_one_line_that_names_the_command(
    kind: Kind, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site = Site(SQLBackend(f"sqlite:///{tmp_path}/app.db"), kind)
    browser = site.browser()
    for _ in range(5):
        response = browser.get("/login")
        assert (response.status, response.json()) == (503, {"error": "store_unavailable"})
    (line,) = errors_in(caplog)
    assert "the session database lacks a table" in line
    assert "`powauth sessions --backend URL create-tables`" in line
    assert "no such table: powauth_sessions" in line
    assert "outage" not in line
    drive(site.backend.close())


@pytest.mark.parametrize("path", ["/", "/do"])
@pytest.mark.parametrize("kind", KINDS)
def test_rep_06_a_backend_of_the_apps_own_that_fails_is_logged_once(
    kind: Kind, path: str, caplog: pytest.LogCaptureFixture
) -> None:
    site = App(MemoryBackend(), kind)
    browser = site.signed_in()

    async def public(request: Request) -> object:
        return f"public {request.path}"

    site.do = public
    error = StoreUnavailable("the cabinet is locked")
    error.__cause__ = ConnectionRefusedError("a secret")
    site.backend.fail["*"] = error
    for _ in range(3):
        assert browser.get(path).status == (503 if path == "/" else 200)
    assert errors_in(caplog) == ["the cabinet is locked [ConnectionRefusedError]"]
