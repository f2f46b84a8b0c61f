"""Attacks that come late: in this demo a challenge and the freshness of a sign-in last for a few seconds.

An honest step that must be quick is tried again if the machine was slow.
"""

import time
from collections.abc import Callable

import httpx

from scripts.factor_attacks.arena import (
    PASSWORD,
    SHORT,
    Arena,
    Client,
    Person,
    answer,
    attack,
    breach,
    control,
    refused,
)

TRIES = 8
STALE = "fresh_sign_in_required"


def wait() -> None:
    """Let the short time pass."""
    time.sleep(SHORT + 0.5)


def step_up(person: Person) -> httpx.Response:
    """Prove the factor again."""
    control(person.client.get("/login/factor").status_code == 200, "no step-up")
    return answer(person.client, person.code())


def in_time(work: Callable[[], httpx.Response], *statuses: int) -> httpx.Response:
    """Return the first answer with one of the statuses. A machine under load may need several tries."""
    found = work()
    for _ in range(TRIES):
        if found.status_code in statuses:
            return found
        found = work()
    control(False, found)
    return found


def quick_person(arena: Arena, app: str, *, totp: bool = True) -> Person:
    """Register somebody who turns an app on, within the short time."""
    for _ in range(TRIES):
        person = arena.person(app, totp=False)
        if not totp:
            return person
        began = person.client.send_json("/account/factors/totp", action="begin")
        if began.status_code != 200:
            continue
        person.secret = began.json()["secret"]
        if person.client.send_json("/account/factors/totp", action="confirm", code=person.code()).status_code == 201:
            return person
    control(False, "the machine is too slow to turn a factor on")
    raise AssertionError


@attack("A challenge after its time", "the password was typed long ago, and the code still signs in", late=True)
def late_answer(arena: Arena, here: str, other: str) -> str:
    mia = quick_person(arena, here)
    begun = arena.challenged(mia, here)
    wait()
    code = mia.code()
    refused(answer(begun, code), 403, error="challenge_invalid")
    breach(begun.who(), "a session began")
    done = in_time(lambda: answer(arena.challenged(mia, here), code), 200, 401)
    control(done.status_code == 200, done)
    return "403; the code works in a new challenge"


@attack("An app is set up in a session that is not fresh", "whoever finds an open browser turns a factor on", late=True)
def late_enrolment(arena: Arena, here: str, other: str) -> str:
    mia = quick_person(arena, here, totp=False)
    control(mia.client.who() == mia.email, "no session")
    wait()
    for fields in ({"action": "begin"}, {"action": "confirm", "code": "123456"}):
        refused(mia.client.send_json("/account/factors/totp", **fields), 403, error=STALE)
    refused(mia.client.get("/account/factors/totp"), 403, error=STALE)
    refused(mia.client.send_json("/account/passkeys", action="options"), 403, error=STALE)
    refused(mia.client.send_json("/account/passkeys", action="add", credential={}), 403, error=STALE)
    control(mia.client.get("/account/factors").json()["factors"] == [], "a factor is on")

    def again() -> httpx.Response:
        control(mia.client.send_json("/session", email=mia.email, password=PASSWORD).status_code == 200, "no sign-in")
        return mia.client.send_json("/account/factors/totp", action="begin")

    in_time(again, 200)
    return "403 fresh_sign_in_required; after the password it works"


@attack(
    "The last factor is removed, and codes are made, in a session that is not fresh",
    "a stolen session gets rid of the factor",
    late=True,
)
def late_removal(arena: Arena, here: str, other: str) -> str:
    mia = quick_person(arena, here)
    name = mia.client.get("/account/factors").json()["factors"][0]["id"]
    remove = {"action": "remove", "factor": "totp", "id": name}
    wait()
    found = mia.client.send_json("/account/factors", **remove)
    refused(found, 403, error=STALE)
    control(found.json().get("methods") == ["mfa"], found)
    for path in ("/account/factors/recovery", "/account/factors/totp"):
        refused(mia.client.send_json(path, **({"action": "begin"} if path.endswith("totp") else {})), 403, error=STALE)
        refused(mia.client.get(path), 403, error=STALE)
    control(arena.factors(mia) == ["totp"], "the factor is gone")

    def again() -> httpx.Response:
        done = step_up(mia)
        control(done.status_code in (200, 403), done)
        return mia.client.send_json("/account/factors", **remove)

    in_time(again, 204)
    return "403 with methods mfa; after the factor it works"


@attack(
    "The password is typed again in a stale session, without the factor",
    "the password alone makes the session fresh",
    late=True,
)
def password_refreshes(arena: Arena, here: str, other: str) -> str:
    mia = quick_person(arena, here)
    name = mia.client.get("/account/factors").json()["factors"][0]["id"]
    wait()
    for path in ("/session", "/login"):
        asked = mia.client.send_json(path, email=mia.email, password=PASSWORD)
        refused(asked, 401, error="second_factor_required")
        refused(mia.client.send_json("/account/factors", action="remove", factor="totp", id=name), 401, 403)
    control(arena.factors(mia) == ["totp"], "the factor is gone")
    control(answer(mia.client, mia.code()).status_code in (200, 403), "the answer fails")
    return "the session stays stale until the factor is proven"


@attack("A pending app is confirmed when the session is no longer fresh", "an enrolment goes on by itself", late=True)
def late_confirmation(arena: Arena, here: str, other: str) -> str:
    mia = quick_person(arena, here, totp=False)

    def begin(client: Client) -> httpx.Response:
        control(client.send_json("/session", email=mia.email, password=PASSWORD).status_code == 200, "no sign-in")
        return client.send_json("/account/factors/totp", action="begin")

    mia.secret = in_time(lambda: begin(mia.client), 200).json()["secret"]
    wait()
    refused(mia.client.send_json("/account/factors/totp", action="confirm", code=mia.code()), 403, error=STALE)
    control(mia.client.get("/account/factors").json()["factors"] == [], "a factor is on")
    return "403 fresh_sign_in_required"


@attack(
    "A factor is asked for again by the API key of a stale session's user", "a key makes something fresh", late=True
)
def key_is_never_fresh(arena: Arena, here: str, other: str) -> str:
    mia = quick_person(arena, here, totp=False)
    made = mia.client.send_json("/account/keys", name="program", scopes=["profile"])
    control(made.status_code in (201, 403), made)
    if made.status_code == 403:
        control(mia.client.send_json("/session", email=mia.email, password=PASSWORD).status_code == 200, "no sign-in")
        made = mia.client.send_json("/account/keys", name="program", scopes=["profile"])
    wait()
    thief = arena.client(here)
    thief.headers["authorization"] = f"Bearer {made.json()['key']}"
    control(thief.who() == mia.email, "the key does not work")
    thief.send_json("/session", email=mia.email, password="a wrong pass phrase")
    refused(thief.send_json("/account/factors/totp", action="begin"), 401, 403)
    refused(thief.get("/login/factor"), 401, 403)
    return "401 or 403"
