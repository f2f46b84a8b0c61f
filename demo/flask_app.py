"""The demo on Flask, with the same routes, users and sessions."""

from collections.abc import Mapping
from typing import Any

from flask import Flask, redirect, request
from flask.typing import ResponseReturnValue

from powauth.integrations.flask import PowAuth, login_required, request_auth
from powauth.pages.flask import pages

from .config import make_auth, pages_of
from .wire import (
    MAX_BODY_BYTES,
    BodyTooLarge,
    UnsupportedBody,
    deletion_params,
    params_of,
    session_json,
    signed_in_json,
)

app = Flask(__name__)
app.config["MAX_CONTENT_LENGTH"] = MAX_BODY_BYTES
session_auth = make_auth(asynchronous=False)
PowAuth(app, session_auth)
app.register_blueprint(pages(session_auth, **pages_of()))


def read_params() -> Mapping[str, object]:
    """Return the request's JSON object."""
    return params_of(request.headers.get("content-type"), request.get_data())


@app.get("/")
def index() -> ResponseReturnValue:
    """Redirect to the pages."""
    return redirect("/login" if request_auth().current_user is None else "/account", 303)


@app.post("/registration")
def register() -> ResponseReturnValue:
    """Register and sign in."""
    auth = request_auth()
    return signed_in_json(auth.register(read_params()), auth.session), 201


@app.patch("/registration")
def change() -> ResponseReturnValue:
    """Change e-mail or password."""
    auth = request_auth()
    return signed_in_json(auth.update_user(read_params()), auth.session)


@app.delete("/registration")
@login_required
def unregister() -> ResponseReturnValue:
    """Delete the account."""
    auth = request_auth()
    proof = deletion_params(read_params(), auth.session)
    auth.delete_user(proof, vouched=proof is None)
    return "", 204


@app.post("/session")
def sign_in() -> ResponseReturnValue:
    """Sign in."""
    auth = request_auth()
    user = auth.sign_in(read_params())
    if user is None:
        return {"error": "invalid_credentials"}, 401
    return signed_in_json(user, auth.session)


@app.get("/session")
def whoami() -> ResponseReturnValue:
    """Return the current user and session."""
    auth = request_auth()
    return signed_in_json(auth.require_user(), auth.session)


@app.delete("/session")
def sign_out() -> ResponseReturnValue:
    """Sign out."""
    request_auth().sign_out()
    return "", 204


@app.get("/sessions")
def sessions() -> ResponseReturnValue:
    """List the user's sessions."""
    found: list[Any] = [session_json(session) for session in request_auth().sessions()]
    return {"sessions": found}


@app.delete("/sessions/<sid>")
def revoke(sid: str) -> ResponseReturnValue:
    """End one session."""
    return ("", 204) if request_auth().revoke(sid) else ({"error": "not_found"}, 404)


@app.delete("/sessions")
def revoke_others() -> ResponseReturnValue:
    """End all other sessions."""
    request_auth().revoke_others()
    return "", 204


@app.errorhandler(UnsupportedBody)
def unsupported(error: UnsupportedBody) -> ResponseReturnValue:
    """Answer 415 to a body that is not JSON."""
    del error
    return {"error": "send application/json"}, 415


@app.errorhandler(BodyTooLarge)
@app.errorhandler(413)
def too_large(error: Exception) -> ResponseReturnValue:
    """Answer 413 to a body that is too long."""
    del error
    return {"error": "too_large"}, 413
