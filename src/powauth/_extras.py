"""Explain an import that fails: name the package that is missing, and the extra that installs it.

An ``ImportError`` has many causes: a missing package, a missing package that this one needs, a release that lacks a
name, an extension module that cannot be loaded. It is often wrong to blame the package of the ``import`` statement, so
every import of an optional package in powauth uses this module.
"""

from importlib import metadata
from types import TracebackType
from typing import Final

from powauth.errors import ConfigError, MissingExtra

_LONGEST_CHAIN: Final = 8
"""The most causes of an error that are read. A chain of causes may be a cycle."""


class needs:  # noqa: N801 - it reads as a statement
    """Import packages of an extra in a ``with`` block, and turn an ``ImportError`` into an error that says what to do.

    >>> with needs("users", "SQLAlchemyUsers", "sqlalchemy", "greenlet"):
    ...     from sqlalchemy.ext.asyncio import AsyncEngine

    Args:
        extra: the extra of powauth that installs the packages.
        needed_by: the part of powauth that needs them, as an app's developer knows it.
        packages: the importable names that the extra installs and the block needs.

    Raises:
        MissingExtra: if one of the packages is not installed.
        ConfigError: if the import fails for another reason.
    """

    def __init__(self, extra: str, needed_by: str, *packages: str) -> None:
        self._extra = extra
        self._needed_by = needed_by
        self._packages = packages

    def __enter__(self) -> None:
        """Begin the imports."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        """Raise the explanation of an ``ImportError``, with the error as its cause."""
        if isinstance(error, ImportError):
            raise explained(error, self._extra, self._needed_by, *self._packages) from error


def explained(error: ImportError, extra: str, needed_by: str, *packages: str) -> ConfigError:
    """Return the error to raise ``from`` an ``ImportError``; the arguments are those of `needs`."""
    culprit = _culprit(error)
    name = culprit.name or ""
    top = name.partition(".")[0]
    if top not in packages:
        return ConfigError(f"{needed_by} needs {packages[0]}, and importing it failed: {error}")
    if isinstance(culprit, ModuleNotFoundError) and name == top:
        return MissingExtra(f"{needed_by} needs the package {top}: pip install 'powauth[{extra}]'", extra=extra)
    return ConfigError(
        f"{needed_by} cannot use {_release(top)}: {culprit}. Install a release that powauth supports: "
        f"pip install -U 'powauth[{extra}]'"
    )


def is_missing(error: ImportError, package: str) -> bool:
    """Return whether the import failed because this package is not installed. If not, raise the error."""
    return isinstance(error, ModuleNotFoundError) and error.name == package


def _culprit(error: ImportError) -> ImportError:
    """Return the first error of the chain of causes that names a module. SQLAlchemy's error about greenlet does not."""
    found: BaseException | None = error
    for _ in range(_LONGEST_CHAIN):
        if not isinstance(found, ImportError):
            break
        if found.name:
            return found
        found = found.__cause__
    return error


def _release(package: str) -> str:
    """Return the package with its version, if the installation has one."""
    distributions = metadata.packages_distributions().get(package, [])
    return " ".join([package, metadata.version(distributions[0])] if distributions else [package])
