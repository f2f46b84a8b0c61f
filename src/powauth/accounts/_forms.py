"""Checks of parameters for a table of users: which columns they may set, and which values are wrong."""

from collections.abc import Mapping, Sequence
from datetime import date
from decimal import Decimal
from typing import Any

from powauth._options import wrong
from powauth.accounts._mapped import TIMES, MappedUsers
from powauth.accounts.fields import FieldKind, FormField
from powauth.accounts.forms import CredentialsForm
from powauth.accounts.identifiers import EmailIdentifier, Identifier, UsernameIdentifier
from powauth.accounts.policy import PasswordPolicy
from powauth.accounts.spellings import TypedId, login_key, spellings_of
from powauth.errors import ConfigError

_KINDS: Mapping[type, FieldKind] = {bool: "flag", int: "integer", float: "number", Decimal: "number", date: "date"}


class UserForm(CredentialsForm):
    """A form of credentials and of further columns that users may set.

    Args:
        users: the model.
        fields: attributes that users may set themselves, besides the user id and the password.
        identifier: normalises the user id. ``None`` chooses one by the name of the user id's attribute. For
            several user ids, a mapping by that name.
        policy: decides which passwords may be set.

    Attributes:
        identifiers: the identifiers of the user ids, and of the fields called ``email`` and ``username``.

    Raises:
        ConfigError: if an option is wrong.
    """

    def __init__(
        self,
        users: MappedUsers[Any],
        fields: Sequence[str],
        identifier: Identifier | Mapping[str, Identifier] | None,
        policy: PasswordPolicy | None,
    ) -> None:
        self._users = users
        self._columns = users.columns
        super().__init__(self._choose_identifiers(identifier, fields), policy)
        self.user_ids = users.user_ids
        self.own = (*users.user_ids, *(name for name in fields if name not in users.user_ids))

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
            if name in {users.key, users.password_hash, "is_active", *users.restricting, *TIMES}:
                raise ConfigError(f"fields names {name!r}, which no user may set")
            if name in {"password", "current_password"} or self._columns[name].type is None:
                raise ConfigError(f"fields names {name!r}, whose values cannot come from a form or from JSON")
        found = {name: each for name, each in known.items() if name in fields}
        return found | {name: each for name, each in chosen.items() if each is not None}

    def registration(self) -> list[FormField]:
        """Return the fields of a form to register: the user ids, and the ``fields`` that a new row needs.

        Raises:
            ConfigError: if a new row needs a value that no registration gives.
        """
        users = self._users
        given = {*self.own, users.key, users.password_hash, *users.times}
        for name, column in self._columns.items():
            if column.required and name not in given:
                raise ConfigError(
                    f"{users.model.__name__}.{name} is NOT NULL and has no default, so no registration can succeed: "
                    f"add {name!r} to SQLAlchemyUsers(fields=[...]), give the column a default, or turn the page to "
                    "register off with Routes(register=None)"
                )
        return [
            FormField(
                name=name,
                kind=self._kind(name),
                required=name == users.user_id or self._columns[name].required,
                max_length=self._columns[name].length,
            )
            for name in self.own
            if name in users.user_ids or self._columns[name].required
        ]

    def _kind(self, name: str) -> FieldKind:
        column = self._columns[name]
        if name in self.identifiers:
            identifier = self.identifiers[name]
            # Browsers refuse international addresses in fields of the type "email".
            plain = isinstance(identifier, EmailIdentifier) and not identifier.allow_international
            return "email" if plain else "text"
        return "text" if column.decorated or column.type is None else _KINDS.get(column.type, "text")

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

    def allowed(self, *, trusted: bool) -> Sequence[str]:
        """See `CredentialsForm.allowed`. The app's own code may set any column except the key."""
        return [name for name in self._columns if name != self._users.key] if trusted else self.own

    def is_required(self, name: str) -> bool:
        """See `CredentialsForm.is_required`."""
        return super().is_required(name) or self._columns[name].required

    def cleaned(self, name: str, value: object, *, trusted: bool = False) -> Any:
        """See `CredentialsForm.cleaned`. The value has the type of its column."""
        if value is None and trusted and self._columns[name].nullable:
            return None
        if name in self.identifiers:
            value = self.identifiers[name].normalize(value)
        return self._columns[name].check(value, trusted=trusted)


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
