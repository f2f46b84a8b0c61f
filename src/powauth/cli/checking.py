"""``powauth users check``: finds the users who cannot sign in, or whose user ids are not what powauth would store."""

import argparse
from collections.abc import AsyncIterator

from powauth.accounts.checking import UserIdProblem
from powauth.accounts.identity import Key, key_text, stored_key
from powauth.accounts.listing import ListsUsers
from powauth.cli.app import Auth
from powauth.cli.output import Row, Table, print_json, progress
from powauth.cli.status import Status
from powauth.cli.users import every_user, lister_of

COLUMNS = ("problem", "key", "user_id", "detail")

UNREADABLE = "no format of the hasher reads it: give PasswordHasher(existing=[...]), or the user needs a new password"

PROGRESS_STEP = 500
"""Users between two lines of progress."""


async def check(auth: Auth, options: argparse.Namespace) -> int:
    """Print what is wrong, one problem a line, and how many users were read. It changes nothing.

    The result is `Status.FOUND` if there is a problem. A user without a password is none.
    """
    table = None if options.json else Table(COLUMNS)
    found = read = without = 0

    def show(row: Row) -> None:
        nonlocal found
        found += 1
        progress("")
        if table is None:
            print_json(row)
        else:
            table.add(row)

    async for row in _problems(lister_of(auth)):
        show(row)
    async for user in every_user(auth):
        read += 1
        without += not user.has_password
        if not user.is_readable:
            show(_row("unreadable hash", user.key, user.user_id, UNREADABLE))
        if read % PROGRESS_STEP == 0:
            progress(f"{read} users")
    progress("")
    if table is not None and found:
        table.end()
    if options.json:
        print_json({"problems": found, "users": read, "without_password": without})
    else:
        print(f"{found} problems, {read} users, {without} without a password")
    return Status.FOUND if found else Status.DONE


async def _problems(lister: ListsUsers) -> AsyncIterator[Row]:
    for name in await lister.columns_not_unique():
        yield _row("not unique", None, None, f"the database has no unique index of {name}: create one")
    progress("reading the user ids")
    async for problem in lister.check_user_ids():
        for kind, detail in _of_user_id(problem):
            yield _row(kind, problem.key, problem.user_id, detail)
    progress("")


def _of_user_id(problem: UserIdProblem) -> list[tuple[str, str]]:
    found = []
    if problem.collides_with:
        found.append(("collides", f"{problem.field}: with {', '.join(map(_text, problem.collides_with))}"))
    if problem.normalized is None:
        found.append(("refused", f"{problem.field}: a registration would refuse it"))
    elif problem.normalized != problem.user_id:
        found.append(("not normalised", f"{problem.field}: {problem.normalized}"))
    return found


def _row(problem: str, key: Key | None, user_id: str | None, detail: str) -> Row:
    return {"problem": problem, "key": None if key is None else _text(key), "user_id": user_id, "detail": detail}


def _text(key: Key) -> str:
    return key_text(stored_key(key))
