"""``--app``: finds the app's `SessionAuth`, and runs work with it."""

import asyncio
import contextlib
import importlib
import sys
from collections.abc import Callable, Coroutine
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

from powauth._extras import is_missing
from powauth.backends.base import PerProcess, drive
from powauth.cli.status import AppError
from powauth.errors import ConfigError
from powauth.integrations._finding import authenticators_of
from powauth.plug import SessionAuth

Auth = SessionAuth[Any, Any]

FORM = "--app is package.module:auth, or package.module:factory()"

_IMPORTERS = ("<frozen importlib", importlib.__file__, __file__)
"""Files at the start of a traceback that say nothing about the app."""


def load_auth(name: str) -> Auth:
    """Import the `SessionAuth` that ``--app`` names, or the one of the framework's app that it names.

    The current directory is searched first, as servers do. ``factory()`` is called without arguments. The app's output
    goes to stderr meanwhile, because a program may read stdout.

    Raises:
        AppError: if it cannot be found. If the app raised an error, that is the ``__cause__``.
    """
    module_name, _, path = name.partition(":")
    parts = [*module_name.split("."), *(part.removesuffix("()") for part in path.split("."))]
    if not all(part.isidentifier() for part in parts):
        raise AppError(f"{FORM}, not {name!r}")
    with contextlib.redirect_stdout(sys.stderr):
        return _auth_in(_attribute_of(_imported(module_name), module_name, path), name)


def is_per_process(auth: Auth) -> bool:
    """Return whether the sessions live in the memory of each process, where no command can reach those of the app."""
    return isinstance(auth.store.backend, PerProcess)


def run_with(auth: Auth, work: Coroutine[Any, Any, int]) -> int:
    """Run a coroutine over an app's parts, with an event loop if one of them needs it. Close what powauth opened.

    An extension may wait on a loop, whatever the users and the store do.
    """
    waits = auth.users.mode == "async" or bool(auth.accounts.hooks.extensions) or not _works_off_loop(auth)
    run: Callable[[Coroutine[Any, Any, int]], int] = asyncio.run if waits else drive
    return run(_closing(auth, work))


async def _closing(auth: Auth, work: Coroutine[Any, Any, int]) -> int:
    try:
        return await work
    finally:
        await auth.aclose()


def _works_off_loop(auth: Auth) -> bool:
    try:
        auth.store.check_off_loop()
    except ConfigError:
        return False
    return True


def _imported(name: str) -> ModuleType:
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.insert(0, here)
    packages = [name.rsplit(".", count)[0] for count in range(name.count(".") + 1)]
    try:
        return importlib.import_module(name)
    except ImportError as error:
        if any(is_missing(error, package) for package in packages):
            raise AppError(f"there is no module {error.name!r} in {here} or on Python's path; {FORM}") from None
        raise _failed(f"importing {name}", error) from _of_app(error)
    except (Exception, SystemExit) as error:
        raise _failed(f"importing {name}", error) from _of_app(error)


def _attribute_of(module: ModuleType, module_name: str, path: str) -> object:
    found: Any = module
    so_far = f"{module_name}:"
    for part in path.split("."):
        attribute = part.removesuffix("()")
        try:
            found = getattr(found, attribute)
        except AttributeError:
            raise AppError(f"{so_far.rstrip(':.')} has no {attribute!r}; {FORM}") from None
        so_far += part
        if attribute != part:
            try:
                found = found()
            except (Exception, SystemExit) as error:
                raise _failed(f"calling {so_far}", error) from _of_app(error)
        so_far += "."
    return found


def _auth_in(found: object, name: str) -> Auth:
    if isinstance(found, SessionAuth):
        return found
    inside = {each.current_user_key: each for each in authenticators_of(found) if isinstance(each, SessionAuth)}
    if len(inside) == 1 or "current_user" in inside:
        return inside.get("current_user") or next(iter(inside.values()))
    if inside:
        raise AppError(f"{name} has several SessionAuth ({', '.join(inside)}): name the one that you mean")
    advice = f"; if it is a factory, write {name}()" if callable(found) else ""
    raise AppError(f"{name} is a {type(found).__name__}, and neither a SessionAuth nor an app with one{advice}")


def _failed(what: str, error: BaseException) -> AppError:
    # The message of the app's error is in the traceback. It may hold a secret, which a log of sentences must not.
    return AppError(f"{what} failed with {type(error).__name__}; the traceback above is the app's")


def _of_app(error: BaseException) -> BaseException:
    """Return the error with a traceback that begins in the app."""
    traceback: TracebackType | None = error.__traceback__
    while traceback is not None and traceback.tb_frame.f_code.co_filename.startswith(_IMPORTERS):
        traceback = traceback.tb_next
    return error.with_traceback(traceback)
