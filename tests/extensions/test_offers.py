"""`Offers`: tokens that carry a content and belong to an owner."""

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Self

import msgspec
import pytest

from harness.all_backends import ASYNC, LOCAL, SYNC, Stores, stores
from harness.support import SECRET, Clock, MemoryUsers
from powauth import ConfigError, Extension, Parts, SessionAuth
from powauth.backends.base import Backend, Record, drive, make_key, make_owner, shard_of
from powauth.backends.memory import MemoryBackend
from powauth.extensions.offers import Offers

__all__ = ["stores"]


class Gift(msgspec.Struct, frozen=True):
    to: str
    count: int = 1


class Holder(Extension[Any]):
    name = "gifts"
    offers: Offers[Gift]
    others: Offers[Gift]
    parts: Parts[Any]

    def bind(self, parts: Parts[Any]) -> Self:
        bound = type(self)()
        bound.parts = parts
        bound.offers = Offers(parts, "gifts", Gift, ttl=timedelta(days=7))
        bound.others = Offers(parts, "gifts.other", Gift, ttl=timedelta(days=7))
        return bound


def made(backend: Backend, clock: Clock) -> Holder:
    auth = SessionAuth(secret_key=SECRET, users=MemoryUsers(), backend=backend, clock=clock, extensions=[Holder()])
    return auth.extension(Holder)


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
def holder(clock: Clock) -> Holder:
    return made(MemoryBackend(), clock)


def issued(offers: Offers[Gift], owner: str = "7", content: Gift | None = None) -> tuple[str, str]:
    found = drive(offers.issue(owner, content or Gift("ann")))
    assert found is not None
    return found


def test_an_owner_has_several_offers_and_each_is_taken_once(holder: Holder, clock: Clock) -> None:
    first, second = issued(holder.offers), issued(holder.offers, content=Gift("ben", 2))
    found = drive(holder.offers.find(first[0]))
    assert found is not None
    assert (found.name, found.content) == (first[1], Gift("ann"))
    assert (found.issued_at, found.expires_at - found.issued_at) == (
        datetime.fromtimestamp(clock.now, UTC),
        timedelta(days=7),
    )
    assert {each.name for each in drive(holder.offers.live("7"))} == {first[1], second[1]}
    taken = drive(holder.offers.take(second[0]))
    assert taken is not None
    assert taken.content == Gift("ben", 2)
    assert drive(holder.offers.take(second[0])) is None
    assert drive(holder.offers.find(second[0])) is None
    assert [each.name for each in drive(holder.offers.live("7"))] == [first[1]]


def test_an_owner_ends_one_offer_or_all_of_its_own(holder: Holder) -> None:
    mine, more, theirs = issued(holder.offers), issued(holder.offers), issued(holder.offers, "8")
    for wrong in (theirs[1], "", None, 7, mine[0]):
        assert drive(holder.offers.end_one("7", wrong)) is None
    ended = drive(holder.offers.end_one("7", mine[1]))
    assert ended is not None
    assert ended.content == Gift("ann")
    assert drive(holder.offers.find(mine[0])) is None
    assert drive(holder.offers.end("7")) == 1
    assert drive(holder.offers.find(more[0])) is None
    assert drive(holder.offers.find(theirs[0])) is not None


def test_an_offer_ends_with_its_time_and_before_an_end_that_overtakes_it(holder: Holder, clock: Clock) -> None:
    token, _ = issued(holder.offers)
    clock.advance(7 * 86_400 - 1)
    assert drive(holder.offers.find(token)) is not None
    clock.advance(1)
    assert drive(holder.offers.take(token)) is None
    epoch = drive(holder.offers.epoch("7"))
    drive(holder.offers.end("7"))
    assert drive(holder.offers.issue("7", Gift("ann"), epoch)) is None
    assert drive(holder.offers.live("7")) == []


@pytest.mark.parametrize("value", [None, "", "x", "A" * 72, "\ud800" * 72, b"bytes", 7, ["x"], {}])
def test_other_values_are_no_offer(holder: Holder, value: object) -> None:
    issued(holder.offers)
    assert drive(holder.offers.find(value)) is None
    assert drive(holder.offers.take(value)) is None


def test_a_token_is_good_for_its_purpose_alone_and_is_not_in_the_store(holder: Holder) -> None:
    token, name = issued(holder.offers)
    assert drive(holder.others.find(token)) is None
    for changed in (token[:-1], token + "=", token.swapcase(), token[:30] + name[:1] + token[31:]):
        assert changed == token or drive(holder.offers.find(changed)) is None
    page = drive(holder.parts.backend.scan("credentials.gifts", None, 10, holder.parts.now()))
    (record,) = page.records
    assert token.encode() not in record.key + record.value + record.owner


def test_a_record_that_cannot_be_read_is_no_offer(holder: Holder) -> None:
    token, _ = issued(holder.offers)
    backend, now = holder.parts.backend, holder.parts.now()
    (record,) = drive(backend.scan("credentials.gifts", None, 10, now)).records
    for value in (b"", b"\xc1", msgspec.msgpack.encode(["gifts", b"", {}]), msgspec.msgpack.encode([1, 2])):
        changed = Record(record.key, record.owner, record.version + 1, now, record.expires_at, value)
        drive(backend.delete(record.key, now))
        assert drive(backend.create(changed, None, now))
        assert drive(holder.offers.find(token)) is None
        assert drive(holder.offers.live("7")) == []
    other = make_owner("credentials.gifts", "7")
    assert record.key.startswith(make_key("credentials.gifts", shard_of(other)))


@pytest.mark.parametrize("engine", [*LOCAL, *SYNC, *ASYNC])
def test_of_20_parallel_takes_one_wins_on_every_engine(engine: str, tmp_path: Path, stores: Stores) -> None:
    with stores.store(engine, tmp_path) as backend, ThreadPoolExecutor(20) as pool:
        holder = made(backend, Clock())
        token, _ = issued(holder.offers)
        won = list(pool.map(lambda _: drive(holder.offers.take(token)) is not None, range(20)))
        assert sum(won) == 1


def test_wrong_options_are_refused(holder: Holder) -> None:
    for purpose in ("throttle", "", "a b", "x" * 80):
        with pytest.raises(ConfigError):
            Offers(holder.parts, purpose, Gift, ttl=timedelta(days=1))
    with pytest.raises(ConfigError):
        Offers(holder.parts, "gifts", Gift, ttl=timedelta(0))
    with pytest.raises(ConfigError):
        Offers(None, "gifts", Gift, ttl=timedelta(days=1))  # type: ignore[arg-type]
