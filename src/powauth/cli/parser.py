"""The command line of ``powauth``: commands, options, and the text of ``--help``."""

import argparse
from collections.abc import Callable, Coroutine, Sequence
from importlib import metadata
from typing import Any

from powauth.cli import sessions
from powauth.cli.secret import print_secret
from powauth.cli.status import table
from powauth.cli.templates import copy

Action = Callable[..., Coroutine[Any, Any, int]]


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
    commands = parser.add_subparsers(dest="command", required=True)
    secret = commands.add_parser("secret", help="print a new secret key")
    secret.set_defaults(run=print_secret)
    templates = commands.add_parser("templates", help="copy the pages' templates into a folder, to change them")
    templates.add_argument("folder", metavar="DIR")
    templates.add_argument("--force", action="store_true", help="overwrite what is there")
    templates.set_defaults(run=copy)
    _add_sessions(
        commands.add_parser(
            "sessions",
            help="look at sessions and end them",
            epilog=f"exit status:\n{table()}",
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
    )
    return parser


def _add_sessions(parser: argparse.ArgumentParser) -> None:
    _add_common(parser, backend=None, namespace="credentials", json=False)
    actions = parser.add_subparsers(dest="sessions_command", required=True)

    def action(name: str, function: Action, text: str) -> argparse.ArgumentParser:
        added = actions.add_parser(name, help=text)
        # No default here: it would override an option given before the action.
        _add_common(added, backend=argparse.SUPPRESS, namespace=argparse.SUPPRESS, json=argparse.SUPPRESS)
        added.set_defaults(run=sessions.run, action=function)
        return added

    listing = action("list", sessions.list_sessions, "list live sessions")
    listing.add_argument("--user", metavar="KEY", help="of this user only")
    listing.add_argument("--limit", type=_count, default=100, help="at most so many (default: %(default)s; 0 is all)")
    action("show", sessions.show, "show one session").add_argument("sid")
    action("revoke", sessions.revoke, "end one session").add_argument("sid")
    revoke_user = action("revoke-user", sessions.revoke_user, "end all sessions of a user")
    revoke_user.add_argument("user", metavar="KEY")
    action("purge", sessions.purge, "remove expired sessions")
    action("count", sessions.count, "count live sessions")
    action("create-tables", sessions.create_tables, "create the tables of a SQL backend that do not exist")


def _add_common(parser: argparse.ArgumentParser, *, backend: object, namespace: object, json: object) -> None:
    """Add the options that are valid before and after the action."""
    parser.add_argument(
        "--backend", metavar="URL", default=backend, help=f"where they live; or set {sessions.BACKEND_VARIABLE}"
    )
    parser.add_argument("--namespace", default=namespace, help="which sessions (default: credentials)")
    parser.add_argument("--json", action="store_true", default=json, help="print JSON, a line each")


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
