"""Tests any order of events in the lives of sessions against a model of plain dicts (Hypothesis, stateful).

The model is the table "The life of a session" of ``docs/design.md`` in its simplest form. It remembers the first use of
each generation without any limit. It has no versions, records or rounding.

`RememberedSessions` adds remembered sessions: users who come back after days or enter their password again, and a
configuration that changes during the lives of sessions.
"""

import itertools
from copy import deepcopy
from dataclasses import dataclass, field, replace
from datetime import timedelta
from typing import NamedTuple

import msgspec
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from harness.interleavings import GRACE, PASSWORD, RENEWAL, TTL, Browser, Core, Handler, Response, World
from harness.support import CountingBackend, Me, User
from powauth import Remember, RequestAuth
from powauth.backends.base import Backend, Millis, Record, drive
from powauth.sessions.ids import encode_sid

MAX_LIFETIME = 4 * TTL
DAY = 86_400
LONG = Remember()
SHORTER = Remember(ttl=timedelta(days=10), max_lifetime=timedelta(days=20))
"""How long remembered sessions live: by default, and once an administrator has shortened it."""
USERS = ("ann", "bob")
BROWSERS = ("desk", "phone", "thief")

namespaces = itertools.count()
browsers = st.sampled_from(BROWSERS)
people = st.sampled_from(USERS)
short_waits = st.sampled_from([1, GRACE // 2, GRACE - 1, GRACE, GRACE + 1, GRACE * 5 // 4 + 1])
waits = short_waits | st.sampled_from([RENEWAL - 1, RENEWAL]) | st.sampled_from([TTL - RENEWAL, TTL - 1, TTL])
renewals = st.sampled_from([0, GRACE // 3, RENEWAL])
"""Ages at which ids are renewed: at each request, many times within the grace, and as by default."""


@dataclass
class Life:
    """One session as the model knows it. Times are seconds."""

    user: str
    name: str
    begun: float
    renewed: float
    generation: int = 0
    first_used: dict[int, float] = field(default_factory=dict)
    dead: bool = False
    remembered: bool = False
    resumed: float = 0
    password: str = PASSWORD
    kept_until: float = 0

    def ends(self, remember: Remember | None) -> float:
        if self.remembered and remember is not None:
            return min(self.renewed + remember.ttl.total_seconds(), self.begun + remember.max_lifetime.total_seconds())
        return min(self.renewed + TTL, self.begun + MAX_LIFETIME)


class Presented(NamedTuple):
    """Which session and generation an id is, to the model."""

    session: int
    generation: int


class KeepsTheLastWrite(CountingBackend):
    """Remembers what the last change of a record replaced, so that a failover can lose it."""

    replaced: Record | None = None

    async def update(self, record: Record, expected_version: int, now: Millis) -> bool:
        held = await self.inner.get(record.key, now)
        done = await super().update(record, expected_version, now)
        if done:
            self.replaced = held
        return done

    async def fail_over(self, now: Millis) -> None:
        assert self.replaced is not None
        await self.inner.delete(self.replaced.key, now)
        assert await self.inner.create(self.replaced, None, now)


class LifeOfSessions(RuleBasedStateMachine):
    """Requests, and everything else that ends or changes sessions, in any order."""

    backend: Backend
    rolls_back: bool
    core = Core()
    remember: Remember | None = None

    @initialize(renewal=renewals)
    def begin(self, renewal: int) -> None:
        self.renewal = renewal
        self.store = KeepsTheLastWrite(self.backend)
        self.world = World(self.store, f"machine{next(namespaces)}", self.core, self.options)
        self.rows: dict[str, User] = {name: self.world.person(f"{name}@example.org") for name in USERS}
        self.gone: set[str] = set()
        self.locked: set[str] = set()
        self.passwords = dict.fromkeys(USERS, PASSWORD)
        self.browsers = {name: Browser(name) for name in BROWSERS}
        self.lives: list[Life] = []
        self.ids: dict[Presented, str] = {}
        self.sids: dict[bytes, int] = {}
        self.before: tuple[int, Life] | None = None
        for browser, user in zip(BROWSERS, ("ann", "ann", "bob"), strict=True):
            self.sign_in(browser, user, right=True)

    @property
    def options(self) -> dict[str, object]:
        """The options of the workers."""
        return {
            "max_lifetime": timedelta(seconds=MAX_LIFETIME),
            "session_ttl_renewal": timedelta(seconds=self.renewal),
            "remember": self.remember,
        }

    @property
    def now(self) -> float:
        return self.world.clock.now

    # The model

    def held(self, number: int) -> bool:
        """Whether the store has the session: it keeps a record as long as was said when the record was written."""
        life = self.lives[number]
        return not life.dead and self.now < life.kept_until

    def live(self, number: int) -> bool:
        """Whether the session is good for anything: by the durations of today, too."""
        return self.held(number) and self.now < self.lives[number].ends(self.remember)

    def held_of(self, user: str) -> list[int]:
        return [number for number, life in enumerate(self.lives) if life.user == user and self.held(number)]

    def presented(self, browser: Browser) -> Presented | None:
        return next((presented for presented, value in self.ids.items() if value == browser.id), None)

    def accepts(self, presented: Presented | None) -> bool | None:
        """Whether the request is the user's; ``None`` if the table leaves it open (the grace may be rounded up)."""
        if presented is None or not self.live(presented.session):
            return False
        life = self.lives[presented.session]
        if not self.proven(life):
            return False
        if presented.generation >= life.generation:
            return True
        used = [at for generation, at in life.first_used.items() if generation > presented.generation]
        if not used or self.now - min(used) <= GRACE:
            return True
        return False if self.now - min(used) > GRACE * 5 / 4 else None

    def proven(self, life: Life) -> bool:
        """Whether the user may go on. The user is loaded where a remembered session resumes, and nowhere else."""
        return not self.paused(life) or life.password == self.passwords[life.user]

    def arrives(self, presented: Presented | None, response: Response) -> int | None:
        """What a request comes to before its handler; the number of its session, if it is the user's."""
        expected = self.accepts(presented)
        if presented is None:
            assert response.user is None
            return None
        life = self.lives[presented.session]
        if expected is not None:
            assert (response.user is not None) == expected, (presented, life, self.now)
        if response.user is None:
            life.dead = True  # gone, expired, or revoked for the reuse of an old id
            return None
        assert response.user.email == f"{life.user}@example.org"
        assert response.user.name == life.name
        return presented.session

    def responds(self, presented: Presented, response: Response) -> None:
        """What the response does to the session of its request, and carries."""
        life = self.lives[presented.session]
        before = deepcopy(life)
        expected: int | None = None
        if presented.generation == life.generation:
            life.first_used.setdefault(life.generation, self.now)
            if self.now - life.renewed >= self.renewal:
                self.renews(life, life.generation + 1)
                expected = life.generation
        elif presented.generation > life.generation:
            self.renews(life, presented.generation)
            life.first_used[life.generation] = self.now
        else:
            expected = life.generation
        if before != life and self.store.replaced is not None:
            life.kept_until = life.ends(self.remember)
            if self.rolls_back:
                self.before = (presented.session, before)
        assert (response.sent is None) == (expected is None), (response, before, self.now)
        if expected is not None and response.sent is not None:
            self.note(presented.session, expected, response.sent)

    def renews(self, life: Life, generation: int) -> None:
        if self.paused(life):
            life.resumed = self.now
        life.generation, life.renewed = generation, self.now

    def paused(self, life: Life) -> bool:
        """Whether the session lives only because it is remembered."""
        return life.remembered and self.remember is not None and self.now - life.renewed >= TTL

    def note(self, session: int, generation: int, value: str) -> None:
        known = self.ids.setdefault(Presented(session, generation), value)
        assert known == value, "one generation has two ids"

    def begins(self, user: str, response: Response, *, remembered: bool = False) -> None:
        """A new session."""
        assert response.sent
        row = self.world.users.rows[self.rows[user].id]
        life = Life(user, row.name, self.now, self.now, remembered=remembered, resumed=self.now)
        life.password, life.kept_until = self.passwords[user], life.ends(self.remember)
        self.lives.append(life)
        session = self.world.session(response.sent)
        assert session is not None
        assert session.sid not in self.sids
        self.sids[session.sid] = len(self.lives) - 1
        self.note(len(self.lives) - 1, 0, response.sent)

    def request(
        self, browser: str, handler: Handler | None = None, *, lost: bool = False
    ) -> tuple[Presented | None, Response]:
        client = self.browsers[browser]
        held, presented = client.id, self.presented(client)
        self.before, self.store.replaced = None, None
        response = drive(self.world.request(client, handler))
        if lost:
            client.id = held
        return presented, response

    # Requests

    def look(self, browser: str, *, lost: bool) -> None:
        presented, response = self.request(browser, lost=lost)
        if self.arrives(presented, response) is not None and presented is not None:
            self.responds(presented, response)
        else:
            assert response.sent is None

    @rule(browser=browsers, wait=st.just(0) | waits, lost=st.booleans())
    def waits_and_looks(self, browser: str, wait: int, lost: bool) -> None:
        self.wait(wait)
        self.look(browser, lost=lost)

    @rule(browser=browsers, wait=short_waits, looks=st.integers(2, 6))
    def is_busy(self, browser: str, wait: int, looks: int) -> None:
        for _ in range(looks):
            self.wait(wait)
            self.look(browser, lost=False)

    @precondition(lambda self: any(self.live(presented.session) for presented in self.ids))
    @rule(data=st.data(), wait=short_waits)
    def is_asked_with_an_id_of_a_live_session(self, data: st.DataObject, wait: int) -> None:
        """A slow request, or a thief's: any generation, and the browser keeps what it had."""
        known = sorted(presented for presented in self.ids if self.live(presented.session))
        chosen = data.draw(st.sampled_from(known))
        self.wait(wait)
        client = self.browsers["desk"]
        held, client.id = client.id, self.ids[chosen]
        self.look("desk", lost=True)
        client.id = held

    @precondition(lambda self: self.ids)
    @rule(data=st.data(), browser=browsers)
    def comes_by_an_id(self, data: st.DataObject, browser: str) -> None:
        """An id from whenever: stolen, or in a response that was slow to arrive."""
        self.browsers[browser].id = self.ids[data.draw(st.sampled_from(sorted(self.ids)))]

    @precondition(lambda self: self.ids)
    @rule(data=st.data(), position=st.integers(0, 71), browser=browsers)
    def forges(self, data: st.DataObject, position: int, browser: str) -> None:
        value = self.ids[data.draw(st.sampled_from(sorted(self.ids)))]
        other = "A" if value[position] != "A" else "B"
        client = self.browsers[browser]
        held, client.id = client.id, value[:position] + other + value[position + 1 :]
        with self.store.counting() as verbs:
            response = drive(self.world.request(client))
        assert (response, verbs) == (Response(None, None, None), [])
        client.id = held

    @rule(browser=browsers, user=people, right=st.sampled_from([True, True, True, False]))
    def signs_in(self, browser: str, user: str, right: bool) -> None:
        self.sign_in(browser, user, right=right)

    def sign_in(self, browser: str, user: str, *, right: bool, remember: bool | None = None) -> None:
        password = self.passwords[user] if right else "not this one"
        params = {"email": f"{user}@example.org", "password": password}
        signed_in: list[User | None] = []

        async def handler(auth: object) -> None:
            signed_in.append(await auth.sign_in(params, remember=remember))  # type: ignore[attr-defined]

        presented, response = self.request(browser, handler)
        session = self.arrives(presented, response)
        if right and user not in self.gone | self.locked:
            assert signed_in[0] is not None
            remembered = bool(remember)
            if session is not None:
                before = self.lives[session]
                before.dead = True
                if remember is None:
                    remembered = self.keeps_flag(before, user)
            self.begins(user, response, remembered=remembered)
            return
        assert signed_in == [None]
        if session is not None and presented is not None:
            self.responds(presented, response)

    def sign_out(self, browser: str) -> None:
        presented, response = self.request(browser, lambda auth: auth.sign_out())
        session = self.arrives(presented, response)
        assert response.sent == ""
        if session is not None:
            self.lives[session].dead = True

    def revoke_one(self, browser: str, data: st.DataObject) -> None:
        presented = self.presented(self.browsers[browser])
        own = [] if presented is None else self.held_of(self.lives[presented.session].user)
        if presented is None or not self.accepts(presented):
            return
        chosen = data.draw(st.sampled_from(own))
        [sid] = [sid for sid, number in self.sids.items() if number == chosen]
        existed: list[bool] = []

        async def handler(auth: object) -> None:
            existed.append(await auth.revoke(encode_sid(sid)))  # type: ignore[attr-defined]

        presented, response = self.request(browser, handler)
        session = self.arrives(presented, response)
        assert presented is not None
        assert existed == [True]
        self.lives[chosen].dead = True
        if chosen == session:
            assert response.sent == ""
        else:
            self.responds(presented, response)

    def revoke_others(self, browser: str) -> None:
        presented, response = self.request(browser, lambda auth: auth.revoke_others())
        session = self.arrives(presented, response)
        if session is None or presented is None:
            assert response.error is not None
            return
        for number in self.held_of(self.lives[session].user):
            self.lives[number].dead = number != session
        self.responds(presented, response)

    def revoke_all(self, browser: str) -> None:
        presented, response = self.request(browser, lambda auth: auth.revoke_all())
        session = self.arrives(presented, response)
        if session is None:
            assert response.error is not None
            return
        assert response.sent == ""
        self.end_all(self.lives[session].user)

    def change_password(self, browser: str, password: str) -> None:
        presented = self.presented(self.browsers[browser])
        user = None if presented is None else self.lives[presented.session].user
        params = {"current_password": self.passwords.get(user or "", ""), "password": password}
        presented, response = self.request(browser, lambda auth: auth.update_user(params))
        session = self.arrives(presented, response)
        if session is None or presented is None or user is None:
            assert response.error is not None
            return
        if self.lives[session].password != self.passwords[user]:
            assert (response.error is not None, response.sent) == (True, "")  # it was changed behind the plug's back
            self.lives[session].dead = True
            return
        if password == self.passwords[user]:
            self.responds(presented, response)  # nothing has changed
            return
        self.passwords[user] = password
        self.end_all(user)
        self.begins(user, response, remembered=self.keeps_flag(self.lives[session], user))

    def keeps_flag(self, before: Life, user: str) -> bool:
        """Whether the session in the place of ``before`` is remembered, if nobody says so."""
        return self.remember is not None and before.remembered and before.user == user

    @rule(browser=browsers, how=st.sampled_from(["sign-out", "one", "others", "all", "password"]), data=st.data())
    def ends_sessions(self, browser: str, how: str, data: st.DataObject) -> None:
        if how == "sign-out":
            self.sign_out(browser)
        elif how == "one":
            self.revoke_one(browser, data)
        elif how == "others":
            self.revoke_others(browser)
        elif how == "all":
            self.revoke_all(browser)
        else:
            self.change_password(browser, data.draw(st.sampled_from([PASSWORD, "battery staple", "tea for two"])))

    # What else happens

    @rule(user=people, what=st.sampled_from(["Ann", "Bob", "Eve", "lock", "unlock", "delete"]))
    def is_changed(self, user: str, what: str) -> None:
        """By an administrator."""
        self.before = None
        if what == "delete" and user == "bob":
            self.delete(user)
        elif user not in self.gone and what != "delete":
            if what in ("lock", "unlock"):
                self.lock(user, what == "lock")
            else:
                self.rename(user, what)

    def end_all(self, user: str) -> None:
        for number in self.held_of(user):
            self.lives[number].dead = True

    def wait(self, seconds: float) -> None:
        if seconds:
            self.world.clock.advance(seconds)
            self.before = None

    def rename(self, user: str, name: str) -> None:
        drive(self.world.auth.update_account(self.rows[user], {"name": name}))
        for number in self.held_of(user):
            self.lives[number].name = name

    def lock(self, user: str, locked: bool) -> None:
        drive(self.world.auth.update_account(self.rows[user], {"locked": locked}))
        self.locked = self.locked | {user} if locked else self.locked - {user}
        if locked:
            self.end_all(user)

    def delete(self, user: str) -> None:
        assert drive(self.world.auth.delete_account(self.rows[user])) == (user not in self.gone)
        self.gone.add(user)
        self.end_all(user)

    @rule(limit=st.integers(1, 100))
    def is_purged(self, limit: int) -> None:
        drive(self.backend.purge(limit, self.world.auth.now()))

    @precondition(lambda self: self.before is not None)
    @rule(at_once=st.booleans())
    def fails_over(self, at_once: bool) -> None:
        """The store loses its last write (row 10)."""
        assert self.before is not None
        number, life = self.before
        self.before = None
        if not self.live(number):
            return
        drive(self.store.fail_over(self.world.auth.now()))
        self.lives[number] = replace(life)
        if at_once:
            for browser in BROWSERS:
                self.look(browser, lost=False)

    @invariant()
    def the_store_holds_what_the_model_says(self) -> None:
        expected = {number for number in range(len(self.lives)) if self.held(number)}
        records = self.world.records()
        assert {self.sids[session.sid] for session in records} == expected
        for session in records:
            life = self.lives[self.sids[session.sid]]
            assert session.generation == life.generation
            assert session.confirmed == (life.generation in {0, *life.first_used})
            assert msgspec.msgpack.decode(session.identity, type=Me).name == life.name
            assert session.created_at == life.begun * 1000
            assert session.renewed_at == life.renewed * 1000
            assert session.remembered == life.remembered
            assert session.resumed_at == life.resumed * 1000


class RememberedSessions(LifeOfSessions):
    """The same, with remembered sessions."""

    @initialize(renewal=renewals)
    def begin(self, renewal: int) -> None:
        """Remembered sessions are offered. Each browser but the thief's has one."""
        self.remember = LONG
        super().begin(renewal)
        for browser, user in (("desk", "ann"), ("phone", "bob")):
            self.sign_in(browser, user, right=True, remember=True)

    @rule(browser=browsers, user=people, remember=st.sampled_from([None, None, True, False]))
    def steps_up_or_signs_in(self, browser: str, user: str, remember: bool | None) -> None:
        """A sign-in keeps the flag of the user's own session, unless it says otherwise."""
        self.sign_in(browser, user, right=True, remember=None if self.remember is None else remember)

    @rule(browser=browsers, days=st.sampled_from([1, 9, 10, 20, 29, 30, 60]), lost=st.booleans())
    def comes_back_after_days(self, browser: str, days: int, lost: bool) -> None:
        """A browser pauses. Its first response may be lost."""
        self.wait(days * DAY)
        self.look(browser, lost=lost)

    @rule(
        browser=browsers,
        asleep=st.sampled_from([0, RENEWAL]),
        wait=st.just(0) | waits | st.just(20 * DAY),
        meanwhile=st.sampled_from(["look", "look twice", "sign out", "rename"]),
    )
    def stops_between_read_and_write(self, browser: str, asleep: int, wait: float, meanwhile: str) -> None:
        """A worker stands still between its read and its write, while the browser goes on. It must undo nothing."""
        self.wait(asleep)
        presented, due, gone, awake = self.presented(self.browsers[browser]), [False], [False], [False]

        async def stands_still(auth: RequestAuth[User, Me]) -> None:
            session = self.arrives(presented, Response(auth.identity, None, None))
            if session is None or presented is None:
                gone[0] = True
            else:
                life = self.lives[session]
                fresh = presented.generation == life.generation and life.generation in {0, *life.first_used}
                due[0] = not fresh or self.now - life.renewed >= self.renewal
                awake[0] = not self.paused(life)
                ends.append(min(life.kept_until, life.ends(self.remember)))
            self.wait(wait)
            if meanwhile == "sign out":
                self.sign_out(browser)
            elif meanwhile == "rename" and "ann" not in self.gone:
                self.rename("ann", f"ann {len(ends)} {self.now}")
            for _ in range(meanwhile.startswith("look") + meanwhile.endswith("twice")):
                self.look(browser, lost=False)

        ends: list[float] = []
        _, response = self.request(browser, stands_still)
        self.before = None
        if gone[0] or presented is None or not due[0] or not self.live(presented.session):
            assert response.sent is None
            return
        if awake[0] and self.paused(self.lives[presented.session]):
            assert response.sent is None  # nobody has compared the password since it has begun to pause
            return
        expected = self.accepts(presented)
        if response.sent is None and (not expected or self.now >= ends[0]):
            return  # an id that is too old by now, or a read that is: nothing was written, and nothing is sent
        assert expected is not False
        self.responds(presented, response)
        self.before = None

    @rule(change=st.sampled_from([LONG, SHORTER, None]))
    def is_configured_anew(self, change: Remember | None) -> None:
        """All workers start again with other durations. Records hold the flag alone, so they are in force at once."""
        self.remember = change
        self.world.configure(self.options)

    @rule(browser=browsers)
    def is_asked_for_the_password(self, browser: str) -> None:
        """On a page that needs a fresh sign-in: whoever was away is asked, until the password is entered again."""
        fresh: list[bool] = []

        async def ask(auth: RequestAuth[User, Me]) -> None:
            fresh.append(auth.is_fresh(timedelta(seconds=TTL)))

        presented = self.presented(self.browsers[browser])
        life = None if presented is None else self.lives[presented.session]
        expected = life is not None and not self.paused(life) and life.resumed <= life.begun
        expected = expected and life is not None and self.now - life.begun <= TTL
        presented, response = self.request(browser, ask)
        if self.arrives(presented, response) is None or presented is None:
            assert fresh == [False]
            return
        self.responds(presented, response)
        assert fresh == [expected]

    @precondition(lambda self: not self.gone)
    @rule(user=people, password=st.sampled_from([PASSWORD, "battery staple"]))
    def is_changed_behind_the_plugs_back(self, user: str, password: str) -> None:
        """Something else than powauth sets the password. Whoever comes back after a pause is signed out by it."""
        self.before = None
        drive(self.world.users.update(self.rows[user].id, {"password": password}, trusted=True))
        self.passwords[user] = password
