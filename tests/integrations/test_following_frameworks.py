"""In each framework, a view that changes its own user keeps its session, and the user's other sessions end."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import flask
import pytest
from fastapi import FastAPI
from flask_sqlalchemy import SQLAlchemy
from litestar import Litestar, Request, get
from litestar.testing import TestClient as LitestarClient
from sqlalchemy import select
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column
from sqlalchemy.pool import NullPool
from starlette.requests import Request as StarletteRequest
from starlette.responses import PlainTextResponse
from starlette.testclient import TestClient

from harness.following import EMAILS, NEW_HASH, App, Citizen
from harness.rows import add_user, auth_over, hash_of
from harness.users_databases import blocking_engine
from powauth import SessionAuth
from powauth.integrations.asgi import SessionAuthMiddleware
from powauth.integrations.flask import PowAuth, current_user
from powauth.integrations.litestar import PowAuthPlugin
from powauth.testing import sign_in

MIA, NOA = EMAILS


@pytest.fixture
def app(tmp_path: Path) -> Iterator[App]:
    with blocking_engine("sqlite", str(tmp_path), Citizen) as engine:
        made = App(engine)
        made.register()
        made.users.follow(made.maker)
        yield made
        made.users.unfollow()


def set_hash(app: App, email: str = MIA) -> dict[str, bool]:
    with app.maker() as session:
        app.user(session, email).password_hash = NEW_HASH
        session.commit()
    return {"done": True}


def is_kept(auth: SessionAuth[Any, Any], user: Any, own: Any, other: Any) -> None:
    """Sign both clients in, change the password in a view of the first, and see who is signed in."""
    for client in (own, other):
        sign_in(client, user, auth=auth)
    assert (own.get("/me").text, other.get("/me").text) == (MIA, MIA)
    assert own.get("/change").status_code == 200
    assert (own.get("/me").text, other.get("/me").text) == (MIA, "nobody")


def test_fastapis_handlers_in_threads_and_on_the_event_loop(app: App, tmp_path: Path) -> None:
    engine = create_async_engine(str(app.engine.url).replace("sqlite", "sqlite+aiosqlite"), poolclass=NullPool)
    maker = async_sessionmaker(engine)
    app.users.follow(maker)
    site = FastAPI()
    site.add_middleware(SessionAuthMiddleware, auth=app.auth)

    @site.get("/change")
    def change() -> dict[str, bool]:
        return set_hash(app)

    @site.get("/rename")
    async def rename() -> dict[str, bool]:
        async with maker() as session:
            user = (await session.scalars(select(Citizen).where(Citizen.email == MIA))).one()
            user.is_active, user.password_hash = True, "changed again"
            await session.commit()
        return {"done": True}

    def me(request: StarletteRequest) -> Any:
        user = request.state.current_user
        return "nobody" if user is None else user.email

    site.add_api_route("/me", plain(me))
    with TestClient(site, base_url="https://testserver") as own, TestClient(site, base_url="https://testserver") as two:
        is_kept(app.auth, app.row().id, own, two)
        sign_in(two, app.row().id, auth=app.auth)
        assert own.get("/rename").status_code == 200
        assert (own.get("/me").text, two.get("/me").text) == (MIA, "nobody")


def plain(view: Any) -> Any:
    def answer(request: StarletteRequest) -> PlainTextResponse:
        return PlainTextResponse(view(request))

    return answer


def test_litestars_handlers(app: App) -> None:
    @get("/change", sync_to_thread=True)
    def change() -> dict[str, bool]:
        return set_hash(app)

    @get("/me", media_type="text/plain", sync_to_thread=False)
    def me(request: Request[Any, Any, Any]) -> str:
        user = request.scope["state"]["current_user"]
        return "nobody" if user is None else str(user.email)

    site = Litestar([change, me], plugins=[PowAuthPlugin(app.auth)])
    where = "https://testserver.local"
    own, other = LitestarClient(site, where), LitestarClient(site, where)
    is_kept(app.auth, app.row().id, own, other)


def test_flask_sqlalchemys_session_and_the_row(tmp_path: Path) -> None:
    class Base(DeclarativeBase):
        pass

    db = SQLAlchemy(model_class=Base)

    class User(db.Model):  # type: ignore[name-defined, misc]
        id: Mapped[int] = mapped_column(primary_key=True)
        email: Mapped[str] = mapped_column(unique=True)
        password_hash: Mapped[str | None]
        is_active: Mapped[bool] = mapped_column(default=True)

    site = flask.Flask("site")
    site.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{tmp_path}/users.db"
    db.init_app(site)
    with site.app_context():
        db.create_all()
        auth = auth_over(db.engine, User)
        auth.users.follow(db.session)  # type: ignore[attr-defined]
    PowAuth(site, auth, session=db.session)

    @site.get("/change")
    def change() -> dict[str, bool]:
        current_user.password_hash = hash_of()
        db.session.commit()
        assert current_user.email == MIA  # the row is loaded again, and its proof is the session's
        return {"done": True}

    @site.get("/lock")
    def lock() -> dict[str, bool]:
        current_user.is_active = False
        db.session.commit()
        return {"done": True}

    @site.get("/me")
    def me() -> str:
        return current_user.email if current_user else "nobody"

    user = add_user(auth, MIA)
    clients = [site.test_client(), site.test_client()]
    for client in clients:
        client.environ_base["wsgi.url_scheme"] = "https"
        sign_in(client, user, auth=auth)
    own, other = clients
    assert own.get("/change").status_code == 200
    assert (own.get("/me").text, other.get("/me").text) == (MIA, "nobody")
    assert own.get("/lock").status_code == 200
    assert own.get("/me").text == "nobody"
    with site.app_context():
        db.engine.dispose()
