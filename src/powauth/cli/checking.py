"""``powauth users check``: finds the users who cannot sign in, or whose user ids are not what powauth would store."""

import argparse
from collections import Counter
from collections.abc import AsyncIterator

from powauth.accounts.checking import UserIdProblem
from powauth.accounts.identity import Key, key_text, stored_key
from powauth.accounts.listing import Listed, ListsUsers
from powauth.cli.app import Auth
from powauth.cli.output import Row, Table, print_json, progress
from powauth.cli.status import Status
from powauth.cli.users import every_user, lister_of

COLUMNS = ("problem", "key", "user_id", "detail")

NOT_FOUND = "not found"

PROGRESS_STEP = 500
"""Users between two lines of progress."""


class _Seen:
    """The counts of a check. They say what stands in the table, besides the problems."""

    def __init__(self) -> None:
        self.problems = self.users = self.without_password = self.inactive = 0
        self.formats: Counter[str] = Counter()
        self.locked_out: set[str | None] = set()

    def user(self, user: Listed) -> None:
        """Count a user."""
        self.users += 1
        self.inactive += not user.active
        self.without_password += not user.has_password
        if user.has_password:
            self.formats[user.hash_format or "unknown"] += 1

    def problem(self, row: Row) -> None:
        """Count a problem. Two of the kinds keep a user out."""
        self.problems += 1
        if row["problem"] in {"unreadable hash", NOT_FOUND}:
            self.locked_out.add(row["key"])

    def as_json(self) -> Row:
        """Return the counts for a program."""
        return {
            "problems": self.problems,
            "users": self.users,
            "without_password": self.without_password,
            "inactive": self.inactive,
            "cannot_sign_in": len(self.locked_out),
            "hashes": dict(self.formats.most_common()),
        }

    def lines(self) -> list[str]:
        """Return the counts for a person."""
        formats = ", ".join(f"{number} {name}" for name, number in self.formats.most_common())
        counts = f"{self.users} users, {self.without_password} without a password, {self.inactive} inactive"
        found = f"{self.problems} problems, {len(self.locked_out)} users cannot sign in because of them"
        return [counts, *([f"hashes: {formats}"] if formats else []), found]


async def check(auth: Auth, options: argparse.Namespace) -> int:
    """Print what is wrong, one problem a line, then what the table holds. It changes nothing.

    The result is `Status.FOUND` if there is a problem. A user without a password is none, nor an inactive one.
    """
    table = None if options.json else Table(COLUMNS)
    seen = _Seen()

    def show(row: Row) -> None:
        seen.problem(row)
        progress("")
        if table is None:
            print_json(row)
        else:
            table.add(row)

    async for row in _problems(lister_of(auth)):
        show(row)
    async for user in every_user(auth):
        seen.user(user)
        if not user.is_readable:
            show(_row("unreadable hash", user.key, user.user_id, _unreadable(user.hash_format)))
        if seen.users % PROGRESS_STEP == 0:
            progress(f"{seen.users} users")
    progress("")
    if table is not None and seen.problems:
        table.end()
    if options.json:
        print_json(seen.as_json())
    else:
        print("\n".join(seen.lines()))
    return Status.FOUND if seen.problems else Status.DONE


async def _problems(lister: ListsUsers) -> AsyncIterator[Row]:
    for name in await lister.columns_not_unique():
        yield _row("not unique", None, None, f"the database has no unique index of {name}: create one")
    progress("reading the user ids")
    async for problem in lister.check_user_ids():
        for kind, detail in _of_user_id(problem):
            yield _row(kind, problem.key, problem.user_id, detail)
    progress("")


def _of_user_id(problem: UserIdProblem) -> list[tuple[str, str]]:
    if not problem.is_found:
        return [(NOT_FOUND, f"{problem.field}: no sign-in finds it, blank or with control characters: change it")]
    found = []
    if problem.collides_with:
        found.append(("collides", f"{problem.field}: with {', '.join(map(_text, problem.collides_with))}"))
    if problem.normalized is None:
        found.append(("refused", f"{problem.field}: signs in as it is stored; a registration would refuse it"))
    elif problem.normalized != problem.user_id:
        found.append(
            ("not normalised", f"{problem.field}: signs in only as it is stored, and not as {problem.normalized}")
        )
    return found


def _unreadable(hash_format: str | None) -> str:
    if hash_format is None:
        return "of no format that powauth knows: the user needs a new password"
    return f"looks like {hash_format}: give PasswordHasher(existing=[{hash_format}()]); if it is there, it is damaged"


def _row(problem: str, key: Key | None, user_id: str | None, detail: str) -> Row:
    return {"problem": problem, "key": None if key is None else _text(key), "user_id": user_id, "detail": detail}


def _text(key: Key) -> str:
    return key_text(stored_key(key))
