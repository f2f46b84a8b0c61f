"""Find the interpreters of this machine, on the PATH and in pyenv."""

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

ADMITTED = ((3, 11), (3, 12), (3, 13), (3, 14))
"""The minor versions of Python on which the suite runs, if they are installed."""

_PROBE = """
import platform, sys, sysconfig
plain = platform.python_implementation() == "CPython" and not sysconfig.get_config_var("Py_GIL_DISABLED")
print(plain, sys.executable, *sys.version_info[:3], sep="|")
"""

PROBE_SECONDS = 60
"""Maximum time for an interpreter to report its version on a busy machine."""


class Interpreter(NamedTuple):
    """An interpreter of this machine.

    Attributes:
        version: major, minor and micro version.
        path: the executable, with links resolved.
    """

    version: tuple[int, int, int]
    path: Path

    def __str__(self) -> str:
        return f"Python {'.'.join(map(str, self.version))}"


def folders() -> list[Path]:
    """Return the folders that may contain an interpreter: those of the PATH, then pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    on_path = [Path(name) for name in os.environ.get("PATH", "").split(os.pathsep) if name]
    versions: list[Path] = []
    with contextlib.suppress(OSError):  # this user may not read it
        versions = sorted(pyenv.glob("versions/*/bin"))
    return [*on_path, *versions]


def find(where: Iterable[Path]) -> list[Interpreter]:
    """Return the admitted interpreters in some folders, oldest first and without duplicates.

    Files that cannot be run, folders that cannot be read, other implementations and free-threaded builds are skipped.
    """
    names = ["python3", *(f"python{major}.{minor}" for major, minor in ADMITTED)]
    candidates = [shutil.which(name, path=folder) for folder in where for name in names]
    answers = [_ask(Path(each)) for each in candidates if each is not None]
    found = {each.path: each for each in answers if each is not None and each.version[:2] in ADMITTED}
    return sorted(found.values())


def missing(found: Iterable[Interpreter]) -> list[str]:
    """Return the admitted versions that no interpreter has, such as ``Python 3.14``."""
    there = {each.version[:2] for each in found}
    return [f"Python {major}.{minor}" for major, minor in ADMITTED if (major, minor) not in there]


def others(found: list[Interpreter]) -> list[Interpreter]:
    """Return the interpreters without the one of this process. Keep it if no other one has its minor version."""
    own = Path(sys.executable).resolve()
    rest = [each for each in found if each.path != own]
    return rest if missing(rest) == missing(found) else found


def _ask(executable: Path) -> Interpreter | None:
    """Run an executable to get its version and path. A pyenv shim returns the path of the real executable."""
    command = [str(executable), "-I", "-c", _PROBE]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    plain, path, major, minor, micro = done.stdout.strip().split("|")
    if plain != "True":
        return None
    return Interpreter((int(major), int(minor), int(micro)), Path(path).resolve())
