"""Finds the user ids of an existing table that a sign-in may miss, or that two users share.

`SQLAlchemyUsers.check_user_ids` reads the table and yields a `UserIdProblem` for each.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping

import msgspec

from powauth.accounts.identity import Key

__all__ = ["UserIdProblem"]


class UserIdProblem(msgspec.Struct, frozen=True, kw_only=True):
    """A stored user id that needs attention.

    Attributes:
        key: the primary key of the user.
        field: the name of the column.
        user_id: the stored value.
        normalized: the value that a registration would store; ``None`` if a registration would refuse it.
        collides_with: the keys of other users who have the same user id in another spelling, or in another column of
            user ids. They share one limit on failed sign-ins.
        is_found: whether a sign-in with exactly this text finds the user. It does not find a blank one, nor one with
            control characters.
    """

    key: Key
    field: str
    user_id: str
    normalized: str | None
    collides_with: tuple[Key, ...] = ()
    is_found: bool = True

    @property
    def is_safe_to_normalize(self) -> bool:
        """True if an UPDATE may replace the value by ``normalized``: no other user has it."""
        return self.normalized not in (None, self.user_id) and not self.collides_with


Ids = tuple[Key, Mapping[str, str]]
"""A user's key, and the user ids by the name of the column."""


class UserIdCheck:
    """Looks at all users twice. Its memory grows with the number of problems, and not with the number of users.

    Two user ids collide only if at least one of them is not normalised, or if they are in different columns. So the
    first pass remembers only the forms of such ids, and the second one collects their users.

    Args:
        form: returns the form that all spellings of a user id share.
        normalized: returns what a registration would store in a column; ``None`` if it would refuse the value.
    """

    def __init__(self, form: Callable[[str], str | None], normalized: Callable[[str, str], str | None]) -> None:
        self._form = form
        self._normalized = normalized
        self._suspects: set[str] = set()
        self._found: dict[str, list[UserIdProblem]] = {}

    def first(self, users: Iterable[Ids]) -> None:
        """Take users in the first pass."""
        for _, ids in users:
            for number, (name, user_id) in enumerate(ids.items()):
                if number or self._normalized(name, user_id) != user_id:
                    self._suspects.add(self._shared(user_id))

    def second(self, users: Iterable[Ids]) -> None:
        """Take the same users in the second pass."""
        for key, ids in users:
            for name, user_id in ids.items():
                shared = self._shared(user_id)
                if shared in self._suspects:
                    problem = UserIdProblem(
                        key=key,
                        field=name,
                        user_id=user_id,
                        normalized=self._normalized(name, user_id),
                        is_found=self._form(user_id) is not None,
                    )
                    self._found.setdefault(shared, []).append(problem)

    def problems(self) -> Iterator[UserIdProblem]:
        """Yield the problems after both passes. Those that collide with each other follow each other."""
        for shared, group in self._found.items():
            keys = dict.fromkeys(each.key for each in group)
            for each in group:
                others = tuple(key for key in keys if key != each.key)
                if others or self._is_missed(each, shared):
                    yield msgspec.structs.replace(each, collides_with=others)

    def _is_missed(self, each: UserIdProblem, shared: str) -> bool:
        """Return whether a sign-in may miss a user id, or never finds it: one with control characters."""
        if each.normalized is not None:
            return each.user_id != each.normalized
        # A text that a registration would refuse is found in lower case, and as stored.
        return each.user_id != shared or not each.is_found

    def _shared(self, user_id: str) -> str:
        return self._form(user_id) or user_id
