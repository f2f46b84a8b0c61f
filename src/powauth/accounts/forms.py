"""Checks of the user id and the password that a client sends, without using the users' database.

`CredentialsForm` is for a users context of your own. `SQLAlchemyUsers` checks with a subclass, which also knows the
columns of the app's model. So the same rules and the same messages hold for all users contexts.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from powauth.accounts.base import Params
from powauth.accounts.identifiers import EmailIdentifier, Identifier
from powauth.accounts.policy import PasswordPolicy
from powauth.accounts.spellings import login_key, normal_form
from powauth.errors import InvalidParams

Errors = dict[str, list[str]]
"""Messages by field, as `InvalidParams` takes them."""

BLANK: Final = "can't be blank"
INVALID: Final = "is invalid"
TAKEN: Final = "has already been taken"
GONE: Final = "the user no longer exists"
"""The message of `UsersContext.update` for a user who was deleted. It belongs under ``base``."""


class CredentialsForm:
    """Checks a user id, a password and a current password.

    >>> form = CredentialsForm()
    >>> form.checked({"email": "Mia@Example.com", "password": "five brown owls hoot", "role": "admin"})
    {'email': 'mia@example.com', 'password': 'five brown owls hoot'}
    >>> form.check({"email": "mia", "password": "five brown owls hoot"}, changing=False)[1]
    {'email': ['has invalid format']}

    Args:
        identifiers: normalises the user ids, by their names in ``params``. An earlier one takes precedence. By default
            users sign in with an e-mail address.
        policy: decides which passwords may be set.

    Attributes:
        user_ids: the names of the user ids.
        own: the names of all values that users may set themselves, besides the password.
    """

    def __init__(
        self, identifiers: Mapping[str, Identifier] | None = None, policy: PasswordPolicy | None = None
    ) -> None:
        self.identifiers = {"email": EmailIdentifier()} if identifiers is None else dict(identifiers)
        self.policy = PasswordPolicy() if policy is None else policy
        self.user_ids: Sequence[str] = tuple(self.identifiers)
        self.own: Sequence[str] = self.user_ids

    # What a subclass adds for further fields

    def allowed(self, *, trusted: bool) -> Sequence[str]:
        """Return the names of the values that ``params`` may set, besides the password."""
        del trusted
        return self.own

    def is_required(self, name: str) -> bool:
        """Return whether a registration needs a value of this name."""
        return name == self.user_ids[0]

    def cleaned(self, name: str, value: object, *, trusted: bool = False) -> Any:
        """Return a value as it is stored.

        Raises:
            ValueError: if the value does not fit. The message is for a form.
        """
        del trusted
        return self.identifiers[name].normalize(value)

    # Signing in

    def typed_in(self, params: Params) -> object:
        """Return the user id with which ``params`` sign in: the first that is not blank."""
        given = (params.get(name) for name in self.user_ids)
        return next((value for value in given if not is_blank(value)), None)

    def login_key(self, params: Params) -> str | None:
        """Return one form of the user id in ``params``, normalised if possible; see `UsersContext.login_key`.

        With several identifiers, the first whose format rules accept the value decides.
        """
        return self.key_of(self.typed_in(params))

    def key_of(self, user_id: object) -> str | None:
        """Return one form of a typed user id; ``None`` if no user can have it."""
        keys = [login_key(self.identifiers[name], user_id) for name in self.user_ids]
        if len(keys) == 1:
            return keys[0]
        for name, key in zip(self.user_ids, keys, strict=True):
            if key is not None and self.normalized(name, key) == key:
                return key
        return keys[0]

    def normalized(self, name: str, value: str) -> str | None:
        """Return the form of a user id that a registration would store; ``None`` if it would refuse the value."""
        return normal_form(self.identifiers[name], value)

    # Registering and changing

    def checked(self, params: Params, *, changing: bool = False, trusted: bool = False) -> dict[str, Any]:
        """Return the values to store, with the password as given.

        If a user changes their own account, the result includes ``current_password``, for the caller to verify. This
        may wait for a network, if the policy has a hook for breached passwords.

        Args:
            params: the parameters: from outside, or with ``trusted`` from the app's own code.
            changing: whether they change a user. Otherwise they register one.
            trusted: whether they need no current password.

        Raises:
            InvalidParams: what is wrong, by field.
        """
        values, errors = self.check(params, changing=changing, trusted=trusted)
        errors |= self.password_errors(values, None)
        if errors:
            raise InvalidParams(errors)
        return values | ({"current_password": self.current_password(params)} if changing and not trusted else {})

    def current_password(self, params: Params) -> str:
        """Return the current password in ``params``, for the caller to verify.

        Raises:
            InvalidParams: if it is missing, or can be no password.
        """
        given = params.get("current_password")
        password = text_of(given)
        if not password:
            raise InvalidParams({"current_password": [BLANK if is_blank(given) else INVALID]})
        return password

    def validate(self, params: Params, identity: object = None) -> Errors:
        """Return what is wrong with ``params``; see `UsersContext.validate`.

        It does not call the policy's hook for breached passwords.
        """
        stored = {name: getattr(identity, name) for name in self.user_ids if hasattr(identity, name)}
        params = params if identity is None else self.unchanged(params, stored)
        values, errors = self.check(params, changing=identity is not None)
        return errors | self.password_errors(values, stored.get(self.user_ids[0]), offline=True)

    def unchanged(self, params: Params, stored: Mapping[str, object]) -> Params:
        """Return the params without user ids that are equal to the stored ones.

        A form sends all fields. The format rules do not apply to an old user id that stays as it is.
        """
        same = {name for name in stored if name in self.user_ids and _is_text(params.get(name), stored[name])}
        return {name: value for name, value in params.items() if name not in same} if same else params

    def check(
        self, params: Params, *, changing: bool, trusted: bool = False, first_password: bool = False
    ) -> tuple[dict[str, Any], Errors]:
        """Return the valid values, with the password as given and not checked yet, and the errors by field.

        Args:
            params: the parameters: from outside, or with ``trusted`` from the app's own code.
            changing: whether they change a user. Otherwise they register one.
            trusted: whether they need no current password.
            first_password: whether a change sets a first password. It then needs no current one.
        """
        values: dict[str, Any] = {}
        errors: Errors = {}
        allowed = self.allowed(trusted=trusted)
        for name in allowed:
            if name not in params:
                if not changing and self.is_required(name):
                    errors[name] = [BLANK]
                continue
            try:
                values[name] = self.cleaned(name, params[name], trusted=trusted)
            except ValueError as error:
                errors[name] = [str(error)]
        if trusted:
            errors |= {str(name): ["cannot be set"] for name in params if name not in allowed and name != "password"}
        elif changing and not first_password and is_blank(params.get("current_password")):
            errors["current_password"] = [BLANK]
        password = params.get("password")
        # An empty field of a form changes nothing.
        if not changing or first_password or ("password" in params and password != ""):
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
        messages = self.policy.check(password, values.get(self.user_ids[0]) or user_id, offline=offline)
        return {"password": messages} if messages else {}


def is_blank(value: object) -> bool:
    """Return whether a field of a form is empty or missing."""
    return value is None or value == ""


def text_of(value: object) -> str | None:
    r"""Return a value if it is a text that UTF-8 can encode; ``None`` otherwise.

    >>> text_of("owl"), text_of("\ud800"), text_of(["owl"])
    ('owl', None, None)
    """
    if not isinstance(value, str):
        return None
    try:
        value.encode()
    except UnicodeEncodeError:
        return None
    return value


def _is_text(given: object, stored: object) -> bool:
    return isinstance(given, str) and given == stored
