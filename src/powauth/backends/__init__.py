"""Where records live: the protocol (`powauth.backends.base`) and the backends that ship with powauth."""

from urllib.parse import unquote, urlsplit

from powauth.backends.base import Backend
from powauth.errors import ConfigError

SCHEMES = "memory://, lmdb:///path, sqlite:///path, postgresql+psycopg://…, mariadb+pymysql://…, redis://…"


def backend_from_url(url: str, *, asynchronous: bool = False) -> Backend:
    """The backend that a URL names; its driver is imported only now.

    >>> backend_from_url("memory://").mode
    'inline'

    Args:
        url: ``memory://``, ``lmdb:///path`` (``lmdb:path`` from the working directory), or another of the schemes in
            ``docs/backends.md``.
        asynchronous: choose the asynchronous client where the URL leaves it open.

    Raises:
        ConfigError: if the URL is none of these, or the driver's package is missing.
    """
    scheme = url.partition(":")[0].lower()
    if url.lower() == "memory://":
        from powauth.backends.memory import MemoryBackend

        return MemoryBackend()
    if scheme == "lmdb":
        from powauth.backends.lmdb import LMDBBackend

        parts = urlsplit(url)
        if parts.netloc or parts.path in ("", "/"):
            raise ConfigError("an LMDB URL is lmdb:/// and a path, lmdb:///var/lib/app/sessions, or lmdb:relative/path")
        return LMDBBackend(unquote(parts.path))
    raise ConfigError(f"the backend URL's scheme is unknown; use one of {SCHEMES}")
