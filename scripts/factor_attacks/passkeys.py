"""Attacks on passkeys apart from the ceremonies: their owner, their purpose, and the information that they reveal."""

import time

from harness.authenticator import Authenticator, b64
from scripts.factor_attacks.arena import (
    PASSWORD,
    Arena,
    Person,
    at_once,
    attack,
    breach,
    control,
    creation_options,
    one_winner,
    refused,
    request_options,
    use,
)
from scripts.factor_attacks.enrolment import FOREIGN

INVALID = "invalid_passkey"
SAMPLES = 8
ROUNDS = 5
NOTICEABLE = 1.5
"""A difference in time counts if it is the same in all rounds. A machine under load makes some in single rounds."""


@attack(
    "Somebody at the user's open browser confirms with a passkey of their own",
    "the user's session is fresh by another user's passkey",
)
def step_up_by_another(arena: Arena, here: str, other: str) -> str:
    mia, eve = (arena.person(here, totp=False, passkey=True) for _ in range(2))
    before = mia.client.cookie("auth")
    refused(
        use(mia.client, eve.passkey.get({**request_options(mia.client), "allowCredentials": _all(eve)})),
        401,
        error=INVALID,
    )
    stranger = arena.client(here)
    signed = eve.passkey.get(request_options(stranger))
    refused(use(mia.client, signed), 401, error=INVALID)
    control(mia.client.who() == mia.email and mia.client.cookie("auth") == before, "the session has changed")
    own = use(mia.client, mia.passkey.get(request_options(mia.client)))
    control(own.status_code == 200 and mia.client.cookie("auth") != before, own)
    return "401; the own passkey gives the session a new id"


def _all(person: Person) -> list[dict[str, str]]:
    return [{"type": "public-key", "id": b64(each.credential_id)} for each in person.passkey.passkeys]


@attack("A passkey of another user, as the second factor", "the attacker's passkey answers the user's challenge")
def factor_of_another(arena: Arena, here: str, other: str) -> str:
    mia, eve = (arena.person(here, totp=False, passkey=True) for _ in range(2))
    thief = arena.challenged(mia, here)
    options = thief.get("/login/factor").json()["options"]["passkey"]
    forged = eve.passkey.get({**options, "allowCredentials": _all(eve)})
    refused(thief.send_json("/login/factor", factor="passkey", credential=forged), 401, error="second_factor_refused")
    lying = eve.passkey.get({**options, "allowCredentials": _all(eve)}, user_handle=mia.passkey.passkeys[0].user_handle)
    refused(thief.send_json("/login/factor", factor="passkey", credential=lying), 401, error="second_factor_refused")
    unverified = mia.passkey.get(options, flags=1)
    refused(thief.send_json("/login/factor", factor="passkey", credential=unverified), 401)
    breach(thief.who(), "a session began")
    own = thief.send_json("/login/factor", factor="passkey", credential=mia.passkey.get(options))
    control(own.status_code == 200 and thief.who() == mia.email, own)
    return "401; the user's own passkey is taken"


@attack(
    "Challenges of registering, signing in, confirming and of a second factor, each used as another",
    "one kind of challenge is good for another",
)
def crossed_challenges(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here, totp=False, passkey=True)
    registering = creation_options(mia.client)["challenge"]
    factor = arena.challenged(mia, here)
    asked = factor.get("/login/factor").json()["options"]["passkey"]["challenge"]
    stranger = arena.client(here)
    signing_in = request_options(stranger)
    mixed = mia.client, factor, stranger
    for client in mixed:
        for challenge in (registering, asked):
            refused(use(client, mia.passkey.get(signing_in, challenge=challenge)), 401, error=INVALID)
    wrong = mia.passkey.get(signing_in)
    refused(factor.send_json("/login/factor", factor="passkey", credential=wrong), 401)
    device = Authenticator(here)
    for challenge in (signing_in["challenge"], asked, request_options(mia.client)["challenge"]):
        forged = device.create(creation_options(mia.client), challenge=challenge)
        refused(mia.client.send_json("/account/passkeys", action="add", credential=forged), 422)
    breach(stranger.who() or factor.who(), "a session began")
    control(use(stranger, wrong).status_code == 200, "the honest use fails")
    return "401 or 422 for 10 pairs; the honest use works"


@attack(
    "A registration that the attacker has begun, finished in the user's session",
    "the attacker's passkey opens the user's account",
)
def planted_passkey(arena: Arena, here: str, other: str) -> str:
    mia, eve = arena.person(here, totp=False), arena.person(here, totp=False)
    device = Authenticator(here)
    credential = device.create(creation_options(eve.client))
    creation_options(mia.client)
    refused(mia.client.send_json("/account/passkeys", action="add", credential=credential), 422)
    breach(mia.client.get("/account/passkeys").json()["passkeys"], "it was stored")
    control(
        eve.client.send_json("/account/passkeys", action="add", credential=credential).status_code == 201, "not stored"
    )
    return "422; it goes to the one who began it"


@attack("One assertion in 20 parallel requests, on both servers", "two sessions", once=True)
def parallel_use(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here, totp=False, passkey=True)
    client = arena.client(here)
    credential = mia.passkey.get(request_options(client))
    cookie = client.named_cookie("passkeys")
    thieves = [arena.client(app) for app in (here, other) * 10]

    fields = {"credential": credential}
    done = at_once(thieves, lambda each: each.post("/login/passkey", json=fields, headers={"cookie": cookie}))
    one_winner(thieves, done)
    return "one session"


@attack("Options for a known and an unknown address", "their form or their time tells who has an account")
def enumeration(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here, totp=False, passkey=True)
    emails = (mia.email, "nobody@example.org")
    shapes: set[str] = set()
    slower: list[bool] = []
    known = unknown = 0.0
    client = arena.client(here)
    for _ in range(ROUNDS):
        times: dict[str, list[float]] = {email: [] for email in emails}
        for number in range(SAMPLES):
            for email in emails if number % 2 else reversed(emails):
                began = time.perf_counter()
                found = client.send_json("/login/passkey", action="options", email=email, username=email)
                times[email].append(time.perf_counter() - began)
                control(found.status_code == 200, found)
                options = found.json()["publicKey"]
                breach(options.get("allowCredentials"), "the options name passkeys")
                shapes.add(str(sorted((name, len(str(value))) for name, value in options.items())))
        known, unknown = (min(each) for each in times.values())
        if max(known, unknown) < NOTICEABLE * min(known, unknown):
            break
        slower.append(known > unknown)
    breach(len(shapes) != 1, "the options have two forms")
    breach(len(slower) == ROUNDS and len(set(slower)) == 1, f"{known * 1000:.1f} and {unknown * 1000:.1f} ms")
    return "one form, and no difference in time"


@attack(
    "A factor for an unknown user, with a wrong password, and for a user without one",
    "the answer tells who has a factor, before the password is right",
)
def factor_enumeration(arena: Arena, here: str, other: str) -> str:
    mia, eve = arena.person(here), arena.person(here, totp=False)
    answers = set()
    for email in (mia.email, eve.email, "nobody@example.org"):
        client = arena.client(here)
        found = client.send_json("/session", email=email, password="a wrong pass phrase")
        answers.add((found.status_code, found.text, tuple(sorted(each.name for each in client.cookies.jar))))
        page = client.send_json("/login/factor", factor="totp", code="123456")
        answers.add((page.status_code, page.text.replace(email, ""), ()))
    breach(len(answers) != 2, f"there are {len(answers)} answers")
    arena.challenged(mia, here)
    control(
        arena.client(here).send_json("/session", email=eve.email, password=PASSWORD).status_code == 200, "no sign-in"
    )
    return "the same 401 for all, and the same 403 without a challenge"


@attack("The passkey of a user who is locked, or was deleted", "a session of a locked user")
def locked(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here, totp=False, passkey=True)
    control(arena.administer(here, action="lock", email=mia.email).status_code == 204, "no lock")
    thief = arena.client(here)
    refused(use(thief, mia.passkey.get(request_options(thief))), 401, error=INVALID)
    breach(thief.who(), "a session began")
    control(arena.administer(here, action="unlock", email=mia.email).status_code == 204, "no unlock")
    owner = arena.client(here)
    control(use(owner, mia.passkey.get(request_options(owner))).status_code == 200, "no sign-in")
    control(
        owner.request("DELETE", "/registration", json={"current_password": PASSWORD}).status_code == 204, "no deletion"
    )
    again = arena.client(here)
    control(again.send_json("/registration", email=mia.email, password=PASSWORD).status_code == 201, "no registration")
    refused(use(thief, mia.passkey.get(request_options(thief))), 401, error=INVALID)
    breach(thief.who(), "a session began")
    return "401; it works again after the lock, and never after the deletion"


@attack("A passkey that was removed, also with an answer that was signed before", "a lost device still signs in")
def removed(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here, totp=False, passkey=True)
    thief = arena.client(other)
    signed = mia.passkey.get(request_options(thief), origin=other)
    elsewhere = arena.client(other)
    control(use(elsewhere, mia.passkey.get(request_options(elsewhere), origin=other)).status_code == 200, "no sign-in")
    name = mia.client.get("/account/passkeys").json()["passkeys"][0]["id"]
    gone = mia.client.send_json("/account/passkeys", action="remove", id=name)
    control(gone.status_code == 204, gone)
    refused(use(thief, signed), 401, error=INVALID)
    breach(thief.who() or elsewhere.who(), "a session lives")
    return "401, and the sessions elsewhere have ended"


@attack("Another site makes the browser add or use a passkey", "the attacker's passkey in the user's account")
def cross_site_passkey(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here, totp=False, passkey=True)
    for headers in FOREIGN:
        for fields in ({"action": "options"}, {"action": "add", "credential": "{}"}, {"action": "remove", "id": "x"}):
            refused(mia.client.form("/account/passkeys", fields, **headers), 403)
        refused(arena.client(here).form("/login/passkey", {"credential": "{}"}, **headers), 403)
    own = mia.client.form("/account/passkeys", {"action": "options"})
    control(own.status_code == 303, own)
    return "403 for 8 kinds of foreign requests"


@attack(
    "A registration on the answer of another server's origin, with its challenge and cookie",
    "the origins are not told apart from strangers",
)
def other_origin(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here, totp=False)
    device = Authenticator("http://localhost:1")
    refused(
        mia.client.send_json("/account/passkeys", action="add", credential=device.create(creation_options(mia.client))),
        422,
    )
    good = Authenticator(other)
    done = mia.client.send_json("/account/passkeys", action="add", credential=good.create(creation_options(mia.client)))
    control(done.status_code == 201, done)
    return "422 for a foreign port; the site's other server is taken"
