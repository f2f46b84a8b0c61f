"""Attacks on the challenge between the password and the factor."""

from urllib.parse import urlsplit

from scripts.factor_attacks.arena import (
    BETTER,
    PASSWORD,
    Arena,
    answer,
    at_once,
    attack,
    breach,
    control,
    one_winner,
    refused,
)

INVALID = "challenge_invalid"


@attack("The right code of the attacker in the challenge of the user", "a session of the user")
def code_of_another(arena: Arena, here: str, other: str) -> str:
    mia, eve = arena.person(here), arena.person(here)
    thief = arena.challenged(mia, here)
    refused(answer(thief, eve.code()), 401, error="second_factor_refused")
    breach(thief.who(), "a session began")
    control(answer(arena.challenged(eve, here), eve.code()).status_code == 200, "the code was wrong")
    return "401"


@attack("The user's right code in the challenge of the attacker, who names the user", "a session of the user")
def named_user(arena: Arena, here: str, other: str) -> str:
    mia, eve = arena.person(here), arena.person(here)
    thief = arena.challenged(eve, here)
    more = {"email": mia.email, "user": mia.email, "user_id": mia.email, "purpose": "step_up"}
    refused(answer(thief, mia.code(), **more), 401)
    breach(thief.who(), "a session began")
    done = answer(thief, eve.code(), **more)
    control(done.status_code == 200 and thief.who() == eve.email, done)
    return "401; the attacker's own code signs in the attacker alone"


@attack("A factor that the user has not turned on", "the attacker's recovery code is taken")
def factor_not_on(arena: Arena, here: str, other: str) -> str:
    mia, eve = arena.person(here), arena.person(here, codes=True)
    thief = arena.challenged(mia, here)
    for factor in ("recovery_code", "passkey", "sms", "", "Totp"):
        refused(answer(thief, eve.codes[0], factor), 422)
    refused(thief.send_json("/login/factor", factor=["totp"], code=mia.code()), 422)
    breach(thief.who(), "a session began")
    own = arena.challenged(eve, here)
    control(answer(own, eve.codes[0], "recovery_code").status_code == 200, "the recovery code was wrong")
    return "422 for each name"


@attack("The right code in a browser without the cookie of the challenge", "a session in another browser")
def other_browser(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here)
    begun = arena.challenged(mia, here)
    shown = begun.get("/login/factor").json()
    breach("challenge" in shown, "the page reveals the token of the cookie")
    thief, code = arena.client(here), mia.code()
    for more in ({}, {"email": mia.email}, {"challenge": begun.cookie("factor")}, {"challenge": None}):
        refused(answer(thief, code, **more), 403, error=INVALID)
    breach(thief.who(), "a session began")
    control(answer(begun, code).status_code == 200, "the code was used up")
    return "403, also with the cookie's token in the body"


@attack("A challenge after its success", "a second session from one challenge")
def used_challenge(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here)
    begun = arena.challenged(mia, here)
    cookie = begun.named_cookie("factor")
    control(answer(begun, mia.code()).status_code == 200, "no sign-in")
    for app in (here, other):
        thief = arena.client(app)
        thief.headers["cookie"] = cookie
        refused(answer(thief, mia.code_of(mia.used + 1)), 403, error=INVALID)
        breach(thief.who(), "a session began")
    return "403 on both servers"


@attack("A challenge after a change of the password", "the old password still opens the account")
def after_new_password(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here)
    begun = arena.challenged(mia, here)
    done = mia.client.patch_json("/registration", password=BETTER, current_password=PASSWORD)
    control(done.status_code == 200, done)
    code = mia.code()
    refused(answer(begun, code), 403, error=INVALID)
    breach(begun.who(), "a session began")
    fresh = arena.client(here)
    refused(fresh.send_json("/session", email=mia.email, password=BETTER), 401)
    control(answer(fresh, code).status_code == 200, "the code was used up")
    return "403; the code works with the new password"


@attack("A challenge after the administrator has locked the user", "a locked user gets a session")
def after_lock(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here)
    begun, code = arena.challenged(mia, here), mia.code()
    control(arena.administer(here, action="lock", email=mia.email).status_code == 204, "no lock")
    refused(answer(begun, code), 403, error=INVALID)
    breach(begun.who() or mia.client.who(), "a session lives")
    refused(
        arena.client(here).send_json("/session", email=mia.email, password=PASSWORD), 401, error="invalid_credentials"
    )
    control(arena.administer(here, action="unlock", email=mia.email).status_code == 204, "no unlock")
    refused(answer(begun, code), 403, error=INVALID)
    arena.honest(mia, here)
    return "403, also after the lock is gone"


@attack("A challenge after the user has deleted the account", "a session of nobody, or an error of the server")
def after_deletion(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here)
    begun, code = arena.challenged(mia, here), mia.code()
    gone = mia.client.request("DELETE", "/registration", json={"current_password": PASSWORD})
    control(gone.status_code == 204, gone)
    refused(answer(begun, code), 403, error=INVALID)
    breach(begun.who(), "a session began")
    again = arena.client(here).send_json("/registration", email=mia.email, password=PASSWORD)
    control(again.status_code == 201, again)
    refused(answer(begun, code), 403, error=INVALID)
    return "403, also after somebody registers the address again"


@attack("A challenge and a code of the app that was replaced", "the old phone still opens the account")
def after_replacement(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here)
    old = mia.secret
    begun = arena.challenged(mia, here)
    control(mia.code() is not None, "no code")
    arena.enrol(mia)
    control(mia.secret != old, "the seed is the same")
    refused(answer(begun, mia.code()), 403, error=INVALID)
    thief = arena.challenged(mia, here)
    new, mia.secret = mia.secret, old
    refused(answer(thief, mia.code_of(mia.used + 1)), 401)
    mia.secret = new
    breach(begun.who() or thief.who(), "a session began")
    return "the challenge is 403, the old seed's code 401"


@attack("A challenge after the factor was removed", "the challenge is answered without any factor")
def after_removal(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here)
    begun = arena.challenged(mia, here)
    found = mia.client.get("/account/factors").json()["factors"][0]
    gone = mia.client.send_json("/account/factors", action="remove", factor="totp", id=found["id"])
    control(gone.status_code == 204 and arena.factors(mia) == [], gone)
    refused(answer(begun, mia.code_of(mia.used + 1)), 403, error=INVALID)
    refused(begun.send_json("/login/factor"), 403, error=INVALID)
    breach(begun.who(), "a session began")
    return "403"


@attack("A changed, cut, long or foreign token as the cookie", "a session, or an error of the server")
def forged_cookie(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here)
    begun, code = arena.challenged(mia, here), mia.code()
    name, _, token = begun.named_cookie("factor").partition("=")
    last = "A" if token[-5] != "A" else "B"
    forged = [
        token[:-5] + last + token[-4:],
        token[:-1],
        token + "A",
        token.swapcase(),
        "A" * len(token),
        "A" * 4000,
        "%00",
    ]
    for value in [*forged, "", '"', "é".encode().decode("latin-1"), f'"{token}x"']:
        thief = arena.client(here)
        response = thief.post(
            "/login/factor",
            json={"factor": "totp", "code": code},
            headers={b"cookie": f"{name}={value}".encode("latin-1")},
        )
        refused(response, 403, error=INVALID)
    control(answer(begun, code).status_code == 200, "the honest challenge is gone")
    return "403 for 11 tokens"


@attack(
    "The attacker plants a challenge and a session's id in the user's browser",
    "the user ends in the attacker's account, or the attacker knows the id",
)
def fixation(arena: Arena, here: str, other: str) -> str:
    mia, eve = arena.person(here), arena.person(here)
    trap = arena.challenged(eve, here)
    planted = trap.named_cookie("factor")
    victim = arena.client(here)
    refused(victim.post("/login/factor", json={"factor": "totp", "code": mia.code()}, headers={"cookie": planted}), 401)
    asked = victim.post(
        "/session",
        json={"email": mia.email, "password": PASSWORD},
        headers={"cookie": f"{planted}; auth={eve.client.cookie('auth')}"},
    )
    refused(asked, 401, error="second_factor_required")
    breach(victim.cookie("factor") == trap.cookie("factor"), "the planted challenge is used again")
    done = answer(victim, mia.code())
    control(done.status_code == 200 and victim.who() == mia.email, done)
    breach(victim.cookie("auth") == eve.client.cookie("auth"), "the id did not change")
    return "the planted challenge refuses the user's code; a new one begins, with a new id"


@attack("The challenge of a step-up, in a browser without that session", "a session from a step-up")
def step_up_elsewhere(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here)
    control(mia.client.get("/login/factor").status_code == 200, "no step-up")
    cookie = mia.client.named_cookie("factor")
    eve, code = arena.person(here), mia.code()
    for thief in (arena.client(here), eve.client):
        session = "".join(f"; auth={each.value}" for each in thief.cookies.jar if each.name == "auth")
        response = thief.post(
            "/login/factor", json={"factor": "totp", "code": code}, headers={"cookie": f"{cookie}{session}"}
        )
        refused(response, 403, error=INVALID)
        breach(thief.who() == mia.email, "a session began")
    before = mia.client.cookie("auth")
    control(answer(mia.client, code).status_code == 200, "the step-up fails")
    breach(mia.client.cookie("auth") == before, "the id of the session did not change")
    return "403 for a stranger and for another user; the owner gets a new id"


@attack("An open redirect through next, in the challenge", "the browser is led to another site")
def open_redirect(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here, totp=True, codes=True)
    targets = [
        "//evil.example",
        "https://evil.example/",
        "/\\evil.example",
        "javascript:alert(1)",
        "/%0d%0aSet-Cookie:a=b",
    ]
    targets += ["\\\\evil.example", "/\t/evil.example", "http:evil.example", "///evil.example"]
    for number, target in enumerate(targets):
        thief = arena.client(here)
        page = thief.form("/login", {"email": mia.email, "password": PASSWORD, "next": target})
        shown = thief.get("/login/factor", params={"next": target}, headers={"accept": "text/html"})
        breach("evil.example" in page.headers["location"] + shown.text, "the page has the address")
        done = thief.form("/login/factor", {"factor": "recovery_code", "code": mia.codes[number], "next": target})
        control(done.status_code == 303, done)
        parts = urlsplit(done.headers["location"])
        leads_away = bool(parts.scheme or parts.netloc or not parts.path.startswith("/") or parts.path.startswith("//"))
        breach(leads_away or "evil" in parts.path, f"{target!r} leads to {done.headers['location']}")
    honest = arena.challenged(mia, here)
    done = honest.form("/login/factor", {"factor": "totp", "code": mia.code(), "next": "/account/factors"})
    control(done.headers.get("location") == "/account/factors", done)
    return "9 targets lead to the account; an own path is followed"


@attack("20 parallel answers to one challenge with one right code, on both servers", "two sessions", once=True)
def parallel_answers(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here)
    begun, code = arena.challenged(mia, here), mia.code()
    cookie = begun.named_cookie("factor")
    thieves = [arena.client(app) for app in (here, other) * 10]
    fields = {"factor": "totp", "code": code}
    done = at_once(thieves, lambda each: each.post("/login/factor", json=fields, headers={"cookie": cookie}))
    one_winner(thieves, done)
    return "one session"
