"""The pages as a FastAPI router."""

from typing import Any, Unpack

from powauth._extras import needs
from powauth.pages.base import BasePages
from powauth.pages.site import PagesOptions
from powauth.plug import SessionAuth

with needs("fastapi", "the pages' router", "fastapi"):
    from fastapi import APIRouter

from powauth.pages import starlette


def pages(auth: SessionAuth[Any, Any] | BasePages, **options: Unpack[PagesOptions]) -> APIRouter:
    """Return a router with all pages, for ``app.include_router(pages(auth))``. A ``prefix`` is optional.

    Args:
        auth: the authenticator, or `BasePages` (such as `Pages`) made from it.
        options: the options of `Pages`, if ``auth`` is an authenticator.
    """
    router = APIRouter()
    router.routes.extend(starlette.pages(auth, **options))
    return router
