"""The schemes of backend URLs, and the words for a URL that names none.

powauth's own backends are in a table. Every other package offers a scheme by an entry point.
"""

from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from typing import Final, Protocol

from powauth.backends.base import Backend
from powauth.errors import ConfigError

GROUP: Final = "powauth.backends"
"""The group of entry points. The name of one is a scheme, up to a ``+``; its object is an `OpenBackend`."""

OWN: Final = {
    "memory": "powauth.backends.memory:from_url",
    "lmdb": "powauth.backends.lmdb:from_url",
    **dict.fromkeys(("sqlite", "postgresql", "postgres", "mariadb", "mysql"), "powauth.backends.sql:from_url"),
    **dict.fromkeys(("redis", "rediss", "unix", "valkey", "valkeys"), "powauth.backends.redis:from_url"),
}
"""What ships with powauth. A table, so an app that is packed without metadata has it, too."""

EXAMPLES: Final = (
    "memory://, lmdb:///path, sqlite:///path, postgresql+psycopg://…, mariadb+pymysql://…, "
    "redis://…, rediss://…, redis+sentinel://…, redis+cluster://…"
)

_WITH_SUFFIX: Final = (
    *("postgresql+psycopg", "postgresql+asyncpg", "mariadb+pymysql", "mariadb+asyncmy", "sqlite+aiosqlite"),
    *("redis+sentinel", "redis+cluster"),
)


class OpenBackend(Protocol):
    """Makes a backend of a URL. Connect to nothing yet."""

    def __call__(self, url: str, *, asynchronous: bool | None, create: bool) -> Backend:
        """Return the backend.

        Args:
            url: the URL, with its scheme in lower case.
            asynchronous: true asks for a driver for event loops, false for one for threads; ``None`` leaves it open.
                Ignore it if there is one driver.
            create: whether to make a file or directory that does not exist.

        Raises:
            ConfigError: if the URL is wrong. Do not repeat the URL, which may hold a password.
        """
        ...


def split_scheme(url: str) -> tuple[str, str]:
    """Return the scheme of a URL in lower case, and the rest, which begins with the colon.

    Raises:
        ConfigError: if there is no scheme.
    """
    scheme, colon, rest = url.partition(":")
    if not colon or not scheme or "/" in scheme:
        raise ConfigError(f"a backend URL begins with a scheme; use one of {EXAMPLES}{_third_parties()}")
    return scheme.lower(), colon + rest


def opener_of(scheme: str) -> OpenBackend:
    """Return what opens the URLs of a scheme.

    Raises:
        ConfigError: if nothing installed does. The message asks for the scheme that was probably meant.
    """
    name = scheme.partition("+")[0]
    if name in OWN:
        found: OpenBackend = EntryPoint(name, OWN[name], GROUP).load()
        return found
    offers = entry_points(group=GROUP, name=name)
    if not offers:
        known = (*OWN, *_WITH_SUFFIX, *entry_points(group=GROUP).names)
        meant = "".join(f"did you mean {each}://? " for each in get_close_matches(scheme, known, 1))
        raise ConfigError(f"the backend URL's scheme is unknown: {meant}use one of {EXAMPLES}{_third_parties()}")
    if len({each.value for each in offers}) > 1:
        values = " and ".join(sorted(each.value for each in offers))
        raise ConfigError(f"two packages offer the scheme {name}://: uninstall one of {values}")
    offer = next(iter(offers))
    try:
        opened: OpenBackend = offer.load()
    except Exception as error:
        raise ConfigError(f"the backend of {name}:// cannot be loaded from {offer.value}: {error}") from error
    return opened


def _third_parties() -> str:
    """Return the schemes of other packages, to be added to a list."""
    return "".join(f", {name}://…" for name in sorted(entry_points(group=GROUP).names))
