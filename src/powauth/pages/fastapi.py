"""The pages as FastAPI's router."""

from typing import Any, Unpack

from powauth._extras import needs
from powauth.pages.flows import Flows
from powauth.pages.site import PagesOptions
from powauth.plug import SessionAuth

with needs("fastapi", "the pages' router", "fastapi"):
    from fastapi import APIRouter

from powauth.pages import starlette


def pages(auth: SessionAuth[Any, Any] | Flows, **options: Unpack[PagesOptions]) -> APIRouter:
    """A router with each page: ``app.include_router(pages(auth))``, with a ``prefix`` if you like.

    Args:
        auth: the authenticator, or `Flows` (`Pages`) made of it.
        options: those of `Pages`, with an authenticator.
    """
    router = APIRouter()
    router.routes.extend(starlette.pages(auth, **options))
    return router
