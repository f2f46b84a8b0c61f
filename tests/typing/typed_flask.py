"""Flask: the extension's proxy and object have the app's own types."""

from datetime import timedelta
from typing import assert_type

from flask import Flask, request
from model import Me, User, auth, engine
from sqlalchemy.orm import scoped_session, sessionmaker

from powauth.integrations.flask import FlaskRequestAuth, PowAuth

app = Flask(__name__)
extension = PowAuth(app, auth)
current_user = extension.current_user
request_auth = extension.request_auth

assert_type(extension, PowAuth[User, Me, Me])
assert_type(current_user, Me)
assert_type(request_auth(), FlaskRequestAuth[User, Me, Me])
assert_type(PowAuth(auth=auth).current_user, Me)

rows = PowAuth(auth=auth, session=scoped_session(sessionmaker(engine)))
factory: PowAuth[User, Me, User] = PowAuth()
assert_type(rows, PowAuth[User, Me, User])
assert_type(rows.current_user, User)
assert_type(rows.current_identity, Me)
assert_type(rows.request_auth().current_user, User | None)
assert_type(factory.current_user, User)


@app.post("/login")
def login() -> dict[str, str]:
    user = request_auth().sign_in(request.get_json())
    assert_type(user, Me | None)
    return {"nick": user.nick if user else ""}


@app.post("/register")
def register() -> dict[str, str]:
    return {"nick": request_auth().register(request.get_json()).nick}


@app.get("/me")
@extension.login_required
def me() -> dict[str, str]:
    return {"nick": current_user.nick}


@app.get("/project/<int:number>")
@extension.fresh_login_required(within=timedelta(minutes=5))
def project(number: int) -> str:
    return f"{current_user.nick} {number}"


assert_type(project(1), str)


@app.get("/")
def index() -> str:
    maybe = request_auth().current_user
    assert_type(maybe, Me | None)
    return maybe.nick if maybe else "nobody"
