"""Attacks with malformed requests: broken bodies, other methods, duplicate fields."""

import json
from typing import Final

from scripts.factor_attacks.arena import Arena, answer, attack, breach, control, refused

PATHS: Final = (
    "/login",
    "/login/factor",
    "/login/passkey",
    "/account/factors",
    "/account/factors/totp",
    "/account/factors/recovery",
    "/account/passkeys",
)

BODIES: Final = (
    b"",
    b"{",
    b"[]",
    b"null",
    b"1",
    b'"x"',
    b"[" * 30_000,
    b'{"a":' * 9_000,
    b"\xff\xfe\x00",
    b'{"code": "\\ud800"}',
    b'{"code": 1e999}',
    b'{"code": NaN}',
    b'{"factor": {"totp": []}, "code": {"x": 1}, "credential": [[]], "action": {}}',
    b'{"action": "confirm", "code": [], "label": {}}',
    b'{"action": "add", "credential": {"response": {}}, "label": 5}',
    b'{"action": "remove", "factor": [], "id": {}}',
    b'{"action": "options", "challenge": []}',
    b'{"action": "options", "challenge": "' + b"A" * 60_000 + b'"}',
    b'{"a": "' + b"x" * 200_000 + b'"}',
)


@attack("Broken JSON and odd types at 7 paths, signed in and not", "an error of the server (5xx)")
def broken_bodies(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here, codes=True)
    for client in (arena.client(here), arena.challenged(mia, here), mia.client):
        for path in PATHS:
            for body in BODIES:
                found = client.post(path, content=body, headers={"content-type": "application/json"})
                breach(found.status_code >= 500, f"{path}: {found.status_code} for {body[:40]!r}")
                honest = b"options" in body or path.endswith("recovery")  # any body makes recovery codes
                breach(found.status_code in (200, 201, 204) and not honest, f"{path} takes {body[:40]!r}")
    control(set(arena.factors(mia)) == {"totp", "recovery_code"}, "a factor has changed")
    arena.honest(mia, here)
    return f"no 5xx for {len(PATHS) * len(BODIES) * 3} requests"


@attack("Broken forms and foreign types of content", "an error of the server, or a form of another site passes as JSON")
def other_types(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here)
    begun, code = arena.challenged(mia, here), mia.code()
    body = json.dumps({"factor": "totp", "code": code}).encode()
    for kind in (
        "text/plain",
        "application/x-www-form-urlencoded",
        "multipart/form-data",
        "",
        "application/jsonx",
        "a;b",
    ):
        found = begun.post("/login/factor", content=body, headers={"content-type": kind})
        refused(found, 400, 403, 415, 422)
        found = begun.post(
            "/login/factor", content=b"\xff=%zz&=&code=%00", headers={"content-type": kind, "origin": here}
        )
        refused(found, 400, 403, 415, 422)
    breach(begun.who(), "a session began")
    control(
        begun.post("/login/factor", content=body, headers={"content-type": "application/json"}).status_code == 200, "no"
    )
    return "400, 403, 415 or 422"


@attack("Other methods, method overrides and other forms of the path", "a way around the page that asks for the factor")
def other_methods(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here)
    begun, code = arena.challenged(mia, here), mia.code()
    fields = {"factor": "totp", "code": code}
    for method in ("PUT", "PATCH", "DELETE", "OPTIONS", "HEAD", "TRACE", "PROPFIND"):
        found = begun.request(method, "/login/factor", json=fields)
        breach(found.status_code >= 500, f"{method}: {found.status_code}")
        breach(begun.who(), f"{method} begins a session")
    for path in (
        "/account",
        "/account/factors",
        "//account",
        "/account/",
        "/./account",
        "/login/../account",
        "/ACCOUNT",
    ):
        for headers in (
            {"x-http-method-override": "GET"},
            {"x-original-url": "/login"},
            {"x-forwarded-for": "127.0.0.1"},
        ):
            found = begun.get(path, headers=headers)
            breach(found.status_code >= 500 or "factors" in found.text, f"{path}: {found.status_code}")
    control(answer(begun, code).status_code == 200, "no sign-in")
    control(begun.get("/account/factors").status_code == 200, "the path is wrong")
    return "no session, no 5xx"


@attack(
    "Fields twice: a wrong and a right code in one body",
    "two guesses for one, or a check of one and the use of the other",
)
def doubled_fields(arena: Arena, here: str, other: str) -> str:
    mia, eve = arena.person(here), arena.person(here)
    thief = arena.challenged(mia, here)
    wrong, step = mia.wrong_code(), mia.step()
    right = mia.code_of(step)
    kind = {"content-type": "application/json"}
    body = f'{{"factor": "totp", "code": "{right}", "code": "{wrong}"}}'.encode()
    found = thief.post("/login/factor", content=body, headers=kind)
    refused(found, 400, 401, 422)
    form = {"content-type": "application/x-www-form-urlencoded", "origin": here, "accept": "text/html"}
    found = thief.post("/login/factor", content=f"factor=totp&code={right}&code={wrong}".encode(), headers=form)
    refused(found, 400, 401, 422)
    breach(thief.who(), "a session began")
    cookie = thief.named_cookie("factor")
    own = arena.challenged(eve, here).named_cookie("factor")
    both = arena.client(here)
    found = both.post(
        "/login/factor", json={"factor": "totp", "code": eve.code()}, headers={"cookie": f"{cookie}; {own}"}
    )
    breach(both.who() == mia.email, "the attacker's code opens the user's account")
    control(answer(thief, right).status_code == 200, "no sign-in")
    return "one value counts; two cookies of challenges open nothing of the user"


@attack(
    "Cookies of the factor as scripts and other sites see them",
    "a script reads the challenge, or another site sends it",
)
def cookie_rules(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here, passkey=True)
    client = arena.client(here)
    asked = client.send_json("/session", email=mia.email, password="nine grey herons wade")
    control(asked.status_code == 401, asked)
    options = client.send_json("/login/passkey", action="options")
    done = answer(client, mia.code())
    control(done.status_code == 200, done)
    for response in (asked, options, done):
        for cookie in response.headers.get_list("set-cookie"):
            rules = {each.strip().lower() for each in cookie.split(";")[1:]}
            breach("httponly" not in rules, f"a script reads {cookie.split('=')[0]}")
            breach(not {"samesite=lax", "samesite=strict"} & rules, f"other sites send {cookie.split('=')[0]}")
            breach(any(each.startswith("domain") for each in rules), "subdomains get it")
    control(len(asked.headers.get_list("set-cookie")) == 1, asked.headers)
    return "HttpOnly, SameSite, without a domain"
