"""Identities as JSON, and the schema of it."""

import ipaddress
import json
from collections.abc import Iterator
from datetime import date
from decimal import Decimal
from typing import Any
from uuid import UUID

import msgspec
import pytest

from powauth.accounts.as_json import as_json, from_json, json_schema
from powauth.accounts.identity import default_identity


class Name(str):
    """A type of the app's own."""

    def __str__(self) -> str:
        return "shown otherwise"


class Number(int): ...


class Amount:
    """A type of the app's own that is neither."""


class Part(msgspec.Struct, frozen=True, tag=True):
    name: Name
    parts: "tuple[Part, ...]" = ()


class Other(msgspec.Struct, frozen=True, tag=True):
    number: Number


class Me(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Somebody."""

    user_id: UUID
    part: Part | Other | None = None
    seen_at: date = date(2026, 11, 28)
    network: ipaddress.IPv6Network = ipaddress.IPv6Network("2001:db8::/32")
    price: Decimal = Decimal("1.50")


def test_all_fields_are_there_in_jsons_own_types() -> None:
    me = Me(user_id=UUID(int=7), part=Part(Name("x"), (Part(Name("y")),)))
    assert json.loads(json.dumps(as_json(me))) == {
        "userId": str(UUID(int=7)),
        "part": {"type": "Part", "name": "x", "parts": [{"type": "Part", "name": "y", "parts": []}]},
        "seenAt": "2026-11-28",
        "network": "2001:db8::/32",
        "price": "1.50",
    }
    assert from_json(as_json(me), Me) == me


def members(schema: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """All members of a union. Releases of msgspec differ in how they nest them."""
    for each in schema["anyOf"]:
        yield from members(each) if "anyOf" in each else [each]


def test_the_schema_is_complete_and_refers_to_nothing() -> None:
    shown = json_schema(Me)
    assert (shown["title"], shown["description"]) == ("Me", "Somebody.")
    assert shown["required"] == ["userId", "part", "seenAt", "network", "price"]
    assert "$ref" not in str(shown)
    assert "discriminator" not in str(shown)
    part, other = (each for each in members(shown["properties"]["part"]) if each.get("type") == "object")
    assert part["properties"]["name"] == {"type": "string"}
    assert part["properties"]["parts"]["items"] == {}, "a part within itself"
    assert other["properties"]["number"] == {"type": "integer"}
    assert shown["properties"]["network"] == {"type": "string"}


def test_a_class_that_leaves_out_defaults_need_not_have_them() -> None:
    class Short(msgspec.Struct, frozen=True, omit_defaults=True):
        id: int
        name: str = ""

    assert as_json(Short(1)) == {"id": 1}
    assert json_schema(Short)["required"] == ["id"]


def test_an_unknown_type_may_be_anything() -> None:
    shown = json_schema(msgspec.defstruct("Odd", [("amount", Amount)]))
    assert shown["properties"] == {"amount": {"title": "Amount"}}


@pytest.mark.parametrize("key", [7, "k7", UUID(int=7)])
def test_a_key_of_whatever_type_is_read_again(key: Any) -> None:
    cls = default_identity("id", "email")
    assert json_schema(cls)["properties"]["id"] == {"anyOf": [{"type": "integer"}, {"type": "string"}]}
    identity = cls(id=key, email="a@example.org")
    assert from_json(identity, cls) == identity


def test_what_lacks_a_field_or_has_another_type_is_refused() -> None:
    for wrong in ({}, {"userId": "nothing"}, 7):
        with pytest.raises(ValueError, match=r"Expected|required|Invalid"):
            from_json(wrong, Me)
