"""The rules for passwords, and their hashes."""

import asyncio
import gzip
import logging
import multiprocessing
import os
import statistics
import threading
import time
import unicodedata
from collections.abc import Callable
from datetime import timedelta
from importlib import resources
from types import SimpleNamespace
from typing import Any

import argon2
import pytest
from argon2 import low_level

from harness.forks import BOTH, in_children, needs_fork
from harness.users_databases import cheap_hasher
from powauth.accounts import passwords, policy
from powauth.accounts.passwords import (
    MAX_PASSWORD_BYTES,
    PasswordHasher,
    PasswordPolicy,
    common_passwords,
    normalize_password,
)
from powauth.errors import ConfigError, Overloaded

POLICY = PasswordPolicy()
GOOD = "seven red herons"


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """The memory and the passes of each Argon2 computation; the computations are done all the same."""
    done: list[tuple[int, int]] = []

    def verify(hash_: bytes, secret: bytes, type_: low_level.Type) -> bool:
        found = argon2.extract_parameters(hash_.decode())
        done.append((found.memory_cost, found.time_cost))
        return bool(low_level.verify_secret(hash_, secret, type_))

    def raw(secret: bytes, salt: bytes, passes: int, memory: int, lanes: int, length: int, type_: Any) -> bytes:
        done.append((memory, passes))
        return low_level.hash_secret_raw(secret, salt, passes, memory, lanes, length, type_)

    monkeypatch.setattr(passwords, "verify_secret", verify)
    monkeypatch.setattr(passwords, "hash_secret_raw", raw)
    return done


# Rules


@pytest.mark.parametrize("character", ["k", "\u00e9", "\U0001f9a9"])
@pytest.mark.parametrize("length", [7, 8, 14, 15, 64, 128])
def test_pwd_01_length_is_counted_in_code_points(character: str, length: int) -> None:
    password = (character + "zq" * 64)[:length]
    assert POLICY.check(password) == (["should be at least 8 characters"] if length < 8 else [])
    strict = PasswordPolicy(min_length=15).check(password)
    assert strict == (["should be at least 15 characters"] if length < 15 else [])


def test_pwd_01_the_longest_passwords_are_accepted() -> None:
    assert POLICY.check("ab" * 2048) == []
    assert POLICY.check("\U0001f9a9" * 1024) == []
    assert POLICY.check("\U0001f9a9" * 1024 + "a") == ["should be at most 4096 bytes"]


@pytest.mark.parametrize("size", [4097, 1_000_000, 100_000_000])
def test_pwd_02_a_huge_password_is_refused_before_anything_is_done_with_it(
    size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*_: object) -> str:
        raise AssertionError("normalised")

    monkeypatch.setattr(policy, "unicodedata", SimpleNamespace(normalize=never))
    hasher = cheap_hasher()
    for huge in ("a" * size, "\u0301" * size):
        started = time.process_time()
        assert POLICY.check(huge) == ["should be at most 4096 bytes"]
        assert hasher.verify(None, huge) is False
        with pytest.raises(ValueError, match="at most 4096 bytes"):
            hasher.hash(huge)
        assert time.process_time() - started < 0.05


def test_pwd_02_the_worst_password_within_the_limit_costs_little() -> None:
    marks = "\u0315\u0300" * 1023  # combining marks in the wrong order, all of which normalisation must sort
    started = time.process_time()
    normalize_password("a" + marks)
    assert time.process_time() - started < 0.05
    # The composition that grows most in UTF-8.
    assert len(normalize_password("\U0001d160" * 1024)) <= 3 * MAX_PASSWORD_BYTES


@pytest.mark.parametrize(
    ("one", "other"),
    [(f"{'a' * length}b", f"{'a' * length}c") for length in (72, 255, 1024, 4000)]
    + [("sevenred\0b", "sevenred\0c"), ("sevenred\0", "sevenred"), ("sevenred\0b", "sevenred")],
)
def test_pwd_03_nothing_is_cut_off(one: str, other: str) -> None:
    hasher = cheap_hasher()
    stored = hasher.hash(one)
    assert hasher.verify(stored, one) is True
    assert hasher.verify(stored, other) is False


@pytest.mark.parametrize("password", ["  seven red  ", "tsrqponmlkjihgfedcba", "\U0001f9a9" * 8, "12903487561209"])
def test_pwd_04_there_is_no_rule_of_composition_and_no_trimming(password: str) -> None:
    assert POLICY.check(password) == []
    hasher = cheap_hasher()
    stored = hasher.hash(password)
    assert hasher.verify(stored, password) is True
    assert hasher.verify(stored, password.strip() + "!") is False
    assert hasher.verify(stored, password.strip()) is (password.strip() == password)
    assert hasher.verify(stored, password.upper()) is (password.upper() == password)


def test_pwd_04_one_normalisation_when_set_and_when_verified() -> None:
    hasher = cheap_hasher()
    forms = [unicodedata.normalize(form, "caf\u00e9 \u00fcber alles") for form in ("NFC", "NFD")]
    assert forms[0] != forms[1]
    for stored in map(hasher.hash, forms):
        assert all(hasher.verify(stored, form) for form in forms)
    # Compatibility characters stay what they are.
    assert hasher.verify(hasher.hash("\uff53even red"), "seven red") is False


def test_pwd_04_a_lone_surrogate_is_a_message_and_not_an_error() -> None:
    assert POLICY.check("seven \ud800 herons") == ["holds a character that is not allowed"]
    assert cheap_hasher().verify(cheap_hasher().hash(GOOD), "seven \ud800 herons") is False


@pytest.mark.parametrize("value", [None, True, 12345678, 1.5, b"seven red", ["seven red"], {"$ne": ""}, object()])
def test_aut_04_what_is_no_text_is_no_password(value: object) -> None:
    assert POLICY.check(value) == ["is invalid"]
    assert cheap_hasher().verify(cheap_hasher().hash(GOOD), value) is False


def test_pwd_05_common_passwords_are_refused_in_any_case() -> None:
    words = gzip.decompress(resources.files("powauth.accounts").joinpath("common_passwords.txt.gz").read_bytes())
    ranked = words.decode().splitlines()
    assert len(ranked) == len(common_passwords()) > 10_000
    assert ranked[:3] == ["password", "12345678", "123456789"]
    for word in ranked[:3000]:
        assert POLICY.check(word)
        assert POLICY.check(word.upper())
    # Frequent as passwords, but ranked by the list's makers as names and words.
    assert {"jennifer", "basketball", "elizabeth"} <= common_passwords()
    # The shorter ones need no list.
    assert all(POLICY.check(word) for word in ("123456", "qwerty", "dragon", "letmein"))


@pytest.mark.parametrize(
    "password",
    [
        "marie.heron@example.com",
        "Marie.Heron@Example.com",
        "marie.heron",
        "MARIE.HERON",
        "marie.heron1",
        "!marie.heron2024!",
    ],
)
def test_pwd_05_the_user_id_and_its_local_part_are_refused(password: str) -> None:
    assert POLICY.check(password, "marie.heron@example.com") == [
        "is too easy to guess: it is your user name or address"
    ]
    assert POLICY.check(password, "someone.else@example.com") == []


@pytest.mark.parametrize(
    "password", ["Example Shop", "example shop!", "2024 example shop", "EXAMPLE.com", "example.com99"]
)
def test_pwd_05_the_service_name_is_refused(password: str) -> None:
    policy = PasswordPolicy(service_names=["Example Shop", "example.com"])
    assert policy.check(password) == ["is too easy to guess: it is the name of this service"]
    assert POLICY.check(password) == []


def test_pwd_05_the_breached_hook_decides_and_its_failure_is_logged_without_the_password(
    caplog: pytest.LogCaptureFixture,
) -> None:
    asked: list[str] = []

    def breached(password: str) -> bool:
        asked.append(password)
        if password == "eleven grey geese":
            raise OSError(f"cannot ask about {password}")
        return password == GOOD

    policy = PasswordPolicy(breached=breached)
    assert policy.check(GOOD) == ["has appeared in a data breach"]
    with caplog.at_level(logging.WARNING, "powauth.accounts"):
        assert policy.check("eleven grey geese") == []
    assert "OSError" in caplog.text
    assert "geese" not in caplog.text
    # Nobody is asked about a password that is refused anyway, or when a form is only being checked.
    assert policy.check("password") != []
    assert policy.check(GOOD, offline=True) == []
    assert asked == [GOOD, "eleven grey geese"]


# Hashes


def test_pwd_06_hashes_are_argon2id_of_owasps_strength_with_salts_of_their_own() -> None:
    hasher = PasswordHasher()
    one, other = hasher.hash(GOOD), hasher.hash(GOOD)
    assert one != other
    found = argon2.extract_parameters(one)
    assert found.type is argon2.Type.ID
    assert found.version == 19
    assert found.memory_cost >= 19_456
    assert found.time_cost >= 2
    assert found.parallelism >= 1
    assert found.salt_len == 16
    assert found.hash_len == 32
    assert one.split("$")[4] != other.split("$")[4]
    assert hasher.verify(one, GOOD) is hasher.verify(other, GOOD) is True


def test_pwd_07_a_hash_is_made_again_only_to_be_stronger() -> None:
    own = cheap_hasher(time_cost=2, memory_cost=128)
    for weaker in ({"time_cost": 1, "memory_cost": 128}, {"time_cost": 2, "memory_cost": 64}):
        assert own.needs_rehash(cheap_hasher(**weaker).hash(GOOD)) is True
    for other in (
        {"time_cost": 2, "memory_cost": 128},
        {"time_cost": 3, "memory_cost": 128},
        {"time_cost": 1, "memory_cost": 1024},
        {"time_cost": 8, "memory_cost": 64},
    ):
        assert own.needs_rehash(cheap_hasher(**other).hash(GOOD)) is False
    short_tag = argon2.PasswordHasher(2, 128, 1, hash_len=16, salt_len=8).hash(GOOD)
    long_tag = argon2.PasswordHasher(2, 128, 1, hash_len=64, salt_len=32).hash(GOOD)
    assert own.verify(short_tag, GOOD) is own.verify(long_tag, GOOD) is True
    assert own.needs_rehash(short_tag) is True
    assert own.needs_rehash(long_tag) is False
    assert own.needs_rehash(None) is own.needs_rehash("!") is False


TAIL = "$c2FsdHNhbHRzYWx0c2FsdA$" + "A" * 43

NO_HASHES = [
    None,
    "",
    "!",
    "*",
    b"$argon2id$v=19$m=64,t=1,p=1" + TAIL.encode(),
    0,
    GOOD,
    "plain:" + GOOD,
    "5f4dcc3b5aa765d61d8327deb882cf99",
    "$2b$12$R9h/cIPz0gi.URNNX3kh2OPST9/PgBkqquzi.Ss7KIUgO2t0jWMUW",
    "$pbkdf2-sha512$100000$c2FsdA$aGFzaA",
    "pbkdf2_sha256$600000$salt$hash",
    "$argon2i$v=19$m=64,t=1,p=1" + TAIL,
    "$argon2d$v=19$m=64,t=1,p=1" + TAIL,
    "$argon2id$v=16$m=64,t=1,p=1" + TAIL,
    "$argon2id$m=64,t=1,p=1" + TAIL,
    "$argon2id$v=19$m=4294967295,t=1,p=1" + TAIL,
    "$argon2id$v=19$m=64,t=4294967295,p=1" + TAIL,
    "$argon2id$v=19$m=64,t=1,p=16777215" + TAIL,
    "$argon2id$v=19$m=99999999999999999999999,t=1,p=1" + TAIL,
    "$argon2id$v=19$m=1073741824,t=1,p=1" + TAIL,
    "$argon2id$v=19$m=0,t=0,p=0" + TAIL,
    "$argon2id$v=19$m=8,t=1,p=2" + TAIL,
    "$argon2id$v=19$m=-64,t=1,p=1" + TAIL,
    "$argon2id$v=19$m=6_4,t=1,p=1" + TAIL,
    "$argon2id$v=19$m=\u0666\u0664,t=1,p=1" + TAIL,
    "$argon2id$v=19$m=64,t=1,p=1$$",
    "$argon2id$v=19$m=64,t=1,p=1$c2FsdHNhbHRzYWx0c2FsdA$AAAA",
    "$argon2id$v=19$m=64,t=1,p=1$c2FsdHNhbHRzYWx0c2FsdA$" + "A" * 45,  # no length of base64
    "$argon2id$v=19$m=64,t=1,p=1$c2FsdHNhbHRzYWx0c2FsdB$" + "A" * 42 + "B",  # spare bits
    "$argon2id$v=19$m=64,t=1,p=1" + TAIL + "\n",
    "$argon2id$v=19$m=64,t=1,p=1" + TAIL + "$",
    "x" * 1_000_000,
]


@pytest.mark.parametrize("stored", NO_HASHES, ids=lambda value: ascii(value)[:40])
def test_pwd_08_what_is_no_hash_denies_after_the_usual_work(stored: object, work: list[tuple[int, int]]) -> None:
    hasher = cheap_hasher(memory_cost=128)
    submitted: list[object] = [GOOD, "", None, [], "\ud800", "a" * 5000]
    for password in submitted:
        work.clear()
        assert hasher.verify(stored, password) is False
        assert [each for each in work if each == (128, 1)] == [(128, 1)]
        assert sum(memory * passes for memory, passes in work if memory != 64) == 128


def test_pwd_08_an_empty_password_is_denied_even_where_its_hash_is_stored() -> None:
    hasher = cheap_hasher()
    assert hasher.verify(hasher.hash(GOOD), "") is False
    assert hasher.verify(hasher.hash(GOOD), None) is False


def test_aut_02_every_verification_does_the_same_work(work: list[tuple[int, int]]) -> None:
    hasher = cheap_hasher(time_cost=4, memory_cost=256)
    hashes = [hasher.hash(GOOD), None, "!", NO_HASHES[9]]
    for stored in hashes:
        for password in (GOOD, "eleven grey geese", "", None, "a" * 5000):
            work.clear()
            hasher.verify(stored, password)
            assert work == [(256, 4)]
    work.clear()
    hasher.dummy_verify()
    assert work == [(256, 4)]


@pytest.mark.parametrize(("passes", "memory"), [(1, 256), (2, 256), (3, 256), (2, 128), (1, 64), (7, 64), (5, 96)])
def test_aut_02_an_older_hash_is_topped_up_to_the_same_work(
    passes: int, memory: int, work: list[tuple[int, int]]
) -> None:
    hasher = cheap_hasher(time_cost=4, memory_cost=256)
    older = cheap_hasher(time_cost=passes, memory_cost=memory).hash(GOOD)
    for password, correct in ((GOOD, True), ("eleven grey geese", False)):
        work.clear()
        assert hasher.verify(older, password) is correct
        assert work[0] == (memory, passes)
        assert sum(memory * passes for memory, passes in work) == pytest.approx(4 * 256, rel=0.01)
        assert max(memory for memory, _ in work) <= 256


def test_aut_02_a_stronger_hash_costs_what_it_costs(work: list[tuple[int, int]]) -> None:
    stronger = cheap_hasher(time_cost=3, memory_cost=512).hash(GOOD)
    assert cheap_hasher().verify(stronger, GOOD) is True
    assert work == [(512, 3)]


# Concurrency


@pytest.mark.parametrize(("cpus", "at_once"), [(1, 1), (2, 1), (3, 2), (4, 3)])
def test_by_default_hashing_leaves_one_cpu_to_other_requests(
    cpus: int, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    if hasattr(os, "sched_getaffinity"):
        monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(cpus)))
    monkeypatch.setattr(os, "cpu_count", lambda: cpus)
    hasher = PasswordHasher(time_cost=1, memory_cost=64, cheap_and_unsafe=True)
    together = threading.Barrier(at_once)
    running: set[int] = set()
    seen: list[int] = []

    def job() -> None:
        running.add(threading.get_ident())
        together.wait(10)  # breaks if fewer than expected are let in at once
        seen.append(len(running))
        together.wait(10)
        running.discard(threading.get_ident())

    async def sign_ins() -> None:
        await asyncio.gather(*(hasher.run_in_thread(job) for _ in range(4 * at_once)))

    asyncio.run(sign_ins())
    hasher.close()
    assert set(seen) == {at_once}


def test_pwd_10_hashing_is_bounded_and_the_rest_is_refused() -> None:
    hasher = cheap_hasher(max_concurrent=2, max_waiting=3)
    running, most, lock = 0, 0, threading.Lock()
    release, both = threading.Event(), threading.Semaphore(0)

    def job() -> str:
        nonlocal running, most
        with lock:
            running += 1
            most = max(most, running)
        both.release()
        assert release.wait(30)
        with lock:
            running -= 1
        return hasher.hash(GOOD)  # within the turn that the job has

    async def main() -> list[object]:
        waiting = [asyncio.ensure_future(hasher.run_in_thread(job)) for _ in range(8)]
        await asyncio.to_thread(both.acquire)
        await asyncio.to_thread(both.acquire)
        with pytest.raises(Overloaded) as refused:
            hasher.verify(None, "")  # a thread of the app counts as well
        assert refused.value.retry_after == timedelta(seconds=1)
        release.set()
        return list(await asyncio.gather(*waiting, return_exceptions=True))

    results = asyncio.run(main())
    assert most == 2
    assert [isinstance(each, Overloaded) for each in results] == [False] * 5 + [True] * 3
    # All places are free again.
    assert [hasher.verify(str(each), GOOD) for each in results[:5]] == [True] * 5
    hasher.close()


def test_pwd_10_the_event_loop_goes_on_while_passwords_are_hashed() -> None:
    hasher = PasswordHasher(max_concurrent=1)

    async def main() -> list[float]:
        pauses: list[float] = []

        async def ticker() -> None:
            while True:
                before = time.perf_counter()
                await asyncio.sleep(0.001)
                pauses.append(time.perf_counter() - before)

        ticking = asyncio.ensure_future(ticker())
        await asyncio.gather(*(hasher.run_in_thread(lambda: hasher.hash(GOOD)) for _ in range(20)))
        ticking.cancel()
        return pauses

    started = time.perf_counter()
    pauses = asyncio.run(main())
    whole = time.perf_counter() - started
    assert len(pauses) > 20
    assert statistics.median(pauses) < whole / 20  # no tick waits for a hash
    hasher.close()


def test_pwd_10_a_cancelled_sign_in_gives_its_place_back() -> None:
    hasher = cheap_hasher(max_concurrent=1, max_waiting=1)
    release = threading.Event()

    async def main() -> None:
        first = asyncio.ensure_future(hasher.run_in_thread(lambda: release.wait(30)))
        second = asyncio.ensure_future(hasher.run_in_thread(lambda: True))
        await asyncio.sleep(0)
        with pytest.raises(Overloaded):
            await hasher.run_in_thread(lambda: True)
        second.cancel()
        with pytest.raises(asyncio.CancelledError):
            await second
        third = asyncio.ensure_future(hasher.run_in_thread(lambda: True))
        await asyncio.sleep(0)
        release.set()
        assert all(await asyncio.gather(first, third))

    asyncio.run(main())
    hasher.close()
    assert hasher.run(lambda: True) is True
    hasher.close()


def test_pwd_10_a_job_that_fails_gives_its_place_back() -> None:
    hasher = cheap_hasher(max_concurrent=1, max_waiting=0)

    def fail() -> None:
        raise LookupError

    for _ in range(3):
        with pytest.raises(LookupError):
            hasher.run(fail)
        with pytest.raises(LookupError):
            asyncio.run(hasher.run_in_thread(fail))
    hasher.close()


def _hash_in_child(hasher: PasswordHasher, queue: Any) -> None:
    queue.put(asyncio.run(hasher.run_in_thread(lambda: hasher.hash(GOOD))))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*multi-threaded.*fork:DeprecationWarning")
def test_pwd_10_a_hasher_works_in_a_forked_process() -> None:
    hasher = cheap_hasher(max_concurrent=1, max_waiting=0)
    release = threading.Event()
    busy = threading.Thread(target=lambda: hasher.run(lambda: release.wait(30)))
    busy.start()
    asyncio.run(asyncio.sleep(0))
    context = multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    child = context.Process(target=_hash_in_child, args=(hasher, queue))
    child.start()
    child.join(30)
    release.set()
    busy.join()
    assert child.exitcode == 0
    assert hasher.verify(queue.get(), GOOD) is True


@needs_fork
@BOTH
def test_rep_11_a_hasher_works_in_a_child_that_was_forked_while_it_was_full(fork: Callable[[], int]) -> None:
    hasher = cheap_hasher(max_concurrent=1, max_waiting=0)
    begun, release = threading.Event(), threading.Event()

    def job() -> None:
        begun.set()
        release.wait(60)

    busy = threading.Thread(target=lambda: hasher.run(job))
    busy.start()
    assert begun.wait(60)

    def child(_: int) -> tuple[bool, bool]:
        stored = hasher.hash(GOOD)
        return hasher.verify(stored, GOOD), asyncio.run(hasher.run_in_thread(lambda: hasher.verify(stored, GOOD)))

    assert in_children(child, fork) == [(True, True)]
    release.set()
    busy.join(60)


# Construction


@pytest.mark.parametrize(
    "options",
    [
        {"time_cost": 1},
        {"memory_cost": 19_455},
        {"memory_cost": 1_048_577},
        {"time_cost": 65},
        {"parallelism": 0},
        {"parallelism": 65},
        {"time_cost": True},
        {"memory_cost": 65536.0},
        {"max_concurrent": 0},
        {"max_waiting": -1},
        {"memory_cost": 7, "cheap_and_unsafe": True},
        {"memory_cost": 8, "parallelism": 2, "cheap_and_unsafe": True},
    ],
)
def test_a_weak_or_impossible_hasher_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="must be"):
        PasswordHasher(**options)


@pytest.mark.parametrize(
    "options",
    [
        {"min_length": 7},
        {"min_length": "8"},
        {"max_bytes": 255},
        {"max_bytes": 4097},
        {"min_length": 100, "max_bytes": 256},
        {"breached": "https://example.com"},
        {"service_names": "Example Shop"},
        {"service_names": [""]},
        {"service_names": [1]},
    ],
)
def test_a_weak_or_impossible_policy_is_refused(options: dict[str, Any]) -> None:
    with pytest.raises(ConfigError):
        PasswordPolicy(**options)
