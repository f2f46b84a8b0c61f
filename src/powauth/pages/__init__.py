"""Ready-made pages to register, sign in, sign out, edit the account and list its devices, and their JSON twins."""

from powauth.http.cross_site import CrossSiteDefence
from powauth.pages.base import BasePages, Renderer
from powauth.pages.layouts import Surroundings
from powauth.pages.messages import Messages
from powauth.pages.page import Handler, Page, PageLink, PagePart
from powauth.pages.request import PageRequest, PageResponse
from powauth.pages.routes import Routes
from powauth.pages.site import Pages
from powauth.pages.visit import PageAnswer, PageVisit

__all__ = [
    "PageAnswer",
    "CrossSiteDefence",
    "BasePages",
    "Handler",
    "Messages",
    "PageLink",
    "Page",
    "PagePart",
    "PageRequest",
    "PageResponse",
    "PageVisit",
    "Pages",
    "Renderer",
    "Routes",
    "Surroundings",
]
