"""The path to sign out."""

from powauth.pages.page import Page
from powauth.pages.routes import Routes
from powauth.pages.visit import PageAnswer, PageVisit


def page(routes: Routes) -> Page:
    """Return the page, which answers ``POST`` only."""
    return Page(name="logout", path=routes.logout, post=sign_out)


async def sign_out(visit: PageVisit) -> PageAnswer:
    """Sign out."""
    await visit.params()  # refuses a body that is too long or of another type
    await visit.auth.sign_out()
    to = visit.destination(visit.settings.routes.after_logout, done="signed_out", default="login")
    return PageAnswer(status=204, to=to)
