"""Pages for people who made too many attempts."""

from datetime import timedelta
from pathlib import Path

import pytest

from harness.pages_support import EMAIL, site
from powauth.accounts.throttle import Limit, Throttle


@pytest.mark.parametrize(
    ("window", "words"),
    [(timedelta(seconds=50), "seconds"), (timedelta(minutes=14), "minutes"), (timedelta(hours=5), "hours")],
)
def test_a_page_says_how_long_to_wait(window: timedelta, words: str, tmp_path: Path) -> None:
    throttle = Throttle(per_account=Limit(1, window))
    with site("flask", tmp_path, auth_options={"throttle": throttle}) as here:
        browser = here.browser()
        browser.sign_in(password="not the password")
        page = browser.sign_in(password="not the password")
        assert page.status == 429
        assert page.find("h1")
        assert "Too many attempts" in page.text
        seconds = int(str(page.header("retry-after")))
        count = {"seconds": seconds, "minutes": -(-seconds // 60), "hours": -(-seconds // 3600)}[words]
        assert f"only a few attempts are allowed. Try again in {count} {words}." in page.text
        assert EMAIL not in page.text
        assert page.find("a", href="/login")
