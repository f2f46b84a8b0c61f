"""The command line of ``powauth``: commands, options, and the text of ``--help``."""

import argparse
from collections.abc import Callable, Coroutine, Sequence
from importlib import metadata
from typing import Any

from powauth.cli import resealing, sessions, users
from powauth.cli.checking import check
from powauth.cli.secret import print_secret
from powauth.cli.status import table
from powauth.cli.templates import copy

Action = Callable[..., Coroutine[Any, Any, int]]

APP_HELP = "the app's SessionAuth: package.module:auth, or package.module:factory()"


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """Return the options of a command line. Their attribute ``run`` is the command: a function of the options."""
    return _parser().parse_args(arguments)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="powauth",
        description="Administer powauth.",
        epilog=f"exit status:\n{table()}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"powauth {_version()}")
    parser.add_argument("--app", metavar="MODULE:AUTH", help=APP_HELP)
    commands = parser.add_subparsers(dest="command", required=True)
    secret = commands.add_parser("secret", help="print a new secret key")
    secret.set_defaults(run=print_secret)
    templates = commands.add_parser("templates", help="copy the pages' templates into a folder, to change them")
    templates.add_argument("folder", metavar="DIR")
    templates.add_argument("--force", action="store_true", help="overwrite what is there")
    templates.set_defaults(run=copy)
    reseal = _with_statuses(commands, "reseal", "seal stored secrets with the newest secret key; needs --app")
    _add_app(reseal, json=False)
    reseal.set_defaults(run=resealing.run)
    _add_sessions(_with_statuses(commands, "sessions", "look at sessions and end them"))
    _add_users(_with_statuses(commands, "users", "look at users, create them, lock and unlock them; needs --app"))
    return parser


def _with_statuses(commands: Any, name: str, text: str) -> argparse.ArgumentParser:
    """Add a command whose help has the exit statuses."""
    added: argparse.ArgumentParser = commands.add_parser(
        name, help=text, epilog=f"exit status:\n{table()}", formatter_class=argparse.RawDescriptionHelpFormatter
    )
    return added


def _add_sessions(parser: argparse.ArgumentParser) -> None:
    _add_common(parser, backend=None, namespace=None, json=False)
    parser.set_defaults(auth=None)
    actions = parser.add_subparsers(dest="sessions_command", required=True)

    def action(name: str, function: Action, text: str) -> argparse.ArgumentParser:
        added = actions.add_parser(name, help=text)
        # No default here: it would override an option given before the action.
        _add_common(added, backend=argparse.SUPPRESS, namespace=argparse.SUPPRESS, json=argparse.SUPPRESS)
        added.set_defaults(run=sessions.run, action=function)
        return added

    listing = action("list", sessions.list_sessions, "list live sessions")
    listing.add_argument("--user", metavar="KEY", help="of this user only")
    _add_limit(listing)
    action("show", sessions.show, "show one session").add_argument("sid")
    action("revoke", sessions.revoke, "end one session").add_argument("sid")
    revoke_user = action("revoke-user", sessions.revoke_user, "end all sessions of a user")
    revoke_user.add_argument("user", metavar="KEY")
    action("purge", sessions.purge, "remove expired sessions")
    action("count", sessions.count, "count live sessions")
    action("create-tables", sessions.create_tables, "create the tables of a SQL backend that do not exist")


def _add_users(parser: argparse.ArgumentParser) -> None:
    _add_app(parser, json=False)
    actions = parser.add_subparsers(dest="users_command", required=True)

    def action(name: str, function: Action, text: str) -> argparse.ArgumentParser:
        added = actions.add_parser(name, help=text, description=text)
        _add_app(added, json=argparse.SUPPRESS)
        added.set_defaults(run=users.run, action=function)
        return added

    def of_one(name: str, function: Action, text: str) -> argparse.ArgumentParser:
        added = action(name, function, text)
        user = added.add_mutually_exclusive_group(required=True)
        user.add_argument("user", nargs="?", metavar="USER", help="the user id, which the user types to sign in")
        user.add_argument("--key", help="the primary key, instead of the user id")
        return added

    action("check", check, "find user ids that are not normalised or that collide; status 10 if there are any")
    _add_limit(action("list", users.list_users, "list users in the order of their keys"))
    new = action("create", users.create, "create a user, by the rules of a registration")
    new.add_argument("user", nargs="?", metavar="USER", help="the user id")
    new.add_argument("--set", action="append", default=[], metavar="NAME=TEXT", help="a field; NAME:=JSON for others")
    _add_password(new)
    of_one("activate", users.activate, "let a user sign in again")
    of_one("deactivate", users.deactivate, "lock a user, and end the user's sessions and tokens")
    _add_password(of_one("set-password", users.set_password, "set a password, and end the user's sessions and tokens"))
    of_one("end-sessions", users.end_sessions, "end the user's sessions and tokens")
    of_one("unlock", users.unlock, "forget the failed sign-ins of a user")


def _add_app(parser: argparse.ArgumentParser, *, json: object) -> None:
    """Add the options of an app that are valid before and after the action."""
    parser.add_argument("--app", metavar="MODULE:AUTH", default=argparse.SUPPRESS, help=APP_HELP)
    parser.add_argument("--json", action="store_true", default=json, help="print JSON, a line each")


def _add_limit(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--limit", type=_count, default=100, help="at most so many (default: %(default)s; 0 is all)")


def _add_password(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--password-stdin", action="store_true", help="read the password from stdin; do not ask")


def _add_common(parser: argparse.ArgumentParser, *, backend: object, namespace: object, json: object) -> None:
    """Add the options that are valid before and after the action."""
    parser.add_argument(
        "--backend", metavar="URL", default=backend, help=f"where they live; or set {sessions.BACKEND_VARIABLE}"
    )
    parser.add_argument("--namespace", default=namespace, help="which sessions (default: credentials)")
    _add_app(parser, json=json)


def _version() -> str:
    try:
        return metadata.version("powauth")
    except metadata.PackageNotFoundError:  # running from the source, not installed
        return "(not installed)"


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise argparse.ArgumentTypeError("must not be negative")
    return number
