"""FastAPI: each dependency has the app's own types."""

from collections.abc import Awaitable, Callable, Iterator
from datetime import timedelta
from typing import Annotated, Any, assert_type

from fastapi import Depends, FastAPI
from fastapi.requests import HTTPConnection
from model import Me, User, auth, engine
from sqlalchemy import orm

from powauth import BlockingRequestAuth, RequestAuth, SessionAuth
from powauth.integrations.fastapi import (
    Auth,
    CurrentRequestAuth,
    SessionAuthMiddleware,
    auth_dependency,
    refusals,
    request_auth,
    response_model,
)

app = FastAPI()
app.add_middleware(SessionAuthMiddleware, auth=auth)
session = Auth(auth)

CurrentUser = Annotated[Me, Depends(session.identity)]
MaybeUser = Annotated[Me | None, Depends(session.optional_identity)]
FreshUser = Annotated[Me, Depends(session.fresh(timedelta(minutes=5)))]
Session = Annotated[RequestAuth[User, Me], Depends(session.request_auth)]
SignInBody = Annotated[dict[str, Any], session.sign_in_body]
RegistrationBody = Annotated[dict[str, Any], session.registration_body]
BlockingSession = Annotated[BlockingRequestAuth[User, Me], Depends(session.blocking_request_auth)]

assert_type(auth, SessionAuth[User, Me])
assert_type(session, Auth[User, Me])
assert_type(session.identity, Callable[[HTTPConnection], Awaitable[Me]])
assert_type(session.optional_identity, Callable[[HTTPConnection], Awaitable[Me | None]])
assert_type(session.no_user, Callable[[HTTPConnection], Awaitable[None]])
assert_type(session.fresh(), Callable[[HTTPConnection], Awaitable[Me]])
assert_type(response_model(Me), type[Me])


@app.get("/me", dependencies=[Depends(session.same_origin())])
async def me(user: CurrentUser, maybe: MaybeUser, fresh: FreshUser) -> str:
    assert_type(maybe, Me | None)
    assert_type(fresh, Me)
    return user.nick


def get_db() -> Iterator[orm.Session]:
    with orm.Session(engine) as db:
        yield db


CurrentRow = Annotated[User, Depends(session.row(get_db))]
MaybeRow = Annotated[User | None, Depends(session.optional_row(get_db))]


@app.patch("/me")
def rename(user: CurrentRow, maybe: MaybeRow, db: Annotated[orm.Session, Depends(get_db)]) -> str:
    assert_type(user, User)
    assert_type(maybe, User | None)
    user.nick = "x"
    db.commit()
    return user.nick


@app.get("/row")
async def row(session: CurrentRequestAuth[User, Me], db: Annotated[orm.Session, Depends(get_db)]) -> None:
    assert_type(await session.load_user(db), User | None)


@app.get("/identity")
async def identity(user: CurrentUser) -> Me:
    return user


@app.post("/register", responses=refusals(422))
async def register(params: RegistrationBody, session: Session) -> Me:
    user = await session.register(params)
    assert_type(user, Me)
    return user


@app.post("/login")
async def login(params: SignInBody, session: CurrentRequestAuth[User, Me]) -> None:
    assert_type(session, RequestAuth[User, Me])
    assert_type(await session.sign_in(params), Me | None)
    assert_type(session.current_user, Me | None)
    assert_type(session.require_user(), Me)


@app.post("/logout")
def logout(session: BlockingSession) -> None:
    assert_type(session.current_user, Me | None)
    session.sign_out()


@app.get("/module")
async def module(
    user: Annotated[Me, Depends(auth_dependency)], session: Annotated[RequestAuth[User, Me], Depends(request_auth)]
) -> str:
    assert_type(session.require_user(), Me)
    return user.nick
