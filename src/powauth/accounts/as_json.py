"""Identities as JSON, for handlers that return the current user, and their JSON Schema."""

import ipaddress
from typing import Any, TypeVar

import msgspec

from powauth.accounts.identity import AnyKey, decode_other, encode_other

T = TypeVar("T")

JSONObject = dict[str, Any]

_SCHEMAS: dict[type, JSONObject] = {
    AnyKey: {"anyOf": [{"type": "integer"}, {"type": "string"}]},
    ipaddress.IPv4Address: {"type": "string", "format": "ipv4"},
    ipaddress.IPv6Address: {"type": "string", "format": "ipv6"},
    ipaddress.IPv4Network: {"type": "string"},
    ipaddress.IPv6Network: {"type": "string"},
}
"""The schemas of types that msgspec does not know."""


def as_json(identity: object) -> JSONObject:
    """Return an identity as a dictionary for a JSON encoder: ``JSONResponse(as_json(request.user))``.

    >>> class Me(msgspec.Struct, frozen=True):
    ...     id: int
    ...     address: ipaddress.IPv4Address
    >>> as_json(Me(7, ipaddress.IPv4Address("192.0.2.1")))
    {'id': 7, 'address': '192.0.2.1'}
    """
    made: JSONObject = msgspec.to_builtins(identity, enc_hook=encode_other)
    return made


def from_json(value: object, cls: type[T]) -> T:
    """Make an identity from a dictionary, or from any object that has the identity's fields as attributes.

    Raises:
        ValueError: if a field is missing or has another type.
    """
    try:
        return msgspec.convert(value, cls, from_attributes=True, dec_hook=decode_other)
    except msgspec.ValidationError as error:  # a ValueError only in newer releases
        raise ValueError(str(error)) from error


def json_schema(cls: type[Any]) -> JSONObject:
    """Return the JSON Schema (2020-12) of the result of `as_json`. It contains no references."""
    (schema,), parts = msgspec.json.schema_components(
        (_without_defaults(cls),), schema_hook=_schema_of_other, ref_template="{name}"
    )
    inlined: JSONObject = _inlined(schema, parts, ())
    return inlined


def _without_defaults(cls: type[Any]) -> type[Any]:
    """Return a class with the same JSON form and no defaults. A response has every field, so none is optional."""
    options, fields = cls.__struct_config__, msgspec.structs.fields(cls)
    if options.omit_defaults:
        return cls
    return msgspec.defstruct(
        cls.__name__,
        [(field.name, field.type) for field in fields],
        rename={field.name: field.encode_name for field in fields},
        tag=options.tag,
        tag_field=options.tag_field,
        namespace={"__doc__": cls.__doc__},
    )


def _schema_of_other(cls: type[Any]) -> JSONObject:
    if cls in _SCHEMAS:
        return _SCHEMAS[cls]
    if issubclass(cls, str):
        return {"type": "string"}
    return {"type": "integer"} if issubclass(cls, int) else {"title": cls.__name__}


def _inlined(schema: Any, parts: dict[str, Any], within: tuple[str, ...]) -> Any:
    """Replace the references in a schema with the parts they name. A recursive reference becomes ``{}`` (anything)."""
    if isinstance(schema, list):
        return [_inlined(each, parts, within) for each in schema]
    if not isinstance(schema, dict):
        return schema
    name = schema.get("$ref")
    if isinstance(name, str):
        return {} if name in within else _inlined(parts[name], parts, (*within, name))
    # A discriminator refers to the members of a union by name, so leave it out.
    return {key: _inlined(each, parts, within) for key, each in schema.items() if key != "discriminator"}
