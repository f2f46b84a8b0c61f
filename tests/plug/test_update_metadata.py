"""What a session keeps besides its user can be added to, changed and removed, over HTTP."""

from pathlib import Path
from typing import Any

import pytest

from harness.http_support import COMBINATION_IDS, COMBINATIONS, App, apps
from harness.support import Browser, Kind, Request
from powauth import MetadataTooLarge
from powauth.sessions.info import MAX_METADATA_BYTES

pytestmark = pytest.mark.parametrize("combination", COMBINATIONS, ids=COMBINATION_IDS)


def update(app: App, browser: Browser, **changes: Any) -> dict[str, Any]:
    """Let a handler update the metadata of the browser's session; the keys that it answers with, and their values."""

    async def work(request: Request) -> object:
        return await request.call("update_metadata", **changes)

    response, _ = app.run(browser, work)
    assert response.status == 200
    answered: dict[str, Any] = response.json()
    assert answered == app.session.metadata
    return answered


def test_rep_50_none_removes_a_key_and_leaves_the_others(combination: tuple[Kind, str], tmp_path: Path) -> None:
    with apps(combination, tmp_path) as make:
        app = make()
        browser = app.signed_in()
        before = update(app, browser, theme="dark", size=1, open=False)
        assert update(app, browser, theme=None, size=2, never_there=None) == {
            name: value for name, value in (before | {"size": 2}).items() if name != "theme"
        }
        assert update(app, browser, theme="light")["theme"] == "light"
        assert update(app, browser, open=None).keys() == before.keys() - {"open"}


def test_rep_50_what_powauth_wrote_itself_can_be_removed(combination: tuple[Kind, str], tmp_path: Path) -> None:
    with apps(combination, tmp_path) as make:
        app = make()
        browser = app.signed_in()
        assert app.session.metadata.keys() == {"first_seen", "ip", "user_agent"}
        assert update(app, browser, ip=None, first_seen=None, user_agent=None) == {}
        assert app.visit(browser)[0].json()["user"] == app.user.email


def test_rep_50_no_name_of_a_key_is_taken_by_a_parameter(combination: tuple[Kind, str], tmp_path: Path) -> None:
    with apps(combination, tmp_path) as make:
        app = make(metadata=lambda _: {"self": 1, "connection": 2, "not an identifier": 3})
        browser = app.signed_in()
        changes = {"self": None, "connection": None, "not an identifier": None, "first_seen": None, "": "kept"}
        assert update(app, browser, **changes) == {"": "kept"}


def test_rep_50_a_full_session_has_room_again_once_a_key_is_removed(
    combination: tuple[Kind, str], tmp_path: Path
) -> None:
    with apps(combination, tmp_path) as make:
        app = make()
        browser = app.signed_in()
        most = "x" * (MAX_METADATA_BYTES - 100)
        for number in range(20):
            update(app, browser, **{f"draft_{number}": most, f"draft_{number - 1}": None})
        with_one = dict(app.session.metadata)

        async def overfill(request: Request) -> object:
            with pytest.raises(MetadataTooLarge):
                await request.call("update_metadata", more=most)
            with pytest.raises(MetadataTooLarge):
                await request.call("update_metadata", ip=None, more=most)
            with pytest.raises(TypeError):
                await request.call("update_metadata", ip=None, nested={"theme": None})
            return None

        assert app.run(browser, overfill)[0].status == 200
        assert app.session.metadata == with_one
