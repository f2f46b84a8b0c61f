"""Identities and keys: what comes back from a record, and what happens when an app changes its identity class."""

import copy
import dataclasses
import enum
import ipaddress
import pickle
import types
from collections.abc import Callable
from datetime import UTC, date, datetime, time, timedelta, timezone
from decimal import Decimal
from typing import Annotated, Any, Literal, NamedTuple
from uuid import UUID, uuid4

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from powauth.accounts.base import Account, Rehash
from powauth.accounts.identity import (
    MAX_KEY_BYTES,
    AnyKey,
    IdentityCodec,
    Key,
    default_identity,
    key_text,
    loaded_key,
    stored_key,
)
from powauth.errors import ConfigError

MIA = UUID("8c5f5d7e-2f9b-4e3b-9b1f-0f6f3f5c6c11")


class Role(enum.Enum):
    USER = "user"
    ADMIN = "admin"


class Level(enum.Enum):
    LOW = 0
    HIGH = 1


class StrRole(enum.StrEnum):
    USER = "user"


class OldStrRole(str, enum.Enum):  # noqa: UP042 - apps have such classes
    USER = "user"


class IntLevel(enum.IntEnum):
    LOW = 0


class Right(enum.Flag):
    READ = 1
    WRITE = 2


class Address(str):
    """Text with something of the app's own."""

    __slots__ = ()

    def __str__(self) -> str:
        return "hidden"


class Points(int):
    pass


class Ratio(float):
    pass


class Team(msgspec.Struct, frozen=True):
    name: str
    parent: "Team | None" = None


@dataclasses.dataclass(frozen=True)
class Place:
    city: str


class Pair(NamedTuple):
    left: int
    right: int


class Editable(msgspec.Struct):
    name: str


@dataclasses.dataclass
class EditablePlace:
    city: str


class Strict:
    """A type of the app's own, which refuses some of its values."""

    def __init__(self, value: str) -> None:
        raise AttributeError(value)


def made(*fields: tuple[Any, ...], name: str = "Me", **options: Any) -> type[Any]:
    return msgspec.defstruct(name, list(fields), frozen=True, kw_only=True, **options)


def codec_of(*fields: tuple[Any, ...], **options: Any) -> IdentityCodec[Any]:
    return IdentityCodec(made(*fields, **options))


def decoded(codec: IdentityCodec[Any], names: bytes, stored: bytes) -> Any:
    """The identity in a map that need not be rebuilt."""
    found = codec.decode(names, stored)
    assert found is not None
    return found


def named(each: object) -> str:
    """Part of a test's name, which must be the same in every process: a set, for one, shows its items in any order."""
    is_annotation = isinstance(each, type | types.UnionType) or hasattr(each, "__origin__")
    return str(each)[:40] if is_annotation or isinstance(each, str) else type(each).__name__


SURVIVING: list[tuple[Any, object]] = [
    (str, "mia@example.com"),
    (str, "mi\u0301a \U0001f9a9"),
    (int, -(2**63)),
    (int, 2**64 - 1),
    (bool, True),
    (float, 1.75),
    (bytes, b"\0\xff"),
    (str | None, None),
    (UUID, MIA),
    (UUID | None, MIA),
    (Decimal, Decimal("12.3400")),
    (datetime, datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=UTC)),
    (datetime, datetime(2026, 1, 2, 3, 4, 5, 6, tzinfo=timezone(timedelta(hours=2)))),
    (datetime, datetime(2026, 1, 2, 3, 4, 5, 6)),  # noqa: DTZ001 - some columns have no zone
    (date, date(2026, 2, 28)),
    (time, time(3, 4, 5, 6)),
    (timedelta, timedelta(days=-1, microseconds=7)),
    (Role, Role.ADMIN),
    (Role | None, Role.ADMIN),
    (Level, Level.LOW),
    (StrRole, StrRole.USER),
    (OldStrRole, OldStrRole.USER),
    (IntLevel, IntLevel.LOW),
    (Right, Right.READ | Right.WRITE),
    (Literal["a", "b"], "b"),
    (Annotated[str, msgspec.Meta(max_length=5)], "heron"),
    (tuple[str, ...], ("a", "b")),
    (tuple[Role, int], (Role.USER, 1)),
    (frozenset[Role], frozenset({Role.USER, Role.ADMIN})),
    (Team, Team("a", Team("b"))),
    (tuple[Team, ...], (Team("a"),)),
    (Place, Place("Bonn")),
    (Pair, Pair(1, 2)),
    (ipaddress.IPv4Address, ipaddress.ip_address("192.0.2.1")),
    (ipaddress.IPv6Address | None, ipaddress.ip_address("2001:db8::1")),
    (ipaddress.IPv4Network, ipaddress.ip_network("192.0.2.0/24")),
    (ipaddress.IPv6Network, ipaddress.ip_network("2001:db8::/64")),
    (Address, Address("mia@example.com")),
    (Points, Points(7)),
    (Ratio, Ratio(0.5)),
    (AnyKey, MIA),
    (AnyKey, str(MIA)),
    (AnyKey, 7),
]


@pytest.mark.parametrize(("annotation", "value"), SURVIVING, ids=named)
def test_a_value_comes_back_as_it_was(annotation: Any, value: object) -> None:
    codec = codec_of(("id", int), ("value", annotation))
    me = codec.of({"id": 1, "value": value}.__getitem__)
    again = decoded(codec, codec.names, codec.encode(me))
    for found in (me, again):
        assert (type(found.value), found.value) == (type(value), value)
    assert again == me
    assert hash(again) == hash(me)


@given(st.integers(-(2**63), 2**64 - 1) | st.uuids() | st.text(min_size=1, max_size=60))
def test_a_key_comes_back_as_it_was(key: Key) -> None:
    found = loaded_key(stored_key(key))
    assert (type(found), found) == (type(key), key)
    assert isinstance(stored_key(key), int | str | bytes)
    assert key_text(stored_key(key))


@pytest.mark.parametrize(
    "key",
    [None, True, 1.5, b"x", "", "\ud800", "x" * (MAX_KEY_BYTES + 1), "é" * MAX_KEY_BYTES, 2**64, -(2**63) - 1, ()],
)
def test_what_is_no_key_is_refused(key: Any) -> None:
    with pytest.raises(ConfigError, match="a user's key must be"):
        stored_key(key)


def test_a_key_of_a_subclass_is_stored_as_a_plain_one() -> None:
    class DriversUUID(UUID):
        pass

    assert type(loaded_key(stored_key(DriversUUID(int=5)))) is UUID
    assert type(loaded_key(stored_key(Points(5)))) is int
    assert loaded_key(stored_key(IntLevel.LOW)) == 0
    assert type(loaded_key(stored_key(Address("x")))) is str
    assert loaded_key(stored_key(Address("x"))) == "x"


def test_a_drivers_own_kind_of_uuid_becomes_a_plain_one() -> None:
    driver = pytest.importorskip("asyncpg.pgproto.pgproto", reason="asyncpg is not installed")
    codec = codec_of(("id", UUID), ("tenant", UUID | None))
    me = codec.of({"id": driver.UUID(str(MIA)), "tenant": driver.UUID(str(MIA))}.__getitem__)
    assert type(me.id) is type(me.tenant) is UUID
    assert me.id == MIA


# What is refused


@pytest.mark.parametrize(
    ("annotation", "value", "why"),
    [
        (int, "5", "str"),
        (str, 5, "int"),
        (str, None, "NoneType"),
        (str, Role.USER, "Role comes back as str"),
        (int, IntLevel.LOW, "IntLevel comes back as int"),
        (str, Address("mia@example.com"), "Address comes back as str"),
        (UUID, str(MIA), "str comes back as UUID"),
        (datetime, "2026-01-02", "str"),
        (Role, "user", "str comes back as Role"),
        (float, 5, "int comes back as float"),
        (tuple[int, ...], [1], "list comes back as tuple"),
        (float, float("nan"), "the float comes back as another one"),
        (complex, 1j, "complex"),
        (Strict, "x", "x"),
        (str, "\ud800", "surrogates"),
        (int, 2**64, "int"),
    ],
    ids=named,
)
def test_a_value_that_would_come_back_as_another_is_refused_with_the_fields_name(
    annotation: Any, value: object, why: str
) -> None:
    codec = codec_of(("id", int), ("wrong", annotation))
    with pytest.raises(ConfigError, match="the identity Me cannot store its field 'wrong' as annotated") as refused:
        codec.of({"id": 1, "wrong": value}.__getitem__)
    assert why in str(refused.value)
    with pytest.raises(ConfigError, match="'wrong'"):
        codec.encode(codec.cls(id=1, wrong=value))


def test_every_identity_is_checked_and_not_the_first_one_alone() -> None:
    codec = codec_of(("id", int), ("role", Role | None))
    assert codec.of({"id": 1, "role": None}.__getitem__).role is None
    with pytest.raises(ConfigError, match="'role'"):
        codec.of({"id": 2, "role": "user"}.__getitem__)


def test_an_error_shows_no_values() -> None:
    codec = codec_of(("id", int), ("email", bytes))
    with pytest.raises(ConfigError) as refused:
        codec.of({"id": 1, "email": "mia@example.com"}.__getitem__)
    assert "mia" not in str(refused.value)


def test_an_identity_of_another_class_is_refused() -> None:
    codec = codec_of(("id", int))
    with pytest.raises(ConfigError, match="the identity must be a Me, not dict"):
        codec.encode({"id": 1})


@pytest.mark.parametrize(
    "annotation",
    [
        list[int],
        list[int] | None,
        dict[str, int],
        set[int],
        bytearray,
        Any,
        object,
        tuple,
        frozenset,
        tuple[list[int], ...],
        tuple[int, dict[str, int]],
        frozenset[Any],
        Editable,
        EditablePlace,
        Editable | None,
        Annotated[list[int], msgspec.Meta(max_length=5)],
    ],
    ids=named,
)
def test_a_field_that_requests_could_change_is_refused(annotation: Any) -> None:
    with pytest.raises(ConfigError, match="could be changed through 'tags', and requests share identities"):
        codec_of(("id", int), ("tags", annotation))


class Thawed(msgspec.Struct):
    id: int


class Listed(msgspec.Struct, frozen=True, array_like=True):
    id: int


class Closed(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    id: int


class Unresolved(msgspec.Struct, frozen=True):
    id: "Nowhere"  # type: ignore[name-defined] # noqa: F821


class Mixed(enum.Enum):
    A = 1
    B = "b"


@pytest.mark.parametrize(
    ("cls", "message"),
    [
        (dict, "must be a frozen struct"),
        (Place, "must be a frozen struct"),
        (Team("a"), "must be a frozen struct"),
        (None, "must be a frozen struct"),
        (Thawed, "must have frozen=True: requests share identities"),
        (Listed, "without array_like: deployments add and remove fields"),
        (Closed, "without forbid_unknown_fields"),
        (Unresolved, "has a field that cannot be stored"),
        (made(("mixed", Mixed)), "has a field that cannot be stored"),
        (made(("id", UUID | str)), "has a field that cannot be stored"),
    ],
    ids=named,
)
def test_a_class_that_is_no_identity_is_refused_with_what_to_do(cls: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        IdentityCodec(cls)


def test_an_identity_cannot_be_changed() -> None:
    me = codec_of(("id", int)).of({"id": 1}.__getitem__)
    with pytest.raises(AttributeError, match="immutable"):
        me.id = 2


def test_reading_a_field_that_is_not_there_says_both_ways_to_get_it() -> None:
    me = codec_of(("id", int)).of({"id": 1}.__getitem__)
    with pytest.raises(AttributeError) as refused:
        _ = me.email
    assert str(refused.value) == (
        "the identity Me has no field 'email': add the field to the identity class, "
        "or load the user's row in a database session of the app"
    )
    assert not hasattr(me, "email")
    assert getattr(me, "email", None) is None
    assert copy.deepcopy(me) == me


class WithMethods(msgspec.Struct, frozen=True, kw_only=True):
    id: int
    first: str
    role: Role = Role.USER

    @property
    def is_admin(self) -> bool:
        return self.role is Role.ADMIN

    def __getattr__(self, name: str) -> str:
        return name.upper()


def test_a_class_keeps_its_methods_and_its_own_getattr() -> None:
    codec = IdentityCodec(WithMethods)
    me = codec.of({"id": 1, "first": "Mia", "role": Role.ADMIN}.__getitem__)
    again = codec.decode(codec.names, codec.encode(me))
    assert again is not None
    assert again.is_admin
    assert again.email == "EMAIL"
    assert pickle.loads(pickle.dumps(me)) == me


@pytest.mark.parametrize(
    "options",
    [{"rename": "camel"}, {"tag": True}, {"tag": "me", "tag_field": "kind"}, {"omit_defaults": True}, {"gc": False}],
    ids=named,
)
def test_options_of_the_class_change_nothing(options: dict[str, Any]) -> None:
    codec = codec_of(("user_id", int), ("first_name", str, "Mia"), **options)
    for first in ("Mia", "Noa"):
        me = codec.of({"user_id": 1, "first_name": first}.__getitem__)
        assert codec.decode(codec.names, codec.encode(me)) == me
        assert msgspec.msgpack.decode(codec.encode(me)).keys() <= {"user_id", "first_name", "userId", "firstName"}


def test_an_identity_without_an_order_of_its_own_comparison() -> None:
    codec = codec_of(("id", int), ("email", str), eq=False)
    me = codec.of({"id": 1, "email": "a"}.__getitem__)
    again = decoded(codec, codec.names, codec.encode(me))
    assert (again.id, again.email) == (1, "a")


class Growing(msgspec.Struct, frozen=True, kw_only=True):
    email: str

    def __post_init__(self) -> None:
        msgspec.structs.force_setattr(self, "email", f"{self.email}!")


def test_a_class_that_changes_its_own_values_is_refused() -> None:
    with pytest.raises(ConfigError, match="the identity Growing cannot be stored: it does not come back the same"):
        IdentityCodec(Growing).of({"email": "mia@example.com"}.__getitem__)


# Evolution: workers of two versions share a store

SAME = (("id", int), ("email", str))
VALUES = {"id": 1, "email": "mia@example.com", "nick": "m", "name": "m", "role": Role.ADMIN, "level": Level.HIGH}


def written(codec: IdentityCodec[Any]) -> bytes:
    return codec.encode(codec.of(VALUES.__getitem__))


def test_a_field_that_was_added_is_rebuilt_and_never_its_default() -> None:
    old, new = codec_of(*SAME), codec_of(*SAME, ("role", Role, Role.USER))
    assert new.decode(old.names, written(old)) is None
    assert old.decode(new.names, written(new)) == old.of(VALUES.__getitem__)


def test_a_field_that_was_removed_is_no_reason_to_rebuild() -> None:
    old, new = codec_of(*SAME, ("role", Role)), codec_of(*SAME)
    assert new.decode(old.names, written(old)) == new.of(VALUES.__getitem__)


def test_fields_that_change_places_keep_their_values() -> None:
    old, new = codec_of(("email", str), ("nick", str)), codec_of(("nick", str), ("email", str))
    assert old.names == new.names
    found = decoded(new, old.names, written(old))
    assert (found.email, found.nick) == ("mia@example.com", "m")


def test_a_class_may_be_renamed() -> None:
    old, new = codec_of(*SAME), codec_of(*SAME, name="CurrentUser")
    assert new.decode(old.names, written(old)) == new.of(VALUES.__getitem__)


def test_a_field_that_was_renamed_is_rebuilt() -> None:
    old, new = codec_of(*SAME, ("nick", str)), codec_of(*SAME, ("name", str))
    assert new.decode(old.names, written(old)) is None


@pytest.mark.parametrize(
    ("before", "after", "value"),
    [(str | None, str, None), (int, UUID, 7), (str, Level, "x"), (Role, Literal["user"], Role.ADMIN), (int, str, 7)],
    ids=named,
)
def test_a_value_that_does_not_fit_the_type_of_today_is_rebuilt(before: Any, after: Any, value: object) -> None:
    old, new = codec_of(("id", int), ("value", before)), codec_of(("id", int), ("value", after))
    assert old.names == new.names
    stored = old.encode(old.of({"id": 1, "value": value}.__getitem__))
    assert new.decode(old.names, stored) is None


def test_a_member_that_an_enum_has_lost_is_rebuilt() -> None:
    class Smaller(enum.Enum):
        USER = "user"

    old, new = codec_of(("role", Role)), codec_of(("role", Smaller))
    assert new.decode(old.names, written(old)) is None


def test_a_type_of_the_apps_own_that_raises_is_rebuilt() -> None:
    old, new = codec_of(("value", str)), codec_of(("value", Strict))
    assert new.decode(old.names, old.encode(old.of({"value": "x"}.__getitem__))) is None


def served(codecs: list[IdentityCodec[Any]], rounds: int) -> list[int]:
    """How often each worker rebuilds the identity, if requests go to the workers in turn."""
    names, stored = codecs[0].names, written(codecs[0])
    rebuilt = [0] * len(codecs)
    for _ in range(rounds):
        for position, codec in enumerate(codecs):
            expected = codec.of(VALUES.__getitem__)
            found = codec.decode(names, stored)
            if found is None:
                rebuilt[position] += 1
                names, stored = codec.names, codec.merged(stored, expected)
                found = codec.decode(names, stored)
            assert found == expected
    return rebuilt


@pytest.mark.parametrize(
    ("old", "new", "rebuilt"),
    [
        (SAME, (*SAME, ("role", Role, Role.USER)), [0, 1]),
        ((*SAME, ("role", Role)), SAME, [0, 0]),
        (SAME, SAME[::-1], [0, 0]),
        ((*SAME, ("nick", str)), (*SAME, ("name", str)), [0, 1]),
        ((*SAME, ("role", Role)), (*SAME, ("level", Level)), [0, 1]),
        ((("id", int), ("nick", str)), (("id", int), ("name", str), ("email", str)), [0, 1]),
    ],
    ids=["added", "removed", "reordered", "renamed", "exchanged", "several"],
)
def test_workers_of_two_versions_rebuild_an_identity_once_each(old: Any, new: Any, rebuilt: list[int]) -> None:
    assert served([codec_of(*old), codec_of(*new)], rounds=6) == rebuilt
    assert max(served([codec_of(*new), codec_of(*old)], rounds=6)) <= 1


def test_workers_of_three_versions_rebuild_an_identity_once_each() -> None:
    versions = [codec_of(*SAME, (name, str)) for name in ("nick", "name")]
    assert served([codec_of(*SAME), *versions], rounds=4) == [0, 1, 1]


def test_a_merge_writes_over_old_values_and_keeps_foreign_fields() -> None:
    old, new = codec_of(*SAME, ("nick", str)), codec_of(*SAME)
    moved = new.of({"id": 1, "email": "noa@example.com"}.__getitem__)
    merged = decoded(old, new.names, new.merged(written(old), moved))
    assert (merged.email, merged.nick) == ("noa@example.com", "m")
    for damaged in (b"", b"\xc1", b"\x93\x01\x02\x03", b"\x81\x01\x02"):
        assert new.decode(new.names, new.merged(damaged, moved)) == moved


@given(st.binary(max_size=80))
def test_no_bytes_break_a_codec(stored: bytes) -> None:
    codec = codec_of(*SAME, ("role", Role | None), ("place", Place | None), ("key", AnyKey))
    for names in (codec.names, b"other!"):
        found = codec.decode(names, stored)
        assert found is None or isinstance(found, codec.cls)


@given(st.data())
def test_no_damage_to_a_map_breaks_a_codec(data: st.DataObject) -> None:
    codec = codec_of(*SAME, ("role", Role), ("level", Level))
    stored = bytearray(written(codec))
    position = data.draw(st.integers(0, len(stored) - 1))
    stored[position] ^= data.draw(st.integers(1, 255))
    found = codec.decode(codec.names, bytes(stored))
    assert found is None or isinstance(found, codec.cls)


def test_a_map_that_nests_for_ever_is_rebuilt() -> None:
    codec = codec_of(*SAME)
    for stored in (b"\x91" * 100_000, b"\x81\xa2id" * 50_000):
        assert codec.decode(codec.names, stored) is None
        assert codec.decode(b"other!", stored) is None


# The identity that powauth makes, and accounts


@pytest.mark.parametrize("key", [7, "user-7", str(MIA), MIA])
def test_the_identity_that_powauth_makes_has_the_key_as_it_is(key: Key) -> None:
    codec: IdentityCodec[Any] = IdentityCodec(default_identity("id", "email"))
    me = codec.of({"id": key, "email": "mia@example.com"}.__getitem__)
    again = codec.decode(codec.names, codec.encode(me))
    assert again == me
    assert (type(again.id), again.id) == (type(key), key)
    with pytest.raises(AttributeError, match="the identity Identity has no field 'name'"):
        _ = again.name


def test_a_key_may_be_the_user_id() -> None:
    assert default_identity("email", "email").__struct_fields__ == ("email",)
    assert default_identity("pk", "username").__struct_fields__ == ("pk", "username")


def test_what_a_key_field_cannot_hold_is_refused() -> None:
    codec: IdentityCodec[Any] = IdentityCodec(default_identity("id", "email"))
    wrong: list[object] = [1.5, None, b"0" * 16, b"x", ()]
    for key in wrong:
        with pytest.raises(ConfigError, match="'id'"):
            codec.of({"id": key, "email": None}.__getitem__)


def test_accounts_show_no_proof() -> None:
    async def write() -> bool:
        return True

    account = Account(key=7, identity=None, proof=b"secret proof", rehash=Rehash(b"secret proof", write))
    shown: list[Callable[[object], str]] = [str, repr, "{}".format]
    for show in shown:
        for each in (account, account.rehash):
            assert "secret" not in show(each)
    assert repr(account) == "<Account 7>"
    assert repr(Account(key=uuid4(), identity=None, proof=b"", active=False)).endswith(", not active>")


def test_a_change_of_an_identity_says_how_to_change_the_user() -> None:
    class Me(msgspec.Struct, frozen=True):
        id: int
        nick: str = ""

    me = IdentityCodec(Me).of({"id": 7, "nick": "ada"}.__getitem__)
    with pytest.raises(AttributeError, match=r"immutable.* call update_user, or set 'nick' of the user's row"):
        me.nick = "mia"  # type: ignore[misc]
    assert me.nick == "ada"
    assert msgspec.structs.replace(me, nick="mia").nick == "mia"
