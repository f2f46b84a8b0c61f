"""Structs and bodies for pydantic, and so for FastAPI's OpenAPI document."""

from collections.abc import Mapping
from typing import Any, TypeVar

from powauth._extras import needs
from powauth.accounts.as_json import JSONObject, as_json, from_json, json_schema
from powauth.errors import ConfigError

with needs("fastapi", "the FastAPI integration", "pydantic", "pydantic_core"):
    from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
    from pydantic_core import CoreSchema, core_schema

T = TypeVar("T")

_CORE_SCHEMA, _JSON_SCHEMA = "__get_pydantic_core_schema__", "__get_pydantic_json_schema__"
"""The methods that pydantic calls on a class to learn how to read and write it, and how to show it."""


def response_model(identity: type[T]) -> type[T]:
    """Let FastAPI return objects of an identity class: ``async def me(user: CurrentUser) -> Me: return user``.

    The response is the identity as JSON, and the OpenAPI document has its schema. A handler with
    ``response_model=Me`` may also return a row or a dictionary: its response has the identity's fields and no others.

    `Auth` calls this for its own users' identities. Call it yourself, as a decorator of the class, if routes that
    return identities are declared before there is an `Auth`.

    The class stays a `msgspec.Struct`. It gets the two methods that pydantic calls on a class, unless it has them.
    """
    if not hasattr(identity, _CORE_SCHEMA):
        setattr(identity, _CORE_SCHEMA, classmethod(_core_schema))
        setattr(identity, _JSON_SCHEMA, classmethod(_json_schema))
    return identity


def _core_schema(cls: type[Any], source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
    def read(value: object) -> object:
        return value if isinstance(value, cls) else from_json(value, cls)

    written = core_schema.plain_serializer_function_ser_schema(as_json)
    return core_schema.no_info_plain_validator_function(read, ref=_reference(cls.__name__, cls), serialization=written)


def _json_schema(cls: type[Any], core: CoreSchema, handler: GetJsonSchemaHandler) -> JSONObject:
    return json_schema(cls)


def _reference(name: str, shown: object) -> str:
    """Return pydantic's reference of a schema. The OpenAPI document lists the schema under the name."""
    return f"{name}:{id(shown)}"


class BodySchema:
    """Annotates a dictionary from a request's body: the OpenAPI document shows its fields.

    The fields are shown and not checked. The users context checks them, and reports errors in powauth's own form.

    Args:
        name: the name of the schema.
        required: names of the fields that must be there.
        optional: the other fields, each with its schema.
    """

    def __init__(self, name: str, required: Mapping[str, JSONObject], optional: Mapping[str, JSONObject]) -> None:
        self.name = name
        self.schema: JSONObject = {
            "title": name,
            "type": "object",
            "properties": {**optional, **required},
            "required": [*required],
        }

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Take any JSON object."""
        return core_schema.dict_schema(core_schema.str_schema(), ref=_reference(self.name, self))

    def __get_pydantic_json_schema__(self, core: CoreSchema, handler: GetJsonSchemaHandler) -> JSONObject:
        """Show the fields, by a reference to the schema."""
        reference = handler(core)
        listed = handler.resolve_ref_schema(reference)
        listed.clear()
        listed.update(self.schema)
        return reference


class Uncalled:
    """Annotates an argument of a method that *returns* a dependency, so that FastAPI cannot take the method for one.

    FastAPI would take the arguments of ``Depends(session.access)`` for parameters of the query. The method then returns
    the guard to FastAPI and nobody calls the guard, so everybody would get in.
    """

    def __init__(self, method: str) -> None:
        self._method = method

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Refuse the route when it is declared.

        Raises:
            ConfigError: always.
        """
        raise ConfigError(
            f"{self._method}(…) returns the dependency: write Depends(session.{self._method}(…)), and not "
            f"Depends(session.{self._method}), which would refuse nobody"
        )
