"""Attacks on the management of factors: by another site, by another session, and by fields that are not offered."""

from scripts.factor_attacks.arena import PASSWORD, Arena, Person, answer, attack, breach, control, refused

FOREIGN: tuple[dict[str, str], ...] = (
    {"origin": "https://evil.example"},
    {"origin": "null"},
    {"origin": "http://localhost:1"},
    {"origin": "https://evil.example", "sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "cross-site"},
    {"origin": "http://localhost:1", "sec-fetch-site": "same-site"},
    {"origin": "", "referer": "https://evil.example/x"},
    {"origin": ""},
)
"""The headers of requests that pages of other sites make."""


def entry(person: Person, factor: str = "totp") -> str:
    """Return the id of a person's factor."""
    found = person.client.get("/account/factors").json()["factors"]
    return next(str(each["id"]) for each in found if each["factor"] == factor)


@attack("Another site makes the browser set up an app", "the attacker's seed becomes the user's factor")
def cross_site_enrolment(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here, totp=False)
    for headers in FOREIGN:
        refused(mia.client.form("/account/factors/totp", {"action": "begin"}, **headers), 403)
        refused(mia.client.form("/account/factors/totp", {"action": "confirm", "code": "123456"}, **headers), 403)
    page = mia.client.form("/account/factors/totp", {"action": "begin"})
    control(page.status_code == 200 and "<svg" in page.text, page.status_code)
    return "403 for 8 kinds of foreign requests; the own page's form works"


@attack(
    "Another site makes the browser remove a factor, or make new recovery codes",
    "the factor is gone, or the codes on paper are",
)
def cross_site_removal(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here, codes=True)
    fields = {"action": "remove", "factor": "totp", "id": entry(mia)}
    for headers in FOREIGN:
        refused(mia.client.form("/account/factors", fields, **headers), 403)
        refused(mia.client.form("/account/factors/recovery", {"action": "make"}, **headers), 403)
        refused(mia.client.form("/account/passkeys", {"action": "options"}, **headers), 403)
    own = answer(arena.challenged(mia, here), mia.codes[0], "recovery_code")
    control(own.status_code == 200, own)
    gone = mia.client.form("/account/factors", fields)
    control(gone.status_code == 303 and arena.factors(mia) == [], gone)
    return "403 for 8 kinds of foreign requests; the own page's form works"


@attack(
    "Another site answers the challenge in the user's browser", "the user is signed in as the attacker (login CSRF)"
)
def cross_site_answer(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here)
    begun, code = arena.challenged(mia, here), mia.code()
    for headers in FOREIGN:
        refused(begun.form("/login/factor", {"factor": "totp", "code": code}, **headers), 403)
    breach(begun.who(), "a session began")
    control(begun.form("/login/factor", {"factor": "totp", "code": code}).status_code == 303, "the own form fails")
    return "403 for 8 kinds of foreign requests"


@attack("Links that change something: GET with the fields in the query", "an image on another site changes factors")
def by_link(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here, codes=True)
    mia.client.get("/account/factors", params={"action": "remove", "factor": "totp", "id": entry(mia)})
    mia.client.get("/account/factors/recovery", params={"action": "make"})
    shown = mia.client.get("/account/factors/totp", params={"action": "begin"})
    breach("secret" in shown.text, "a link shows a seed")
    control(set(arena.factors(mia)) == {"totp", "recovery_code"}, "a factor is gone")
    thief = arena.challenged(mia, here)
    thief.get("/login/factor", params={"factor": "totp", "code": mia.code_of(mia.used + 1)})
    breach(thief.who(), "a session began")
    control(answer(thief, mia.codes[0], "recovery_code").status_code == 200, "the old codes are gone")
    return "nothing changes"


@attack(
    "The pending seed of another user, or of another session of the user",
    "the attacker's app is turned on for the user",
)
def pending_of_another(arena: Arena, here: str, other: str) -> str:
    mia, eve = arena.person(here, totp=False), arena.person(here, totp=False)
    begun = eve.client.send_json("/account/factors/totp", action="begin")
    control(begun.status_code == 200, begun)
    eve.secret = begun.json()["secret"]
    own = mia.client.send_json("/account/factors/totp", action="begin")
    mia.secret = own.json()["secret"]
    more = {"secret": eve.secret, "seed": eve.secret, "uri": begun.json()["uri"], "email": mia.email}
    refused(mia.client.send_json("/account/factors/totp", action="confirm", code=eve.code(), **more), 422)
    second = arena.client(other)
    control(second.send_json("/session", email=mia.email, password=PASSWORD).status_code == 200, "no second session")
    refused(second.send_json("/account/factors/totp", action="confirm", code=mia.code()), 422)
    breach(arena.factors(mia), "a factor is on")
    mia.used -= 1
    done = mia.client.send_json("/account/factors/totp", action="confirm", code=mia.code())
    control(done.status_code == 201, done)
    return "422 for both; the session that began it turns it on"


@attack(
    "A pending seed after a change of the password, or a second beginning",
    "an app that a thief has begun is turned on later",
)
def stale_pending(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here, totp=False)
    mia.secret = mia.client.send_json("/account/factors/totp", action="begin").json()["secret"]
    later = mia.client.send_json("/account/factors/totp", action="begin").json()["secret"]
    refused(mia.client.send_json("/account/factors/totp", action="confirm", code=mia.code()), 422)
    done = mia.client.patch_json("/registration", password=f"{PASSWORD}!", current_password=PASSWORD)
    control(done.status_code == 200, done)
    mia.secret, mia.used = later, -1
    refused(mia.client.send_json("/account/factors/totp", action="confirm", code=mia.code()), 422)
    breach(arena.factors(mia), "a factor is on")
    arena.enrol(mia)
    return "422; beginning again works"


@attack("Another user's factor, by its id", "the attacker removes the user's factor")
def removal_of_another(arena: Arena, here: str, other: str) -> str:
    mia, eve = arena.person(here, passkey=True), arena.person(here, passkey=True)
    passkey = mia.client.get("/account/passkeys").json()["passkeys"][0]["id"]
    for factor, name in (
        ("totp", entry(mia)),
        ("passkey", passkey),
        ("totp", "x"),
        ("sms", entry(eve)),
        ("totp", passkey),
    ):
        refused(eve.client.send_json("/account/factors", action="remove", factor=factor, id=name), 404)
    for odd in (None, 1, [entry(eve)], {"id": entry(eve)}, "\0", "x" * 5000):
        refused(eve.client.send_json("/account/factors", action="remove", factor="totp", id=odd), 404)
    for action in ("remove", "rename"):
        refused(eve.client.send_json("/account/passkeys", action=action, id=passkey, label="mine"), 404)
    control(sorted(arena.factors(mia)) == ["passkey", "totp"] == sorted(arena.factors(eve)), "a factor is gone")
    gone = eve.client.send_json("/account/factors", action="remove", factor="totp", id=entry(eve))
    control(gone.status_code == 204, gone)
    return "404 for 13 tries; the own one is removed"


@attack(
    "Columns of factors and of what was proven, as fields of forms",
    "a field turns a factor on or off, or makes an administrator",
)
def mass_assignment(arena: Arena, here: str, other: str) -> str:
    evil: dict[str, object] = {
        "administrator": True,
        "amr": ["mfa"],
        "mfa": True,
        "totp": "JBSWY3DPEHPK3PXP",
        "seed": "JBSWY3DPEHPK3PXP",
        "step": 0,
        "user_key": "x",
        "user_handle": "x",
        "recovery_codes": ["aaaa-bbbb-cccc-dddd"],
        "email_confirmed_at": "2030-01-01T00:00:00Z",
        "locked_at": None,
        "authenticated_at": "2999-01-01T00:00:00Z",
    }
    eve = arena.client(here)
    email = f"evil-{arena.person(here, totp=False).email}"
    control(
        eve.send_json("/registration", email=email, password=PASSWORD, **evil).status_code == 201, "no registration"
    )
    breach(eve.get("/administration").status_code != 403, "the user is an administrator")
    breach(eve.get("/account/factors").json()["factors"], "a factor is on")
    mia = arena.person(here)
    changed = mia.client.patch_json("/registration", password=f"{PASSWORD}!", current_password=PASSWORD, **evil)
    control(changed.status_code == 200 and arena.factors(mia) == ["totp"], changed)
    breach(mia.client.get("/administration").status_code != 403, "the user is an administrator")
    thief = arena.client(here)
    refused(thief.send_json("/login", email=mia.email, password=f"{PASSWORD}!", **evil), 401)
    breach(thief.who(), "a session began")
    control(answer(thief, mia.code(), **evil).status_code == 200, "no sign-in")
    return "the fields are ignored"


@attack("The administrator's actions without being administrator", "a user locks another one, or reads the log")
def not_administrator(arena: Arena, here: str, other: str) -> str:
    mia, eve = arena.person(here), arena.person(here)
    refused(eve.client.get("/administration"), 403)
    for action in ("lock", "unlock", "reset_factors"):
        refused(eve.client.send_json("/administration", action=action, email=mia.email, administrator=True), 403)
        refused(arena.client(here).send_json("/administration", action=action, email=mia.email), 401)
    control(mia.client.who() == mia.email and arena.factors(mia) == ["totp"], "something has changed")
    control(arena.administrator.get(f"{here}/administration").status_code == 200, "the administrator is refused")
    return "403 for users, 401 for strangers"


@attack(
    "The administrator resets the factors of a user: what is left",
    "an old session, challenge, code or passkey still works",
)
def after_reset(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here, passkey=True, codes=True)
    begun = arena.challenged(mia, other)
    done = arena.administer(here, action="reset_factors", email=mia.email)
    control(done.status_code == 204, done)
    breach(mia.client.who(), "the old session lives")
    refused(answer(begun, mia.codes[0], "recovery_code"), 403, error="challenge_invalid")
    thief = arena.client(here)
    options = thief.send_json("/login/passkey", action="options").json()["publicKey"]
    refused(thief.send_json("/login/passkey", credential=mia.passkey.get(options)), 401)
    own = arena.client(here)
    control(own.send_json("/session", email=mia.email, password=PASSWORD).status_code == 200, "no sign-in")
    control(own.get("/account/factors").json()["factors"] == [], "a factor is left")
    return "all are refused; the password signs in, without a factor"


@attack("A label with markup", "a script runs on the page of the factors")
def markup(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here, totp=False)
    label = '"><script>alert(1)</script>'
    mia.secret = mia.client.send_json("/account/factors/totp", action="begin").json()["secret"]
    done = mia.client.send_json("/account/factors/totp", action="confirm", code=mia.code(), label=label)
    control(done.status_code == 201, done)
    for path in ("/account/factors", "/account/factors/totp", "/account/passkeys", "/account"):
        page = mia.client.get(path, headers={"accept": "text/html"})
        control(page.status_code == 200 and "text/html" in page.headers["content-type"], page.status_code)
        breach("<script>alert" in page.text, f"{path} has the script")
        breach("unsafe" in page.headers["content-security-policy"], "the policy allows scripts in pages")
    control(mia.client.get("/account/factors").json()["factors"][0]["label"] == label, "the label has changed")
    return "the label is escaped, and the policy allows no such script"


@attack("Secrets in caches, addresses and other answers", "a seed or a code is found after it was shown")
def secrets_kept(arena: Arena, here: str, other: str) -> str:
    mia = arena.person(here, totp=False)
    begun = mia.client.send_json("/account/factors/totp", action="begin")
    breach("no-store" not in begun.headers["cache-control"], "the seed may be cached")
    mia.secret = begun.json()["secret"]
    control(
        mia.client.send_json("/account/factors/totp", action="confirm", code=mia.code()).status_code == 201, "no app"
    )
    codes = mia.client.send_json("/account/factors/recovery")
    breach("no-store" not in codes.headers["cache-control"], "the codes may be cached")
    hidden = [mia.secret, mia.secret.replace(" ", ""), *codes.json()["codes"]]
    for path in ("/account", "/account/factors", "/account/factors/totp", "/account/factors/recovery", "/session"):
        for accept in ("text/html", "application/json"):
            text = mia.client.get(path, headers={"accept": accept}).text
            breach([each for each in hidden if each in text], f"{path} shows a secret again")
    log = arena.demo.log.read_text() + arena.administrator.get(f"{here}/administration").text
    breach([each for each in hidden if each in log], "a log has a secret")
    return "shown once, with no-store; in no page and no log"
