"""``powauth users``: list, create, lock and unlock the users of an app. Each action does what the app's own code would.

A function here asks for what it needs, and returns the coroutine that does the work. So Ctrl-C at a prompt reaches no
event loop.
"""

import argparse
import asyncio
import contextlib
import re
import sys
from collections.abc import AsyncIterator, Coroutine
from typing import Any
from uuid import UUID

from powauth._running import on_event_loop
from powauth.accounts.base import Account
from powauth.accounts.identity import Key, key_text, stored_key
from powauth.accounts.listing import PAGE, Listed, ListsUsers
from powauth.cli.app import Auth, is_per_process, load_auth, run_with
from powauth.cli.asking import ask, ask_password, settings
from powauth.cli.output import Row, Table, iso, no_such_user, print_json, print_result, printable, progress
from powauth.cli.status import Status, UsageError
from powauth.errors import ConfigError, InvalidParams

COLUMNS = ("key", "user_id", "active", "password", "created_at")

ACTIVE = "is_active"

Work = Coroutine[Any, Any, int]


def run(options: argparse.Namespace) -> int:
    """Import the app, and run an action.

    Raises:
        PowauthError: if the app cannot be imported, or the action fails.
    """
    if not options.app:
        raise UsageError("give --app package.module:auth")
    auth = load_auth(options.app)
    if is_per_process(auth) and options.action in ENDING:
        progress("the sessions live in the memory of the app's processes: restart the app to end them\n")
    return run_with(auth, options.action(auth, options))


# --- looking ----------------------------------------------------------------------------------------------------------


async def list_users(auth: Auth, options: argparse.Namespace) -> int:
    """Print users as they are read."""
    table = None if options.json else Table(COLUMNS)
    found = 0
    async for user in every_user(auth):
        if options.limit and found == options.limit:
            progress(f"only the first {options.limit}; --limit 0 is all\n")
            break
        found += 1
        if table is None:
            print_json(_row(user))
        else:
            table.add(_row(user))
    if table is not None:
        table.end()
    return Status.DONE


def lister_of(auth: Auth) -> ListsUsers:
    """Return the app's users context, which must be able to list its users.

    Raises:
        ConfigError: if it cannot.
    """
    users = auth.users
    if isinstance(users, ListsUsers):
        return users
    raise ConfigError(
        f"{type(users).__name__} cannot list its users: let it implement powauth.accounts.listing.ListsUsers"
    )


async def every_user(auth: Auth) -> AsyncIterator[Listed]:
    """Yield all users in the order of their keys.

    Raises:
        ConfigError: if the users context cannot list its users.
    """
    users = lister_of(auth)
    after: Key | None = None
    while True:
        page = await users.list_users(after, PAGE)
        for user in page:
            yield user
        if len(page) < PAGE:
            return
        after = page[-1].key
        if on_event_loop():
            await asyncio.sleep(0)  # Ctrl-C cancels the task, which a blocking users context would never notice


def _row(user: Listed) -> Row:
    return {
        "key": key_text(stored_key(user.key)),
        "user_id": user.user_id,
        "active": user.active,
        "password": user.has_password,
        "created_at": None if user.created_at is None else iso(user.created_at),
    }


# --- changing ---------------------------------------------------------------------------------------------------------


def create(auth: Auth, options: argparse.Namespace) -> Work:
    """Create a user, by the rules of a registration.

    Raises:
        UsageError: if ``--set`` names something that a registration does not take.
        InvalidParams: if a value is wrong.
    """
    users = auth.users
    names = tuple(dict.fromkeys((users.user_id_field, *users.other_user_id_fields, *users.fields)))
    params = settings(options.set)
    if options.user is not None:
        params[names[0]] = options.user
    for name in params:
        if name == "password":
            raise UsageError("a password is no argument, which others could see: use --password-stdin, or the prompt")
        if name not in names:
            raise UsageError(f"a registration does not take {name!r}: it takes {', '.join(names)}")
    if sys.stdin is not None and sys.stdin.isatty():
        missing = auth.users.validate(params)
        params |= {name: ask(name) for name in names if name in missing and name not in params}
    # The password comes last, so that nobody types one for nothing.
    wrong = {name: messages for name, messages in auth.users.validate(params).items() if name != "password"}
    if wrong:
        raise InvalidParams(wrong)
    params["password"] = ask_password(str(params.get(names[0])), from_stdin=options.password_stdin)
    return _create(auth, options, params)


async def _create(auth: Auth, options: argparse.Namespace, params: dict[str, object]) -> int:
    identity = await auth.create_account(params)
    key = key_text(stored_key(auth.key_of(identity)))
    if options.json:
        print_json({"created": 1, "key": key})
    else:
        print(f"created {printable(key)}")
    return Status.DONE


async def activate(auth: Auth, options: argparse.Namespace) -> int:
    """Let a user sign in again."""
    return await _set_active(auth, options, active=True)


async def deactivate(auth: Auth, options: argparse.Namespace) -> int:
    """Lock a user, and end everything that signs the user in."""
    return await _set_active(auth, options, active=False)


async def _set_active(auth: Auth, options: argparse.Namespace, *, active: bool) -> int:
    account = await _account(auth, options)
    if account is None:
        return no_such_user()
    try:
        await auth.update_account(account.key, {ACTIVE: active})
    except InvalidParams as error:
        if ACTIVE not in error.errors:
            raise
        raise ConfigError(_no_column(auth)) from error
    now = await auth.accounts.users.get(account.key)
    if now is None or now.active is not active:
        if active and ACTIVE in auth.users.columns:
            raise ConfigError(
                f"{ACTIVE} is set, and the user still cannot sign in: is_active of the model, or a restriction such as "
                "a lock, keeps the user out"
            )
        raise ConfigError(_no_column(auth))
    done = "activated" if active else "deactivated"
    print_result(options, {done: 1}, done)
    return Status.DONE


def _no_column(auth: Auth) -> str:
    model = (auth.users.model or type(auth.users)).__name__
    return (
        f"{model} has no column {ACTIVE} that decides who may sign in: "
        f"add {ACTIVE}: Mapped[bool] = mapped_column(default=True), or do it in the app"
    )


def set_password(auth: Auth, options: argparse.Namespace) -> Work:
    """Set a user's password, and end everything that signs the user in."""
    password = ask_password(options.user or options.key, from_stdin=options.password_stdin)
    return _set_password(auth, options, password)


async def _set_password(auth: Auth, options: argparse.Namespace, password: str) -> int:
    account = await _account(auth, options)
    if account is None:
        return no_such_user()
    await auth.update_account(account.key, password=password)
    print_result(options, {"changed": 1}, "changed")
    return Status.DONE


async def end_sessions(auth: Auth, options: argparse.Namespace) -> int:
    """End everything that signs a user in. A key may belong to a user whom the app has deleted."""
    account = await _account(auth, options)
    if account is not None:
        ended = await auth.revoke_user(account.key)
    elif options.key is not None:
        ended = await end_all_of(auth, options.key)
    else:
        return no_such_user()
    print_result(options, {"revoked": ended}, f"{ended} ended")
    return Status.DONE


async def unlock(auth: Auth, options: argparse.Namespace) -> int:
    """Forget the failed sign-ins of a user id.

    Raises:
        ConfigError: if only the key is given, and the identity does not say any user id.
    """
    first, user_id = auth.users.user_id_field, options.user
    params = {first: user_id}
    if user_id is None:
        account = await _account(auth, options)
        if account is None:
            return no_such_user()
        fields = (first, *auth.users.other_user_id_fields)
        params = {field: value for field in fields if (value := getattr(account.identity, field, None)) is not None}
        if not params:
            raise ConfigError(
                f"failed sign-ins count by user id, and the identity of this user has no {' and no '.join(fields)}: "
                "give the user id instead of --key, as in powauth users unlock USER"
            )
    forgotten = await auth.forget_failures(params)
    print_result(options, {"forgotten": int(forgotten)}, "unlocked" if forgotten else "there were no failed sign-ins")
    return Status.DONE


ENDING = (set_password, deactivate, end_sessions)
"""The actions that end sessions."""


# --- finding ----------------------------------------------------------------------------------------------------------


def keys_of(text: str) -> list[Key]:
    """Return the keys that a text may mean.

    >>> keys_of("42"), keys_of("ann"), keys_of("18446744073709551617")
    ([42, '42'], ['ann'], ['18446744073709551617'])
    """
    found: list[Key] = [text]
    if re.fullmatch("0|-?[1-9][0-9]{0,19}", text):
        with contextlib.suppress(ConfigError):  # a number of more than 64 bits is no key
            stored_key(int(text))
            found.insert(0, int(text))
    with contextlib.suppress(ValueError):
        found.insert(0, UUID(text))
    return found


async def end_all_of(auth: Auth, text: str) -> int:
    """End everything that the user with this key holds, whatever the type of the key. Return how many sessions ended.

    The user may no longer exist.
    """
    return sum([await auth.revoke_user(key) for key in keys_of(text)])


async def _account(auth: Auth, options: argparse.Namespace) -> Account[Any] | None:
    users = auth.accounts.users
    if options.key is None:
        return await users.find(options.user)
    for key in keys_of(options.key):
        account = await users.get(key)
        if account is not None:
            return account
    return None
