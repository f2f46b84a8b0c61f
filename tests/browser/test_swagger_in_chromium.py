"""Swagger UI at ``/docs`` of FastAPI: its button "Authorize" works with the schemes of the OpenAPI document."""

import importlib.resources
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
from fastapi import Depends, FastAPI, HTTPException
from playwright.sync_api import Locator, Page, Route, expect, sync_playwright
from scripts.page_images import CHROMIUM, launch
from sqlalchemy import create_engine
from sqlalchemy.orm import DeclarativeBase

from harness.live_servers import serving
from harness.support import SECRET
from harness.users_databases import cheap_hasher
from powauth import AnyOf, BearerCarrier, CookieCarrier, RequestAuth, SessionAuth
from powauth.accounts.sqlalchemy import SQLAlchemyUsers, UserMixin
from powauth.backends.base import drive
from powauth.backends.memory import MemoryBackend
from powauth.errors import ConfigWarning
from powauth.integrations.fastapi import Auth, SessionAuthMiddleware

if not CHROMIUM.exists():
    pytest.skip("Chromium is not installed: scripts/system_packages.sh", allow_module_level=True)

ADA = {"email": "ada@example.org", "password": "five brown owls hoot"}
ASSETS = importlib.resources.files("fastapi_offline") / "static"


class Base(DeclarativeBase): ...


class Person(UserMixin, Base):
    __tablename__ = "people_in_swagger"


def app_of(auth: SessionAuth[Any, Any]) -> FastAPI:
    session = Auth(auth)
    app = FastAPI(lifespan=auth.lifespan)
    app.add_middleware(SessionAuthMiddleware, auth=auth)
    Session = Annotated[RequestAuth[Any, Any], Depends(session.request_auth)]  # noqa: N806 - an alias

    @app.post("/login")
    async def login(params: Annotated[dict[str, Any], session.sign_in_body], auth: Session) -> dict[str, str]:
        if (user := await auth.sign_in(params)) is None:
            raise HTTPException(401, "wrong e-mail or password")
        return {"email": user.email}

    @app.post("/token")
    async def token(params: Annotated[dict[str, Any], session.sign_in_body], auth: Session) -> dict[str, str]:
        if await auth.sign_in(params, bearer=True) is None:
            raise HTTPException(401, "wrong e-mail or password")
        return {"access_token": auth.access_token}

    @app.get("/me")
    async def me(user: Annotated[Any, Depends(session.identity)]) -> dict[str, str]:
        return {"email": user.email}

    return app


@pytest.fixture
def page(tmp_path: Path) -> Iterator[Page]:
    """The page of the docs, with the files of Swagger UI from a package instead of from another host."""
    engine = create_engine(f"sqlite:///{tmp_path}/users.sqlite3")
    Base.metadata.create_all(engine)
    users = SQLAlchemyUsers(engine, Person, hasher=cheap_hasher())
    with pytest.warns(ConfigWarning, match="insecure_http"):
        carrier = AnyOf(CookieCarrier(insecure_http=True), BearerCarrier())
    auth = SessionAuth(secret_key=SECRET, users=users, backend=MemoryBackend(), carrier=carrier)
    drive(auth.create_account(ADA))

    def serve_asset(route: Route) -> None:
        file = ASSETS / route.request.url.rpartition("/")[2]
        route.fulfill(body=file.read_bytes()) if file.is_file() else route.abort()

    with serving(app_of(auth), "asgi", lifespan="on") as (host, port), sync_playwright() as driver:
        browser = launch(driver)
        page = browser.new_page()
        page.route(lambda url: not url.startswith(f"http://{host}:{port}/"), serve_asset)
        page.goto(f"http://{host}:{port}/docs")
        yield page
        browser.close()
    engine.dispose()


def execute(page: Page, path: str, body: object = None) -> tuple[int, Any]:
    """Run an operation with its button, and return the status and the body that the page shows."""
    operation = page.locator(".opblock", has=page.locator(f"[data-path='{path}']"))
    if "is-open" not in (operation.get_attribute("class") or ""):
        operation.locator(".opblock-summary-control").click()
        operation.get_by_role("button", name="Try it out").click()
    if body is not None:
        operation.locator("textarea").fill(json.dumps(body))
    with page.expect_response(lambda answer: answer.url.endswith(path)) as answer:
        operation.get_by_role("button", name="Execute").click()
    shown = operation.locator(".live-responses-table .response .response-col_status")
    expect(shown).to_contain_text(str(answer.value.status))
    return answer.value.status, answer.value.json()


def dialog(page: Page) -> Locator:
    """Open the dialog of "Authorize". It offers both carriers."""
    page.locator(".auth-wrapper").get_by_role("button", name="Authorize").first.click()
    box = page.locator(".dialog-ux")
    expect(box.get_by_role("heading", level=4)).to_have_count(2)
    return box


def authorize(page: Page, token: str) -> None:
    """Give the page a bearer token, instead of the one that it has."""
    box = dialog(page)
    scheme = box.locator(".auth-container", has_text="(http, Bearer)")
    scheme.get_by_role("textbox").fill(token)
    scheme.get_by_role("button", name="Apply credentials").click()
    expect(scheme.get_by_role("button", name="Remove authorization")).to_be_visible()
    box.get_by_role("button", name="Close").last.click()


def forget(page: Page) -> None:
    """Take the token from the page."""
    box = dialog(page)
    scheme = box.locator(".auth-container", has_text="(http, Bearer)")
    scheme.get_by_role("button", name="Remove authorization").click()
    expect(scheme.get_by_role("textbox")).to_be_visible()
    box.get_by_role("button", name="Close").last.click()


def test_the_button_authorize_works_with_a_bearer_token_and_beside_a_cookie(page: Page) -> None:
    assert execute(page, "/me")[0] == 401
    token = execute(page, "/token", ADA)[1]["access_token"]
    assert execute(page, "/me")[0] == 401, "the page does not know the token yet"

    authorize(page, token)
    assert execute(page, "/me") == (200, {"email": ADA["email"]})
    forget(page)
    assert execute(page, "/me")[0] == 401

    assert execute(page, "/login", ADA)[0] == 200
    assert execute(page, "/me") == (200, {"email": ADA["email"]}), "the browser sends the cookie by itself"
    authorize(page, f"{token[:-4]}AAAA")
    assert execute(page, "/me")[0] == 401, "a token counts alone, also a wrong one"
