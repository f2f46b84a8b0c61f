"""Attacks on codes of apps and on recovery codes: replay, guesses, and other forms of a code."""

import base64
import hashlib
import hmac
import time

from scripts.factor_attacks.arena import (
    MARGIN,
    STEP,
    Arena,
    Person,
    answer,
    at_once,
    attack,
    breach,
    control,
    one_winner,
    refused,
)

REFUSED = "second_factor_refused"
ALLOWED = 10
"""The wrong answers of a user that are allowed in a quarter of an hour."""


def spend(arena: Arena, mia: Person, apps: tuple[str, ...], number: int, factor: str = "totp") -> None:
    """Give wrong answers, each to a challenge of its own, from another address."""
    for each in range(number):
        thief = arena.challenged(mia, apps[each % len(apps)])
        wrong = mia.wrong_code() if factor == "totp" else "aaaa-bbbb-cccc-dddd"
        refused(answer(thief, wrong, factor), 401, error=REFUSED)


@attack("A code once more, in a new sign-in on either server", "a thief who saw the code gets a session")
def replay(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here)
    code = mia.code()
    control(answer(arena.challenged(mia, here), code).status_code == 200, "the code was wrong")
    for app in (here, other):
        thief = arena.challenged(mia, app)
        refused(answer(thief, code), 401, error=REFUSED)
        breach(thief.who(), "a session began")
    return "401 on both servers"


@attack("The code with which the app was set up", "the code of the enrolment signs in")
def enrolment_code(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here)
    thief = arena.challenged(mia, here)
    refused(answer(thief, mia.code_of(mia.used)), 401, error=REFUSED)
    breach(thief.who(), "a session began")
    control(answer(thief, mia.code()).status_code == 200, "the next code was wrong")
    return "401; the next code works"


@attack("20 sign-ins in parallel with one code, on both servers", "two sessions of one code", once=True)
def parallel_codes(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here)
    thieves = [arena.challenged(mia, app) for app in (here, other) * 10]
    code = mia.code()
    one_winner(thieves, at_once(thieves, lambda each: answer(each, code)))
    return "one session"


@attack("Codes of the steps before the last one and after the next one", "an old code works, or a future one")
def far_steps(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here)
    thief = arena.challenged(mia, here)
    now, early = int(time.time()) // STEP, time.time() % STEP < STEP - MARGIN
    steps = [-2, -3, -20, 3, 4, 20, 2880, *([2] if early else [])]  # in a moment, the second one may be the next
    for ahead in steps:
        refused(answer(thief, mia.code_of(now + ahead)), 401, error=REFUSED)
    breach(thief.who(), "a session began")
    control(answer(thief, mia.code()).status_code == 200, "the present code was wrong")
    return "401 for all of them; the present one works"


@attack(
    "The right code in other digits, cut, as a number, in a list", "a form of the code gets around the check of its use"
)
def other_forms(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here)
    thief, code = arena.challenged(mia, here), mia.code()
    arabic = "".join(chr(0x660 + int(each)) for each in code)
    wide = "".join(chr(0xFF10 + int(each)) for each in code)
    forms: list[object] = [arabic, wide, code[:5], code[1:], f"0{code}", f"{code}0", int(code), float(code), [code]]
    forms += [
        {"code": code},
        True,
        None,
        "",
        " ",
        f"{code}\0",
        f"+{code}",
        f"{code}.0",
        f"0x{int(code):x}",
        "1e5",
        "9" * 5000,
    ]
    forms += [f"{code[:3]}\u200b{code[3:]}", f"{code[:3]}\u2013{code[3:]}", f"{code}\u0301", "-" * 15 + code]
    for form in forms:
        refused(answer(thief, form), 422)
    breach(thief.who(), "a session began")
    control(answer(thief, f"{code[:3]} {code[3:]}").status_code == 200, "the code with a blank was refused")
    refused(answer(arena.challenged(mia, here), f"{code[:3]}-{code[3:]}"), 401, error=REFUSED)
    return "422 for 24 forms, none is counted; one with a blank works, once"


@attack("Codes of the same seed by other parameters", "SHA-256, 60 seconds or a counter is accepted")
def other_parameters(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here)
    thief, step = arena.challenged(mia, here), mia.step()
    mia.used = step - 1
    plain = mia.secret.replace(" ", "")
    seed = base64.b32decode(plain + "=" * (-len(plain) % 8))
    right = {mia.code_of(step + ahead) for ahead in range(-2, 4)}
    for algorithm, moving in (
        (hashlib.sha256, step),
        (hashlib.sha512, step),
        (hashlib.sha1, step // 2),
        (hashlib.sha1, 0),
    ):
        digest = hmac.new(seed, moving.to_bytes(8), algorithm).digest()
        at = digest[-1] & 15
        code = f"{(int.from_bytes(digest[at : at + 4]) & 0x7FFFFFFF) % 1_000_000:06d}"
        if code not in right:
            refused(answer(thief, code), 401, error=REFUSED)
    breach(thief.who(), "a session began")
    control(answer(thief, mia.code()).status_code == 200, "the present code was wrong")
    return "401"


@attack(
    "Guesses spread over challenges, addresses and both servers",
    "more than 10 guesses in a quarter of an hour",
    once=True,
)
def spread_guesses(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here)
    spend(arena, mia, (here, other), ALLOWED)
    for app in (here, other):
        thief = arena.challenged(mia, app)
        late = answer(thief, mia.code())
        refused(late, 429)
        control(int(late.headers["retry-after"]) > 60, late.headers)
        breach(thief.who(), "a session began")
    control(mia.client.who() == mia.email, "the owner's session is gone")
    arena.honest(arena.person(here), here)
    return "429 with Retry-After after 10, also for the right code; other users sign in"


@attack("Guesses spread over two kinds of factors", "10 guesses for each kind", once=True)
def two_kinds(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here, codes=True)
    spend(arena, mia, (here, other), ALLOWED // 2)
    control(answer(arena.challenged(mia, here), mia.codes[0], "recovery_code").status_code == 200, "no sign-in")
    spend(arena, mia, (other, here), ALLOWED // 2, "recovery_code")
    refused(answer(arena.challenged(mia, here), mia.code()), 429)
    refused(answer(arena.challenged(mia, other), mia.codes[1], "recovery_code"), 429)
    return "429 after 10 together"


@attack(
    "An honest sign-in between the guesses, and the right password again and again",
    "the count of the guesses begins anew",
    once=True,
)
def reset_of_count(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here)
    spend(arena, mia, (here, other), ALLOWED - 1)
    arena.honest(mia, here)
    for app in (here, other):
        arena.challenged(mia, app)
    spend(arena, mia, (other,), 1)
    refused(answer(arena.challenged(mia, here), mia.wrong_code()), 429)
    return "the owner signs in after 9; the 11th guess is 429"


@attack("30 guesses in parallel, on both servers", "more than 10 of them are checked", once=True)
def parallel_guesses(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here)
    thieves = [arena.challenged(mia, app) for app in (here, other)]
    cookies = [thief.named_cookie("factor") for thief in thieves]
    wrong = mia.wrong_code()
    clients = [(arena.client(app), cookies[number % 2]) for number, app in enumerate((here, other) * 15)]
    fields = {"factor": "totp", "code": wrong}
    sent = at_once(clients, lambda each: each[0].post("/login/factor", json=fields, headers={"cookie": each[1]}))
    found = [each.status_code for each in sent]
    control(set(found) <= {401, 429, 503} and 401 in found, set(found))
    breach(found.count(401) > ALLOWED, f"{found.count(401)} were checked")
    refused(answer(thieves[0], mia.code()), 429)
    return "at most 10 are checked, the others get 429"


@attack("Guesses by the step-up of a stolen session", "a counter of its own for each session")
def step_up_guesses(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here)
    spend(arena, mia, (here, other), ALLOWED // 2)
    control(mia.client.get("/login/factor").status_code == 200, "no step-up")
    for _ in range(ALLOWED // 2):
        refused(answer(mia.client, mia.wrong_code()), 401, error=REFUSED)
    refused(answer(mia.client, mia.code()), 429)
    refused(answer(arena.challenged(mia, other), mia.code_of(mia.used)), 429)
    return "they count together with those of sign-ins: 429"


@attack("A recovery code twice", "a code on paper works again")
def recovery_twice(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here, codes=True)
    code = mia.codes[3]
    control(answer(arena.challenged(mia, here), code, "recovery_code").status_code == 200, "the code was wrong")
    for app, form in ((here, code), (other, code.upper().replace("-", "")), (other, code.replace("-", " "))):
        thief = arena.challenged(mia, app)
        refused(answer(thief, form, "recovery_code"), 401, error=REFUSED)
        breach(thief.who(), "a session began")
    return "401 in each form on both servers"


@attack("A recovery code in 20 challenges in parallel, on both servers", "two sessions of one code", once=True)
def recovery_parallel(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here, codes=True)
    thieves = [arena.challenged(mia, app) for app in (here, other) * 10]
    code = mia.codes[0]
    one_winner(thieves, at_once(thieves, lambda each: answer(each, code, "recovery_code")))
    return "one session"


@attack("A recovery code of another user", "one user's paper opens another account")
def recovery_of_another(arena: Arena, here: str, other: str) -> str:
    mia, eve = arena.person(here, codes=True), arena.person(here, codes=True)
    thief = arena.challenged(mia, here)
    refused(answer(thief, eve.codes[0], "recovery_code"), 401, error=REFUSED)
    breach(thief.who(), "a session began")
    own = answer(arena.challenged(eve, here), eve.codes[0], "recovery_code")
    control(own.status_code == 200, own)
    return "401, and the code is not used up for its owner"


@attack(
    "A recovery code with letters of other scripts, cut, or twice in one",
    "a confusable code is accepted, or an error of the server",
)
def recovery_confusable(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here, codes=True)
    thief, code = arena.challenged(mia, here), mia.codes[0]
    wide = "".join(chr(ord(each) + 0xFEE0) if each != "-" else each for each in code)
    cyrillic = code.translate(str.maketrans("aceopxy", "\u0430\u0441\u0435\u043e\u0440\u0445\u0443"))
    forms: list[object] = [
        wide,
        cyrillic if cyrillic != code else "\u0430" * 16,
        code[:-1],
        f"{code}a",
        f"{code}{code}",
    ]
    forms += [
        f"{code}\0",
        code.replace("-", "\u2010"),
        code.replace("-", "="),
        [code],
        5,
        "=" * 16,
        "%" * 16,
        "a" * 5000,
    ]
    for form in forms:
        refused(answer(thief, form, "recovery_code"), 422)
    breach(thief.who(), "a session began")
    control(answer(thief, code.upper(), "recovery_code").status_code == 200, "the honest code was refused")
    return "422 for 13 forms, none is counted; upper case works"


@attack("Recovery codes of an older set, and after all factors were removed", "codes of an old print still work")
def recovery_old_set(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here, codes=True)
    old = mia.codes
    mia.codes = arena.make_codes(mia)
    refused(answer(arena.challenged(mia, here), old[0], "recovery_code"), 401, error=REFUSED)
    found = [each for each in mia.client.get("/account/factors").json()["factors"] if each["factor"] == "totp"]
    gone = mia.client.send_json("/account/factors", action="remove", factor="totp", id=found[0]["id"])
    control(gone.status_code == 204 and arena.factors(mia) == [], gone)
    arena.enrol(mia)
    thief = arena.challenged(mia, other)
    refused(answer(thief, mia.codes[0], "recovery_code"), 401, 422)
    breach(thief.who(), "a session began")
    control(answer(thief, mia.code()).status_code == 200, "no sign-in")
    return "401; with the last factor they went, too"


@attack("A code of a factor sent as that of another kind", "one field of the form reaches two checks")
def crossed_kinds(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here, codes=True)
    thief = arena.challenged(mia, here)
    refused(answer(thief, mia.codes[0], "totp"), 422)
    refused(answer(thief, mia.code(), "recovery_code"), 422)
    refused(thief.send_json("/login/factor", code=mia.codes[0]), 422)
    breach(thief.who(), "a session began")
    control(answer(thief, mia.codes[0], "recovery_code").status_code == 200, "no sign-in")
    return "422"
