"""The storage of records: the protocol (`powauth.backends.base`) and the backends that ship with powauth."""

from powauth._options import wrong_type
from powauth.backends._schemes import EXAMPLES, GROUP, OpenBackend, opener_of, split_scheme
from powauth.backends.base import Backend

__all__ = ["EXAMPLES", "GROUP", "OpenBackend", "backend_from_url"]


def backend_from_url(url: str, *, asynchronous: bool | None = None, create: bool = True) -> Backend:
    """Return the backend that a URL names. This imports its driver, but does not connect yet.

    >>> backend_from_url("memory://").mode
    'inline'

    Your own package can offer a scheme by an entry point of the group `GROUP`. Its object is an `OpenBackend`.

    Args:
        url: ``memory://``, ``lmdb:///path`` (``lmdb:path`` from the working directory; ``?group_access=1`` sets that
            option of `LMDBBackend`), or another of the schemes in ``docs/backends.md``.
        asynchronous: choose the driver for an event loop (true) or for threads (false), even if the URL names another.
            ``None`` keeps the URL's driver, or takes the one for threads if the URL names none. SQLite's plain driver
            serves both.
        create: make the directory of an LMDB store, or the file of a SQLite database, if there is none.

    Raises:
        ConfigError: if the URL names no backend, or the driver's package is missing.
        StoreMissing: if ``create`` is false, and there is no such directory or file.
    """
    scheme, rest = split_scheme(url)
    backend = opener_of(scheme)(scheme + rest, asynchronous=asynchronous, create=create)
    if not isinstance(backend, Backend):
        raise wrong_type(f"the result of the entry point of {scheme}://", "a Backend", backend)
    return backend
