"""Identities, the part of a user that a session record stores, and the keys of users.

An identity is an instance of any frozen `msgspec.Struct` that the app declares. The annotations of the class define the
types. Requests share identities, so they must be immutable, and so must the values of their fields.

    class Me(msgspec.Struct, frozen=True, kw_only=True):
        id: UUID
        email: str
        role: Role = Role.USER
"""

import hashlib
import ipaddress
from abc import ABC
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar
from uuid import UUID

import msgspec

from powauth._options import wrong, wrong_type
from powauth.accounts._immutable import mutable_fields
from powauth.errors import ConfigError
from powauth.sessions.record import StoredKey, key_text

__all__ = [
    "I",
    "IdentityCodec",
    "Key",
    "StoredKey",
    "default_identity",
    "key_text",
    "loaded_key",
    "stored_key",
]

I = TypeVar("I")  # noqa: E741 - the identity

Key = int | str | UUID
"""The primary key of a user in the app's table. It never changes and is never an e-mail address."""

MAX_KEY_BYTES = 255
"""Maximum length of a text key, in bytes of UTF-8."""

NAMES_BYTES = 6
"""Length of the hash of an identity's field names, in bytes."""

_TEXTUAL = (ipaddress.IPv4Address, ipaddress.IPv6Address, ipaddress.IPv4Network, ipaddress.IPv6Network)


def stored_key(key: Key) -> StoredKey:
    """Return a key in the form that a record stores. Its type comes from the value, not from the column's declaration.

    >>> stored_key(7), len(stored_key(UUID(int=1)))
    (7, 16)

    Raises:
        ConfigError: if the value is no key.
    """
    if isinstance(key, UUID):
        return key.bytes
    if isinstance(key, bool) or not isinstance(key, int | str):
        raise wrong_type("a user's key", "an int, a str or a UUID", key)
    if isinstance(key, str):
        plain = str.__str__(key)  # an app's own subclass may override `__str__`
        try:
            fits = 0 < len(plain.encode()) <= MAX_KEY_BYTES
        except UnicodeEncodeError:
            fits = False
        if not fits:
            raise ConfigError(f"a user's key must be 1 to {MAX_KEY_BYTES} bytes of UTF-8")
        return plain
    if not -(2**63) <= key < 2**64:
        raise ConfigError("a user's key must be an int of at most 64 bits")
    return int(key)


def loaded_key(key: StoredKey) -> Key:
    """Return the key that `stored_key` stored.

    >>> loaded_key(stored_key(UUID(int=1)))
    UUID('00000000-0000-0000-0000-000000000001')
    """
    return UUID(bytes=key) if isinstance(key, bytes) else key


class AnyKey(ABC):  # noqa: B024 - it is a name for existing types
    """The annotation of an identity's field that holds a `Key` of any type.

    Its subclasses are `int`, `str` and `UUID`. The type of a key comes from its value, because a column's declared type
    does not reveal it: a TypeDecorator over CHAR may return UUIDs.
    """


AnyKey.register(int)
AnyKey.register(str)
AnyKey.register(UUID)


def default_identity(key_name: str, *user_id_names: str) -> type[Any]:
    """Make the identity class of an app that declares none: the user's key and the user ids."""
    fields: dict[str, Any] = {key_name: AnyKey}
    for name in user_id_names:
        fields.setdefault(name, str | None)
    return msgspec.defstruct("Identity", list(fields.items()), frozen=True, kw_only=True)


def _missing_field(identity: object, name: str) -> object:
    """Raise an error that says how to read a field that the identity does not have."""
    raise AttributeError(
        f"the identity {type(identity).__name__} has no field {name!r}: add the field to the identity class, "
        "or load the user's row in a database session of the app"
    )


def _unchangeable(identity: object, name: str, value: object) -> None:
    """Raise an error that says how to change a user, of whom the identity is a copy."""
    raise AttributeError(
        f"the identity {type(identity).__name__} is immutable, because requests share it: call update_user, or "
        f"set {name!r} of the user's row in a database session of the app. With Flask, current_user is the row if "
        "PowAuth has session=db.session"
    )


class IdentityCodec(Generic[I]):
    """Turns identities into the map that a record stores, and back.

    Args:
        cls: the identity class.

    Attributes:
        field_names: the names of the attributes, in the order of their declaration.
        names: a hash of the field names. It shows whether a map was written with the same fields.

    Raises:
        ConfigError: if the class is no frozen `msgspec.Struct`, its fields cannot be stored, or their values are
            mutable.
    """

    def __init__(self, cls: type[I]) -> None:
        if not (isinstance(cls, type) and issubclass(cls, msgspec.Struct)):
            raise wrong("identity", "a frozen struct, such as `class Me(msgspec.Struct, frozen=True)`", cls)
        options = cls.__struct_config__
        if not options.frozen:
            raise ConfigError(f"the identity {cls.__name__} must have frozen=True: requests share identities")
        for option in ("array_like", "forbid_unknown_fields"):
            if getattr(options, option):
                raise ConfigError(
                    f"the identity {cls.__name__} must be declared without {option}: deployments add and remove fields"
                )
        self.cls = cls
        try:
            self._fields = msgspec.structs.fields(cls)
            self._decoder = msgspec.msgpack.Decoder(cls, dec_hook=decode_other)
            mutable = mutable_fields(cls)
        except Exception as error:  # msgspec and unresolvable annotations raise several kinds
            raise ConfigError(f"the identity {cls.__name__} has a field that cannot be stored: {error}") from error
        if mutable:
            raise ConfigError(
                f"the identity {cls.__name__} could be changed through {names_of(mutable)}, and requests share "
                "identities: annotate the field with the type of its values, with tuple or frozenset instead of list "
                "or set, or leave it out"
            )
        self.field_names = tuple(field.name for field in self._fields)
        self._map_decoder = msgspec.msgpack.Decoder(dict[str, msgspec.Raw])
        self._wanted = frozenset(field.encode_name for field in self._fields)
        text = " ".join(sorted(self._wanted))
        self.names = hashlib.blake2b(text.encode(), digest_size=NAMES_BYTES).digest()
        self._explain_mistakes()

    def _explain_mistakes(self) -> None:
        """Make the errors for a missing field and for a change say what to do."""
        if not hasattr(self.cls, "__getattr__"):
            setattr(self.cls, "__getattr__", _missing_field)  # noqa: B010 - type checkers must still refuse such reads
        if self.cls.__setattr__ is msgspec.Struct.__setattr__:
            setattr(self.cls, "__setattr__", _unchangeable)  # noqa: B010 - type checkers must still refuse such writes

    def of(self, value_of: Callable[[str], object]) -> I:
        """Make an identity from values by attribute name. It equals the identity that a record would return.

        Raises:
            ConfigError: if a value does not match its annotation. The message names the field.
        """
        made = self.cls(**{field.name: _plain_uuid(value_of(field.name)) for field in self._fields})
        return self._stored(made)[1]

    def encode(self, identity: I) -> bytes:
        """Return the identity as a MessagePack map of its fields.

        Raises:
            ConfigError: if `decode` would not return the same identity. The message names the field.
        """
        return self._stored(identity)[0]

    def _stored(self, identity: I) -> tuple[bytes, I]:
        """Return the map of an identity, and the identity decoded from the map. Both identities must be equal."""
        if type(identity) is not self.cls:
            raise wrong_type("the identity", f"a {self.cls.__name__}", identity)
        values = {field.encode_name: getattr(identity, field.name) for field in self._fields}
        try:
            stored = _ENCODER.encode(values)
            found = self._decoder.decode(stored)
        except Exception as error:  # an app's types may raise anything
            raise self._refusal(identity, str(error)) from error
        if not all(_is_same(getattr(found, name), getattr(identity, name)) for name in self.field_names):
            raise self._refusal(identity, "it does not come back the same")
        return stored, found

    def _refusal(self, identity: I, why: str) -> ConfigError:
        """Return the error for an identity that cannot be stored. It names the field."""
        for field in self._fields:
            value = getattr(identity, field.name)
            try:
                found = msgspec.msgpack.decode(_ENCODER.encode(value), type=field.type, dec_hook=decode_other)
            except Exception as error:
                return self._unstorable(field.name, f"{type(value).__name__}: {error}")
            if type(found) is not type(value):
                return self._unstorable(field.name, f"{type(value).__name__} comes back as {type(found).__name__}")
            if found != value:
                return self._unstorable(field.name, f"the {type(value).__name__} comes back as another one")
        return ConfigError(f"the identity {self.cls.__name__} cannot be stored: {why}")

    def _unstorable(self, name: str, why: str) -> ConfigError:
        return ConfigError(
            f"the identity {self.cls.__name__} cannot store its field {name!r} as annotated ({why}); "
            "annotate it with the type of its values, or leave it out"
        )

    def decode(self, names: bytes, stored: bytes) -> I | None:
        """Return the identity in a map; ``None`` if it must be rebuilt.

        A map that was written with other fields is accepted if it has all fields of this class. A default never
        replaces a missing field: it could be wrong for a user who signed in before the field was added.
        """
        try:
            if names != self.names and not self._wanted <= self._map_decoder.decode(stored).keys():
                return None
            return self._decoder.decode(stored)
        except Exception:  # an app's types may raise anything for a value that an older version wrote
            return None

    def merged(self, stored: bytes, identity: I) -> bytes:
        """Return the map with the identity's fields merged into it, so that workers of two versions can share it."""
        try:
            fields: Mapping[str, msgspec.Raw] = self._map_decoder.decode(stored)
        except (msgspec.MsgspecError, ValueError, RecursionError):
            fields = {}
        own = self._map_decoder.decode(self.encode(identity))
        return msgspec.msgpack.encode({**fields, **own})


def _is_same(found: object, value: object) -> bool:
    return type(found) is type(value) and found == value


def _plain_uuid(value: object) -> object:
    """Convert a driver's own UUID type to `UUID`."""
    return UUID(int=value.int) if isinstance(value, UUID) and type(value) is not UUID else value


def encode_other(value: object) -> object:
    """Convert a value that msgspec cannot encode to one that it can."""
    if isinstance(value, _TEXTUAL):
        return str(value)
    if isinstance(value, str):  # an app's own subclass, which may override `__str__`
        return str.__str__(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        return float(value)
    raise NotImplementedError(f"values of {type(value).__name__} cannot be stored")


def decode_other(wanted: type, value: Any) -> Any:
    """Make a value of a type that msgspec cannot decode."""
    return loaded_key(value) if wanted is AnyKey else wanted(value)


_ENCODER = msgspec.msgpack.Encoder(enc_hook=encode_other, uuid_format="bytes")


def names_of(values: Iterable[str]) -> str:
    """Return names as a list for a sentence.

    >>> names_of(["a", "b"])
    "'a', 'b'"
    """
    return ", ".join(repr(value) for value in values)
