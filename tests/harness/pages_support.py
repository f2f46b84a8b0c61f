"""Shared parts of the pages' tests: one site on every framework, and a browser and a program as its clients."""

import asyncio
import logging
import re
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import fastapi
import flask
import httpx
import litestar
import sqlalchemy as sa
import starlette.applications
from sqlalchemy.orm import DeclarativeBase

from harness.support import SECRET, Clock, CountingBackend
from powauth import SessionAuth
from powauth.accounts.passwords import PasswordHasher
from powauth.accounts.sqlalchemy import SQLAlchemyUsers, UserMixin
from powauth.backends.memory import MemoryBackend
from powauth.integrations import asgi, wsgi
from powauth.integrations.flask import PowAuth
from powauth.pages import BasePages, Pages
from powauth.pages import asgi as asgi_pages
from powauth.pages import fastapi as fastapi_pages
from powauth.pages import flask as flask_pages
from powauth.pages import litestar as litestar_pages
from powauth.pages import starlette as starlette_pages
from powauth.pages import wsgi as wsgi_pages

HOST = "app.example"
ORIGIN = f"https://{HOST}"
EMAIL, PASSWORD = "mia@example.com", "seven red herons"
FORM = "application/x-www-form-urlencoded"
FIREFOX = "Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0"


class Base(DeclarativeBase):
    pass


class User(UserMixin, Base):
    __tablename__ = "users"

    locked: sa.orm.Mapped[bool] = sa.orm.mapped_column(default=False)

    @property
    def is_active(self) -> bool:
        return not self.locked


class SyncASGI(httpx.BaseTransport):
    """An ASGI app for a client that does not await: each request on an event loop of its own, unless ``run`` is set."""

    def __init__(self, app: Any) -> None:
        self.inner = httpx.ASGITransport(app)
        self.run: Callable[[Coroutine[Any, Any, httpx.Response]], httpx.Response] = asyncio.run

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        async def send() -> httpx.Response:
            response = await self.inner.handle_async_request(request)
            assert isinstance(response.stream, httpx.AsyncByteStream)
            body = b"".join([part async for part in response.stream])
            return httpx.Response(response.status_code, headers=response.headers.raw, content=body)

        return self.run(send())


def _asgi(auth: SessionAuth[User, Any], flows: BasePages, mount: str) -> httpx.BaseTransport:
    pages = asgi_pages.PagesApp(flows)

    async def mounted(scope: Any, receive: Any, send: Any) -> None:
        await pages({**scope, "root_path": mount}, receive, send)

    return SyncASGI(asgi.SessionAuthMiddleware(mounted if mount else pages, auth))


def _wsgi(auth: SessionAuth[User, Any], flows: BasePages, mount: str) -> httpx.BaseTransport:
    pages = wsgi_pages.PagesApp(flows)

    def mounted(environ: Any, start_response: Any) -> Any:
        path = environ["PATH_INFO"].removeprefix(mount)
        return pages({**environ, "SCRIPT_NAME": mount, "PATH_INFO": path}, start_response)

    return httpx.WSGITransport(wsgi.SessionAuthMiddleware(mounted if mount else pages, auth))


def _starlette(auth: SessionAuth[User, Any], flows: BasePages, mount: str) -> httpx.BaseTransport:
    routes: Any = starlette_pages.pages(flows)
    if mount:
        routes = [starlette.routing.Mount(mount, routes=routes)]
    app = starlette.applications.Starlette(routes=routes)
    app.add_middleware(asgi.SessionAuthMiddleware, auth=auth)
    return SyncASGI(app)


def _fastapi(auth: SessionAuth[User, Any], flows: BasePages, mount: str) -> httpx.BaseTransport:
    app = fastapi.FastAPI()
    app.add_middleware(asgi.SessionAuthMiddleware, auth=auth)
    app.include_router(fastapi_pages.pages(flows), prefix=mount)
    return SyncASGI(app)


def _litestar(auth: SessionAuth[User, Any], flows: BasePages, mount: str) -> httpx.BaseTransport:
    app = litestar.Litestar([litestar_pages.pages(flows, path=mount or "/")], openapi_config=None)
    return SyncASGI(asgi.SessionAuthMiddleware(app, auth))  # type: ignore[arg-type]


def _flask(auth: SessionAuth[User, Any], flows: BasePages, mount: str) -> httpx.BaseTransport:
    app = flask.Flask(__name__)
    PowAuth(app, auth)
    app.register_blueprint(flask_pages.pages(flows), url_prefix=mount or None)
    return httpx.WSGITransport(app)


MOUNTS: dict[str, Callable[[SessionAuth[User, Any], BasePages, str], httpx.BaseTransport]] = {
    "asgi": _asgi,
    "wsgi": _wsgi,
    "starlette": _starlette,
    "fastapi": _fastapi,
    "litestar": _litestar,
    "flask": _flask,
}


@dataclass
class Site:
    """The pages on one framework."""

    framework: str
    transport: httpx.BaseTransport
    auth: SessionAuth[User, Any]
    users: SQLAlchemyUsers[User, Any]
    engine: sa.Engine
    backend: CountingBackend
    clock: Clock
    mount: str

    def browser(self, **headers: str) -> "Browser":
        return Browser(self, headers)

    def program(self, **headers: str) -> httpx.Client:
        given = {"accept": "application/json", "user-agent": "a program", **headers}
        return httpx.Client(transport=self.transport, base_url=ORIGIN + self.mount, headers=given)

    def change(self, email: str = EMAIL, **values: Any) -> None:
        """Change a user behind everybody's back."""
        with self.engine.begin() as connection:
            connection.execute(sa.update(User).where(User.email == email).values(values))

    @property
    def emails(self) -> list[str]:
        with self.engine.begin() as connection:
            return sorted(connection.scalars(sa.select(User.email)))


@contextmanager
def site(framework: str, folder: Path, *, mount: str = "", flows: Any = None, **options: Any) -> Iterator[Site]:
    """A new site; ``options`` are those of `Pages`, and ``users`` other users than those of this module."""
    engine = sa.create_engine(f"sqlite:///{folder / 'users.sqlite3'}")
    try:
        Base.metadata.create_all(engine)
        hasher = PasswordHasher(time_cost=1, memory_cost=8, cheap_and_unsafe=True)
        users = options.pop("users", None) or SQLAlchemyUsers(engine, User, hasher=hasher)
        backend, clock = CountingBackend(MemoryBackend()), Clock()
        logging.getLogger("powauth").setLevel(logging.ERROR)
        given: dict[str, Any] = {"secret_key": SECRET, "users": users, "backend": backend, "clock": clock}
        auth = SessionAuth(**given | options.pop("auth_options", {}))
        made = (flows or Pages)(auth, **options)
        yield Site(framework, MOUNTS[framework](auth, made, mount), auth, users, engine, backend, clock, mount)
    finally:
        engine.dispose()


class _Reader(HTMLParser):
    """Collects what a page is made of."""

    def __init__(self) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.forms: list[tuple[dict[str, str | None], list[dict[str, str | None]]]] = []
        self.text = ""
        self._open = False

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        attributes = dict(attrs)
        assert len(attributes) == len(attrs), f"an attribute twice in {attrs}"
        self.tags.append((tag, attributes))
        if tag == "form":
            self.forms.append((attributes, []))
            self._open = True
        elif tag == "input" and self._open:
            self.forms[-1][1].append(attributes)

    def handle_endtag(self, tag: str) -> None:
        if tag == "form":
            self._open = False

    def handle_data(self, data: str) -> None:
        self.text += data


class Page:
    """A response for people."""

    def __init__(self, response: httpx.Response) -> None:
        self.response = response
        self.status = response.status_code
        self.location = response.headers.get("location")
        self.html = response.text
        reader = _Reader()
        reader.feed(self.html)
        self.tags, self.forms = reader.tags, reader.forms
        self.text = re.sub(r"\s+", " ", reader.text)

    def header(self, name: str) -> str | None:
        value: str | None = self.response.headers.get(name)
        return value

    def find(self, tag: str, **attributes: str) -> list[dict[str, str | None]]:
        return [found for name, found in self.tags if name == tag and attributes.items() <= found.items()]

    def by_id(self, name: str) -> dict[str, str | None]:
        (found,) = [attributes for _, attributes in self.tags if attributes.get("id") == name]
        return found


class Browser:
    """A browser without scripts: it shows pages, sends their forms, and says where each request comes from."""

    def __init__(self, site: Site, headers: dict[str, str]) -> None:
        given = {"accept": "text/html,application/xhtml+xml,*/*;q=0.8", "user-agent": FIREFOX, **headers}
        self.client = httpx.Client(transport=site.transport, base_url=ORIGIN, headers=given)
        self.mount = site.mount

    def get(self, path: str, **headers: str) -> Page:
        return Page(self.client.get(self._at(path), headers={"sec-fetch-site": "none", **headers}))

    def post(self, path: str, fields: dict[str, str], **headers: str) -> Page:
        sent = {"sec-fetch-site": "same-origin", "origin": ORIGIN} | {
            k.replace("_", "-"): v for k, v in headers.items()
        }
        return Page(self.client.post(self._at(path), data=fields, headers=sent))

    def send(self, page: Page, action: str | None = None, **fields: str) -> Page:
        """Fill in and send the page's form: the one with this hidden ``action``, or else the last with these fields."""
        forms = [
            (attributes, inputs)
            for attributes, inputs in page.forms
            if action is None or any(each.get("name") == "action" and each.get("value") == action for each in inputs)
        ]
        fitting = [form for form in forms if fields.keys() <= {each.get("name") for each in form[1]}]
        attributes, inputs = (fitting or forms)[-1]
        assert attributes["method"] == "post"
        values = {str(each["name"]): each.get("value") or "" for each in inputs if "name" in each}
        assert fields.keys() <= values.keys() or action == "end", (fields, values)
        sent = {"sec-fetch-site": "same-origin", "origin": ORIGIN}
        return Page(self.client.post(str(attributes["action"]), data={**values, **fields}, headers=sent))

    def follow(self, page: Page) -> Page:
        assert page.status == 303, (page.status, page.text)
        assert page.location is not None
        assert page.location.startswith("/"), page.location
        return Page(self.client.get(page.location, headers={"sec-fetch-site": "same-origin"}))

    def register(self, email: str = EMAIL, password: str = PASSWORD) -> Page:
        return self.follow(self.send(self.get("/register"), email=email, password=password))

    def sign_in(self, email: str = EMAIL, password: str = PASSWORD) -> Page:
        return self.send(self.get("/login"), email=email, password=password)

    def is_signed_in(self) -> bool:
        return self.get("/account").status == 200

    @property
    def cookies(self) -> dict[str, str]:
        return dict(self.client.cookies)

    def _at(self, path: str) -> str:
        return self.mount + path if path.startswith("/") else path
