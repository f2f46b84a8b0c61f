"""Finds the fields of a struct whose values can be changed in place."""

from typing import Any

from msgspec import inspect

_MUTABLE = (
    inspect.AnyType,
    inspect.ByteArrayType,
    inspect.DictType,
    inspect.ListType,
    inspect.SetType,
    inspect.TypedDictType,
)
_WITH_ITEMS = (inspect.FrozenSetType, inspect.VarTupleType)
_WITH_FIELDS = (inspect.StructType, inspect.DataclassType, inspect.NamedTupleType)


def mutable_fields(struct: type[Any]) -> list[str]:
    """Return the names of a struct's fields through which its instances can be changed.

    ``Any`` and ``object`` count, because a record returns lists and dicts for them. An app's own types are the app's
    responsibility.
    """
    described = inspect.type_info(struct)
    assert isinstance(described, inspect.StructType)  # noqa: S101 - the caller has checked
    return [field.name for field in described.fields if _is_mutable(field.type, [described])]


def _is_mutable(described: inspect.Type, seen: list[inspect.Type]) -> bool:
    if isinstance(described, _MUTABLE) or (isinstance(described, inspect.CustomType) and described.cls is object):
        return True
    if isinstance(described, _WITH_FIELDS):
        if any(described is each for each in seen):  # a struct may contain itself
            return False
        seen.append(described)
        if not _is_frozen(described):
            return True
    return any(_is_mutable(each, seen) for each in _parts(described))


def _parts(described: inspect.Type) -> list[inspect.Type]:
    if isinstance(described, inspect.UnionType):
        return list(described.types)
    if isinstance(described, inspect.TupleType):
        return list(described.item_types)
    if isinstance(described, _WITH_ITEMS):
        return [described.item_type]
    if isinstance(described, _WITH_FIELDS):
        return [field.type for field in described.fields]
    return [described.type] if isinstance(described, inspect.Metadata) else []


def _is_frozen(described: inspect.Type) -> bool:
    if isinstance(described, inspect.StructType):
        return described.cls.__struct_config__.frozen
    if isinstance(described, inspect.DataclassType):
        return bool(getattr(getattr(described.cls, "__dataclass_params__", None), "frozen", False))
    return True
