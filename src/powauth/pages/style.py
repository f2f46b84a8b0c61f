"""The style sheet."""

from powauth.pages.page import Page
from powauth.pages.request import PageResponse
from powauth.pages.routes import Routes
from powauth.pages.visit import PageVisit

STYLE_SECONDS = 3600
"""Seconds for which browsers may cache the style sheet. Its link changes when its text changes."""


def page(routes: Routes, style: bytes) -> Page:
    """Return the page."""

    async def show(visit: PageVisit) -> PageResponse:
        del visit
        headers = [
            ("Content-Type", "text/css; charset=utf-8"),
            ("X-Content-Type-Options", "nosniff"),
            ("Cache-Control", f"public, max-age={STYLE_SECONDS}"),
        ]
        return PageResponse(200, headers, style)

    return Page(name="style", path=routes.style, get=show)
