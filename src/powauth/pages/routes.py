"""Where the pages are, and where each step leads."""

import re
from dataclasses import dataclass, fields

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
    """The pages' paths below where they are mounted, and the paths of the app that steps lead to.

    Raises:
        ConfigError: if a path cannot be one, or two pages have the same.

    >>> Routes(login="/sign-in", after_login="/dashboard").login
    '/sign-in'
    """

    register: str = "/register"
    """Register."""

    login: str = "/login"
    """Sign in."""

    logout: str = "/logout"
    """Sign out; ``POST`` only."""

    account: str = "/account"
    """Change e-mail or password, or delete the account."""

    sessions: str = "/account/sessions"
    """The user's devices."""

    style: str = "/powauth.css"
    """The style sheet."""

    after_register: str | None = None
    """Where registering leads: a path of the app, wherever the pages are mounted. ``None``: the account page."""

    after_login: str | None = None
    """Where signing in leads, if no page was asked for before. ``None``: the account page."""

    after_logout: str | None = None
    """Where signing out leads. ``None``: the sign-in page."""

    after_delete: str | None = None
    """Where deleting the account leads. ``None``: the sign-in page."""

    def __post_init__(self) -> None:
        for field in fields(self):
            path = getattr(self, field.name)
            if field.name.startswith("after_"):
                if path is not None and (own_path(path) != path):
                    raise ConfigError(f"{field.name} must be a path of the app, such as '/dashboard', not {path!r}")
            elif not is_path(path):
                raise ConfigError(f"{field.name} must be a path such as '/{field.name}', not {path!r}")
        paths = [getattr(self, field.name) for field in fields(self) if not field.name.startswith("after_")]
        if len(set(paths)) != len(paths):
            raise ConfigError("two pages have the same path")
