"""Ready-made pages to register, sign in and out, edit the account and see one's devices, and their JSON twins."""

from powauth.http.cross_site import CrossSiteDefence
from powauth.pages.flows import Flows, Renderer
from powauth.pages.messages import Messages
from powauth.pages.request import PageRequest, PageResponse
from powauth.pages.routes import Routes
from powauth.pages.site import Pages

__all__ = ["CrossSiteDefence", "Flows", "Messages", "PageRequest", "PageResponse", "Pages", "Renderer", "Routes"]
