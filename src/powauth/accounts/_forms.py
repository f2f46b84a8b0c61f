"""Checks parameters from outside: which columns they may set, and which values are wrong."""

from collections.abc import Mapping, Sequence
from typing import Any

from powauth.accounts._mapped import TIMES, MappedUsers
from powauth.accounts.identifiers import EmailIdentifier, Identifier, UsernameIdentifier
from powauth.accounts.passwords import PasswordPolicy
from powauth.errors import ConfigError

BLANK = "can't be blank"
INVALID = "is invalid"

Errors = dict[str, list[str]]


class UserForm:
    """Checks parameters without using the database.

    Args:
        users: the model.
        fields: attributes that users may set themselves, besides the user id and the password.
        identifier: normalises the user id. ``None`` chooses one by the name of the user id's attribute.
        policy: decides which passwords may be set.

    Attributes:
        own: the names of all attributes that users may set themselves.

    Raises:
        ConfigError: if an option is wrong.
    """

    def __init__(
        self, users: MappedUsers[Any], fields: Sequence[str], identifier: Identifier | None, policy: PasswordPolicy
    ) -> None:
        self._users = users
        self._columns = users.columns
        self._identifiers = self._choose_identifiers(identifier, fields)
        self.own = (users.user_id, *fields)
        self.policy = policy

    def _choose_identifiers(self, identifier: Identifier | None, fields: Sequence[str]) -> dict[str, Identifier]:
        users = self._users
        known: dict[str, Identifier] = {"email": EmailIdentifier(), "username": UsernameIdentifier()}
        chosen = identifier or known.get(users.user_id)
        if chosen is None:
            raise ConfigError(f"say how {users.user_id!r} is normalised: identifier=UsernameIdentifier(), or your own")
        if not callable(getattr(chosen, "normalize", None)):
            raise ConfigError("identifier must have a method normalize(value) -> str, as EmailIdentifier() has")
        if isinstance(fields, str):
            raise ConfigError(f"fields must be a sequence of names, such as [{fields!r}]")
        for name in fields:
            if name not in self._columns:
                raise ConfigError(f"fields names {name!r}, which is no column of {users.model.__name__}")
            if name in {users.key, users.password_hash, "is_active", *TIMES}:
                raise ConfigError(f"fields names {name!r}, which no user may set")
            if name in {"password", "current_password"} or self._columns[name].type is None:
                raise ConfigError(f"fields names {name!r}, whose values cannot come from a form or from JSON")
        return {name: each for name, each in known.items() if name in fields} | {users.user_id: chosen}

    def login_key(self, value: object) -> str | None:
        """Return the normalised user id; ``None`` if the value is no user id."""
        try:
            return self._identifiers[self._users.user_id].normalize(value)
        except ValueError:
            return None

    def cleaned(self, name: str, value: object, *, trusted: bool = False) -> Any:
        """Return a value in the type of its column. A user id is also normalised.

        Raises:
            ValueError: if the value does not fit. The message is for a form.
        """
        if value is None and trusted and self._columns[name].nullable:
            return None
        if name in self._identifiers:
            value = self._identifiers[name].normalize(value)
        return self._columns[name].check(value, trusted=trusted)

    def check(
        self, params: Mapping[str, object], *, changing: bool, trusted: bool = False
    ) -> tuple[dict[str, Any], Errors]:
        """Return the valid values, with the password as given, and the errors by field.

        Args:
            params: the parameters: from outside, or with ``trusted`` from the app's own code.
            changing: whether they change a user. Otherwise they register one.
            trusted: whether they may set any column except the key.
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
        elif changing and is_blank(params.get("current_password")):
            errors["current_password"] = [BLANK]
        password = params.get("password")
        if not changing or ("password" in params and password != ""):  # an empty field of a form changes nothing
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


def is_blank(value: object) -> bool:
    """Return whether a field of a form is empty or missing."""
    return value is None or value == ""
