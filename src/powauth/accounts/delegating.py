"""`DelegatingUsers`: the base class of a users context that passes its calls on to another one."""

from collections.abc import Mapping, Sequence
from typing import Any

from powauth.accounts.base import Params, UsersContext
from powauth.accounts.changes import ChangeListener
from powauth.accounts.fields import FormField
from powauth.accounts.identity import I, Key


class DelegatingUsers(UsersContext[Any, I]):
    """Takes the description of its users from another users context, and all answers that take no database.

    A subclass passes the coroutines on, each in its own way.

    Args:
        users: the users context.
    """

    def __init__(self, users: UsersContext[Any, I]) -> None:
        self._users = users
        self.user_id_field = users.user_id_field
        self.other_user_id_fields = users.other_user_id_fields
        self.model = users.model
        self.fields = users.fields
        self.columns = users.columns
        self.table_name = users.table_name
        self.row_reader = users.row_reader

    @property
    def identity(self) -> type[I]:  # type: ignore[override]
        """See `UsersContext.identity`."""
        return self._users.identity

    def validate(self, params: Params, identity: I | None = None) -> Mapping[str, list[str]]:
        """See `UsersContext.validate`."""
        return self._users.validate(params, identity)

    def registration_fields(self) -> Sequence[FormField]:
        """See `UsersContext.registration_fields`."""
        return self._users.registration_fields()

    def login_key(self, params: Params) -> str | None:
        """See `UsersContext.login_key`."""
        return self._users.login_key(params)

    def key_of(self, subject: object) -> Key | None:
        """See `UsersContext.key_of`."""
        return self._users.key_of(subject)

    def add_listener(self, listener: ChangeListener) -> None:
        """See `UsersContext.add_listener`."""
        self._users.add_listener(listener)
