"""The paths of the pages, and the destination of each step.

The pages of signing in and out are named ``login`` and ``logout``, as in other libraries, and so are their paths and
templates. The functions behind them are named ``sign_in`` and ``sign_out``, as everywhere in powauth.
"""

import re
from dataclasses import dataclass, fields

from powauth._options import wrong
from powauth.errors import ConfigError
from powauth.http.own_path import own_path

_PATH = re.compile(r"(/[A-Za-z0-9._~-]+)+\Z")


def is_path(value: object) -> bool:
    """Return whether a value can be the path of a page below the mount.

    >>> is_path("/account/sessions"), is_path("/account/"), is_path("//account"), is_path("/a/../b")
    (True, False, False, False)
    """
    return isinstance(value, str) and bool(_PATH.match(value)) and not {".", ".."} & {*value.split("/")}


@dataclass(frozen=True, kw_only=True)
class Routes:
    """The paths of the pages below the mount, and the paths of the app to which steps lead.

    Raises:
        ConfigError: if a path is not valid, or two pages have the same path.

    >>> Routes(login="/sign-in", after_login="/dashboard").login
    '/sign-in'
    """

    register: str | None = "/register"
    """The page to register. ``None`` turns it off, for an app that makes accounts in another way."""

    login: str = "/login"
    """The page to sign in."""

    logout: str = "/logout"
    """The path to sign out, for ``POST`` only."""

    account: str = "/account"
    """The page to change the user id or the password, and to delete the account."""

    sessions: str = "/account/sessions"
    """The page with the user's devices."""

    style: str = "/powauth.css"
    """The style sheet."""

    after_register: str | None = None
    """The destination after registration: a path of the app, not below the mount. ``None`` is the account page."""

    after_login: str | None = None
    """The destination after sign-in, if the user asked for no other page. ``None`` is the account page."""

    after_logout: str | None = None
    """The destination after sign-out. ``None`` is the sign-in page."""

    after_delete: str | None = None
    """The destination after the account is deleted. ``None`` is the sign-in page."""

    def __post_init__(self) -> None:
        for field in fields(self):
            path = getattr(self, field.name)
            if field.name.startswith("after_"):
                if path is not None and (own_path(path) != path):
                    raise wrong(field.name, "a path of the app, such as '/dashboard'", path)
            elif not is_path(path) and not (path is None and field.name == "register"):
                raise wrong(field.name, f"a path such as '/{field.name}'", path)
        paths = [getattr(self, field.name) for field in fields(self) if not field.name.startswith("after_")]
        if len(set(paths)) != len(paths):
            raise ConfigError("two pages have the same path")
