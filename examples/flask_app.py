"""Flask. Run it with ``gunicorn flask_app:app``."""

from accounts import auth
from flask import Flask, request
from flask.typing import ResponseReturnValue

from powauth.integrations.flask import PowAuth, current_user, login_required, request_auth

app = Flask(__name__)
PowAuth(app, auth)


@app.post("/register")
def register() -> ResponseReturnValue:
    return {"email": request_auth().register(request.get_json()).email}, 201


@app.post("/login")
def login() -> ResponseReturnValue:
    user = request_auth().sign_in(request.get_json())
    return ({"email": user.email}, 200) if user else ({"error": "wrong e-mail or password"}, 401)


@app.post("/logout")
def logout() -> ResponseReturnValue:
    request_auth().sign_out()
    return "", 204


@app.get("/me")
@login_required
def me() -> ResponseReturnValue:
    return {"email": current_user.email}
