"""Checks parameters from outside: which columns they may set, and which values are wrong."""

from collections.abc import Mapping, Sequence
from typing import Any

from powauth._options import wrong
from powauth.accounts._mapped import TIMES, MappedUsers
from powauth.accounts.identifiers import EmailIdentifier, Identifier, UsernameIdentifier
from powauth.accounts.passwords import PasswordPolicy
from powauth.accounts.spellings import TypedId, login_key, spellings_of
from powauth.errors import ConfigError

BLANK = "can't be blank"
INVALID = "is invalid"

Errors = dict[str, list[str]]


class UserForm:
    """Checks parameters without using the database.

    Args:
        users: the model.
        fields: attributes that users may set themselves, besides the user id and the password.
        identifier: normalises the user id. ``None`` chooses one by the name of the user id's attribute. For
            several user ids, a mapping by that name.
        policy: decides which passwords may be set.

    Attributes:
        own: the names of all attributes that users may set themselves.
        identifiers: the identifiers of the user ids, and of the fields called ``email`` and ``username``.

    Raises:
        ConfigError: if an option is wrong.
    """

    def __init__(
        self,
        users: MappedUsers[Any],
        fields: Sequence[str],
        identifier: Identifier | Mapping[str, Identifier] | None,
        policy: PasswordPolicy,
    ) -> None:
        self._users = users
        self._columns = users.columns
        self.identifiers = self._choose_identifiers(identifier, fields)
        self.own = (*users.user_ids, *(name for name in fields if name not in users.user_ids))
        self.policy = policy

    def _choose_identifiers(
        self, identifier: Identifier | Mapping[str, Identifier] | None, fields: Sequence[str]
    ) -> dict[str, Identifier]:
        users = self._users
        known: dict[str, Identifier] = {"email": EmailIdentifier(), "username": UsernameIdentifier()}
        given = _by_name(identifier, users.user_ids)
        chosen = {name: given.get(name) or known.get(name) for name in users.user_ids}
        for name, each in chosen.items():
            if each is None:
                raise ConfigError(f"say how {name!r} is normalised: identifier=UsernameIdentifier(), or your own")
            if not callable(getattr(each, "normalize", None)):
                raise ConfigError("identifier must have a method normalize(value) -> str, as EmailIdentifier() has")
        if isinstance(fields, str):
            raise wrong("fields", f"a sequence of names, such as [{fields!r}]", fields)
        for name in fields:
            if name not in self._columns:
                raise ConfigError(f"fields names {name!r}, which is no column of {users.model.__name__}")
            if name in {users.key, users.password_hash, "is_active", *TIMES}:
                raise ConfigError(f"fields names {name!r}, which no user may set")
            if name in {"password", "current_password"} or self._columns[name].type is None:
                raise ConfigError(f"fields names {name!r}, whose values cannot come from a form or from JSON")
        found = {name: each for name, each in known.items() if name in fields}
        return found | {name: each for name, each in chosen.items() if each is not None}

    def typed_in(self, params: Mapping[str, object]) -> object:
        """Return the user id with which ``params`` sign in: the first that is not blank."""
        given = (params.get(name) for name in self._users.user_ids)
        return next((value for value in given if not is_blank(value)), None)

    def login_key(self, value: object) -> str | None:
        """Return one form of a typed user id; see `powauth.accounts.spellings.login_key`.

        With several identifiers, the first whose format rules accept the value decides.
        """
        keys = [login_key(self.identifiers[name], value) for name in self._users.user_ids]
        for name, key in zip(self._users.user_ids, keys, strict=True):
            if key is not None and self.normalized(name, key) == key:
                return key
        return keys[0]

    def typed_id(self, value: object) -> TypedId | None:
        """Return the values that a typed user id may mean; ``None`` if no user can have it."""
        found = {name: spellings_of(self.identifiers[name], value) for name in self._users.user_ids}
        return TypedId(found) if all(found.values()) else None

    def look_ups(self, clauses: Mapping[str, object]) -> list[Mapping[str, object]]:
        """Return the values to look for, by attribute name: with user ids in normalised form, and as they are given."""
        ids = [name for name in clauses if name in self._users.user_ids]
        given = {name: clauses[name] for name in ids if login_key(self.identifiers[name], clauses[name]) is not None}
        found: list[Mapping[str, object]] = []
        try:
            rest = {name: self.cleaned(name, clauses[name], trusted=True) for name in clauses if name not in ids}
            if len(given) == len(ids):
                found.append(rest | {name: self.normalized(name, str(value)) or value for name, value in given.items()})
                if given:
                    found.append(rest | given)
        except ValueError:
            return []
        return found if len(found) < 2 or found[0] != found[1] else found[:1]  # noqa: PLR2004

    def unchanged(self, params: Mapping[str, object], stored: Mapping[str, object]) -> Mapping[str, object]:
        """Return the params without user ids that are equal to the stored ones.

        A form sends all fields. The format rules do not apply to an old user id that stays as it is.
        """
        same = {name for name in stored if name in self._users.user_ids and _is_text(params.get(name), stored[name])}
        return {name: value for name, value in params.items() if name not in same} if same else params

    def normalized(self, name: str, value: str) -> str | None:
        """Return the form of a user id that a registration would store; ``None`` if it would refuse the value."""
        try:
            return self.identifiers[name].normalize(value)
        except ValueError:
            return None

    def cleaned(self, name: str, value: object, *, trusted: bool = False) -> Any:
        """Return a value in the type of its column. A user id is also normalised.

        Raises:
            ValueError: if the value does not fit. The message is for a form.
        """
        if value is None and trusted and self._columns[name].nullable:
            return None
        if name in self.identifiers:
            value = self.identifiers[name].normalize(value)
        return self._columns[name].check(value, trusted=trusted)

    def check(
        self, params: Mapping[str, object], *, changing: bool, trusted: bool = False, proven: bool = False
    ) -> tuple[dict[str, Any], Errors]:
        """Return the valid values, with the password as given, and the errors by field.

        Args:
            params: the parameters: from outside, or with ``trusted`` from the app's own code.
            changing: whether they change a user. Otherwise they register one.
            trusted: whether they may set any column except the key.
            proven: whether a change needs no current password. It then sets a first one.
        """
        values: dict[str, Any] = {}
        errors: Errors = {}
        allowed = [name for name in self._columns if name != self._users.key] if trusted else self.own
        for name in allowed:
            if name not in params:
                if not changing and (name == self._users.user_id or self._columns[name].required):
                    errors[name] = [BLANK]
                continue
            try:
                values[name] = self.cleaned(name, params[name], trusted=trusted)
            except ValueError as error:
                errors[name] = [str(error)]
        if trusted:
            errors |= {str(name): ["cannot be set"] for name in params if name not in allowed and name != "password"}
        elif changing and not proven and is_blank(params.get("current_password")):
            errors["current_password"] = [BLANK]
        password = params.get("password")
        if (
            not changing or proven or ("password" in params and password != "")
        ):  # an empty field of a form changes nothing
            values["password"] = password
        return values, errors

    def password_errors(self, values: Mapping[str, Any], user_id: str | None, *, offline: bool = False) -> Errors:
        """Return the errors of the password in ``values``.

        Args:
            values: the values that `check` returned. A user id among them replaces ``user_id``.
            user_id: the current user id of the user.
            offline: whether to skip the policy's hook for breached passwords.
        """
        if "password" not in values:
            return {}
        password = values["password"]
        if is_blank(password):
            return {"password": [BLANK]}
        messages = self.policy.check(password, values.get(self._users.user_id) or user_id, offline=offline)
        return {"password": messages} if messages else {}


def _is_text(given: object, stored: object) -> bool:
    return isinstance(given, str) and given == stored


def _by_name(identifier: object, user_ids: Sequence[str]) -> Mapping[str, Identifier]:
    """Return the given identifiers by the name of their attribute."""
    if identifier is None:
        return {}
    if isinstance(identifier, Mapping):
        if unknown := [name for name in identifier if name not in user_ids]:
            raise ConfigError(f"identifier names {unknown[0]!r}, which user_id_field does not name")
        return identifier
    if len(user_ids) > 1:
        raise ConfigError(f"identifier must be a mapping for several user ids, such as {{{user_ids[0]!r}: ...}}")
    return {user_ids[0]: identifier}  # type: ignore[dict-item] # the caller checks its method


def lacks_password(stored: str | None) -> bool:
    """Return whether a user has no password. Django marks such users with a "!"."""
    return not stored or stored.startswith("!")


def is_blank(value: object) -> bool:
    """Return whether a field of a form is empty or missing."""
    return value is None or value == ""
