"""The schemes of backend URLs, and the errors for an unknown scheme.

A table lists powauth's own backends. Other packages offer a scheme by an entry point.
"""

from difflib import get_close_matches
from importlib.metadata import EntryPoint, entry_points
from typing import Final, Protocol

from powauth.backends.base import Backend
from powauth.errors import ConfigError

GROUP: Final = "powauth.backends"
"""The group of entry points. The name of each is a scheme, without ``+`` and suffix. Its object is an `OpenBackend`."""

OWN: Final = {
    "memory": "powauth.backends.memory:from_url",
    "lmdb": "powauth.backends.lmdb:from_url",
    **dict.fromkeys(("sqlite", "postgresql", "postgres", "mariadb", "mysql"), "powauth.backends.sql:from_url"),
    **dict.fromkeys(("redis", "rediss", "unix", "valkey", "valkeys"), "powauth.backends.redis:from_url"),
}
"""The schemes of powauth's own backends. As a table it also works in an app that is packaged without metadata."""

EXAMPLES: Final = (
    "memory://, lmdb:///path, sqlite:///path, postgresql+psycopg://…, mariadb+pymysql://…, "
    "redis://…, rediss://…, redis+sentinel://…, redis+cluster://…"
)

_WITH_SUFFIX: Final = (
    *("postgresql+psycopg", "postgresql+asyncpg", "mariadb+pymysql", "mariadb+asyncmy", "sqlite+aiosqlite"),
    *("redis+sentinel", "redis+cluster"),
)


class OpenBackend(Protocol):
    """Makes a backend from a URL. It must not connect yet."""

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
    """Return the function that opens the URLs of a scheme.

    Raises:
        ConfigError: if no installed package offers the scheme. The message suggests a similar one.
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
    """Return the schemes of other packages as the end of a list."""
    return "".join(f", {name}://…" for name in sorted(entry_points(group=GROUP).names))
