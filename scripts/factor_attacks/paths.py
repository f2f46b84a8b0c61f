"""Attacks on the paths to a session: each user has an authenticator app, and the attacker knows the password."""

from scripts.factor_attacks.arena import (
    BETTER,
    PASSWORD,
    Arena,
    answer,
    at_once,
    attack,
    breach,
    control,
    refused,
)

REQUIRED = "second_factor_required"


@attack("The password alone, at the app's own route", "a session without a code")
def password_alone(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here)
    thief = arena.client(here)
    asked = thief.send_json("/session", email=mia.email, password=PASSWORD)
    refused(asked, 401, error=REQUIRED)
    breach(thief.who(), "a session began")
    arena.honest(mia, other)
    return "401 second_factor_required, no session"


@attack("The password alone on the page, remembered", "a remembered session without a code")
def password_remembered(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here)
    thief = arena.client(here)
    done = thief.form("/login", {"email": mia.email, "password": PASSWORD, "remember": "true"})
    control(done.status_code == 303 and done.headers["location"].startswith("/login/factor"), done)
    breach(thief.who(), "a session began")
    control(answer(thief, mia.code()).json()["session"]["remembered"] is True, "the wish to be remembered was lost")
    return "the page leads to the factor, no session; the honest answer is remembered"


@attack("The cookie of the challenge, as the cookie of the session", "the challenge opens the account")
def challenge_as_session(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here)
    token = arena.challenged(mia, here).cookie("factor")
    control(mia.client.who() == mia.email, "the honest session is gone")
    for app in (here, other):
        thief = arena.client(app)
        thief.headers["cookie"] = f"auth={token}"
        breach(thief.who(), "the challenge is a session")
        refused(thief.get("/account"), 401)
    return "401 on both servers"


@attack("The token of the challenge in Authorization: Bearer", "the challenge opens the account")
def challenge_as_bearer(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here)
    asked = arena.challenged(mia, here)
    token = asked.cookie("factor")
    for scheme in ("Bearer", "bearer", "Basic"):
        thief = arena.client(here)
        thief.headers["authorization"] = f"{scheme} {token}"
        breach(thief.who(), "the challenge is a token")
    control(answer(asked, mia.code()).status_code == 200, "the challenge was not valid")
    return "401 with each scheme"


@attack("A session's cookie in the place of the challenge", "a session without a factor becomes one with it")
def session_as_challenge(arena: Arena, here: str, other: str) -> str:
    mia, eve = arena.person(here), arena.person(here, totp=False)
    name = arena.challenged(mia, here).named_cookie("factor").partition("=")[0]
    thief = arena.client(here)
    thief.headers["cookie"] = f"{name}={eve.client.cookie('auth')}"
    refused(answer(thief, mia.code()), 403, error="challenge_invalid")
    breach(thief.who(), "a session began")
    arena.honest(mia, here)
    return "403 challenge_invalid"


@attack("The code sent along with the password, with claims of what was proven", "the challenge is skipped")
def all_in_one(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here)
    claims: dict[str, object] = {
        "amr": ["mfa"],
        "mfa": True,
        "proven": True,
        "factor": "totp",
        "fresh": True,
        "bearer": False,
    }
    for path in ("/session", "/login"):
        thief = arena.client(here)
        asked = thief.send_json(path, email=mia.email, password=PASSWORD, code=mia.code(), **claims)
        control(asked.status_code in (401, 422), asked)
        breach(thief.who(), "a session began")
    arena.honest(mia, here)
    return "the challenge stays, no session"


@attack("Every page and route with the challenge alone", "one of them answers as to a signed-in user")
def skipped(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here)
    thief = arena.challenged(mia, here)
    for path in ("/session", "/sessions", "/account", "/account/factors", "/account/keys", "/account/passkeys"):
        refused(thief.get(path), 401)
        control(mia.client.get(path).status_code == 200, path)
    refused(thief.patch_json("/registration", password=BETTER, current_password=PASSWORD), 401)
    refused(thief.request("DELETE", "/registration", json={"current_password": PASSWORD}), 401)
    refused(thief.delete("/sessions"), 401)
    refused(thief.send_json("/account/factors/totp", action="begin"), 401)
    refused(thief.send_json("/account/factors/recovery"), 401)
    refused(thief.send_json("/account/passkeys", action="options"), 401)
    refused(thief.send_json("/account/keys", name="x", scopes=[]), 401)
    control(answer(thief, mia.code()).status_code == 200, "the challenge was not valid")
    return "401 at 13 paths"


@attack("A registration with the address of a user", "the user's session, or no factor any more")
def registration(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here)
    thief = arena.client(here)
    thief.send_json("/registration", email=mia.email.upper(), password=BETTER)
    breach(thief.who(), "a session began")
    refused(thief.send_json("/session", email=mia.email, password=BETTER), 401, error="invalid_credentials")
    control("totp" in arena.factors(mia), "the factor is gone")
    arena.honest(mia, here)
    return "no session, the password and the factor stay"


@attack("A reset of the password by whoever reads the mail", "a session, or a sign-in without the factor")
def reset(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here)
    confirmed = mia.client.send_json("/confirm-email", token=arena.demo.link(mia.email, "/confirm-email"))
    control(confirmed.status_code in (200, 204), confirmed)
    thief = arena.client(here)
    control(thief.send_json("/password/forgot", email=mia.email).status_code == 202, "no reset")
    link = arena.demo.link(mia.email, "/password/reset")
    done = thief.send_json("/password/reset", token=link, password=BETTER)
    control(done.status_code == 204, done)
    breach(thief.who(), "the reset signs in")
    refused(thief.send_json("/session", email=mia.email, password=BETTER), 401, error=REQUIRED)
    breach(thief.who(), "the new password is enough")
    control(answer(thief, mia.code()).status_code == 200, "the factor is lost")
    return "no session; the factor is asked for after the new password"


@attack("A link that confirms a new address, opened by a stranger", "the stranger is signed in")
def confirmation(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here)
    new = f"new-{mia.email}"
    asked = mia.client.patch_json("/registration", email=new, current_password=PASSWORD)
    control(asked.status_code == 202, asked)
    thief = arena.client(here)
    link = arena.demo.link(new, "/confirm-email/change")
    refused(thief.send_json("/confirm-email/change", token=link), 401)
    breach(thief.who(), "the link signs in")
    done = mia.client.send_json("/confirm-email/change", token=link)
    control(done.status_code == 200 and mia.client.who() == new, done)
    mia.email = new
    fresh = arena.client(here)
    refused(fresh.send_json("/session", email=new, password=PASSWORD), 401, error=REQUIRED)
    control(answer(fresh, mia.code()).status_code == 200, "the factor is lost")
    return "401, no session; the factor is asked for at the new address"


@attack("An invitation to the address of a user, accepted by a stranger", "the user's session without the factor")
def invitation(arena: Arena, here: str, other: str) -> str:
    new = f"ivy-{arena.person(here, totp=False).email}"
    invited = arena.administrator.post(f"{here}/account/invitations", json={"email": new})
    control(invited.status_code in (201, 429), invited)
    mia = arena.person(here)
    arena.administrator.post(f"{here}/account/invitations", json={"email": mia.email})
    thief = arena.client(here)
    thief.send_json("/invitation", token="a" * 60, password=BETTER)
    breach(thief.who(), "a session began")
    refused(thief.send_json("/session", email=mia.email, password=BETTER), 401, error="invalid_credentials")
    if invited.status_code == 201:
        link = arena.demo.link(new, "/invitation")
        accepted = thief.send_json("/invitation", token=link, password=BETTER, email=mia.email)
        breach(thief.who() == mia.email, "the invitation signs in as somebody else")
        control(accepted.status_code in (201, 422), accepted)
    arena.honest(mia, here)
    return "the invitation makes its own user alone"


@attack("Sessions from before the factor was on", "an older session goes on without the factor")
def older_sessions(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here, totp=False)
    old = []
    for app in (here, other):
        thief = arena.client(app)
        done = thief.send_json("/login", email=mia.email, password=PASSWORD, remember=True)
        control(done.status_code == 200 and thief.who() == mia.email, done)
        old.append(thief)
    arena.enrol(mia)
    breach([each for each in old if each.who()], "an older session lives")
    control(mia.client.who() == mia.email, "the user's own session is gone")
    return "both ended, the user's own session stays"


@attack("A sign-in that waits while the factor is turned on", "it ends in a session without the factor")
def overtaken(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here, totp=False)
    control(
        arena.client(here).send_json("/session", email=mia.email, password=PASSWORD).status_code == 200, "no sign-in"
    )
    begun = mia.client.send_json("/account/factors/totp", action="begin").json()
    mia.secret = begun["secret"]
    thieves = [arena.client(app) for app in (here, other) for _ in range(3)]
    confirm = {"action": "confirm", "code": mia.code()}
    sign_in = {"email": mia.email, "password": PASSWORD}
    requests = [(each, "/session", sign_in) for each in thieves]
    requests.insert(3, (mia.client, "/account/factors/totp", confirm))
    done = at_once(requests, lambda each: each[0].send_json(each[1], **each[2]))
    control(done[3].status_code == 201, done[3])
    breach([each for each in thieves if each.who()], "a session without the factor lives")
    arena.honest(mia, here)
    return "none of 6 parallel sign-ins leaves a session"


@attack("A change of the password with the challenge of a sign-in", "a session that has not proven the factor")
def change_of_password(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here)
    thief = arena.challenged(mia, here)
    fields = {"action": "password", "password": BETTER, "current_password": PASSWORD}
    refused(thief.patch_json("/registration", **fields), 401)
    refused(thief.send_json("/account", **fields), 401)
    breach(thief.who(), "a session began")
    done = mia.client.patch_json("/registration", password=BETTER, current_password=PASSWORD)
    control(done.status_code == 200 and mia.client.who() == mia.email, done)
    refused(thief.send_json("/session", email=mia.email, password=BETTER), 401, error=REQUIRED)
    return "401; the owner's change keeps what her session has proven"


@attack("An API key manages factors", "a key lists, adds or removes a factor, or makes recovery codes")
def api_key(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here)
    made = mia.client.send_json("/account/keys", name="program", scopes=["profile"])
    control(made.status_code == 201, made)
    for app in (here, other):
        thief = arena.client(app)
        thief.headers["authorization"] = f"Bearer {made.json()['key']}"
        control(thief.who() == mia.email, "the key does not work")
        for path in ("/account/factors", "/account/factors/totp", "/account/factors/recovery", "/account/passkeys"):
            refused(thief.get(path), 401, 403)
        refused(thief.get("/login/factor"), 401, 403)
        refused(thief.send_json("/account/factors/totp", action="begin"), 401, 403)
        refused(thief.send_json("/account/factors/recovery"), 401, 403)
        refused(thief.send_json("/account/passkeys", action="options"), 401, 403)
        refused(thief.send_json("/account/keys", name="more", scopes=[]), 401, 403)
    control(arena.factors(mia) == ["totp"], "the factor is gone")
    return "401 or 403 at 9 paths on both servers; the key itself works"


@attack(
    "The code of a user, sent to the session of another",
    "the attacker's session becomes the user's, or gets the factor",
)
def into_another_session(arena: Arena, here: str, other: str) -> str:
    mia, eve = arena.person(here), arena.person(here, totp=False)
    refused(answer(eve.client, mia.code(), email=mia.email), 403, error="challenge_invalid")
    control(eve.client.who() == eve.email, "the session has changed")
    refused(eve.client.get("/login/factor"), 403, error="no_second_factor")
    arena.honest(mia, here)
    return "403, the session stays what it was"
