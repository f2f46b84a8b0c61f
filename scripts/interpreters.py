"""Find the interpreters of this machine: those on the path, and pyenv's."""

import os
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

ADMITTED = ((3, 11), (3, 12), (3, 13), (3, 14))
"""The minor versions of Python that the suite is run on, where they are."""

_PROBE = """
import platform, sys, sysconfig
plain = platform.python_implementation() == "CPython" and not sysconfig.get_config_var("Py_GIL_DISABLED")
print(plain, sys.executable, *sys.version_info[:3], sep="|")
"""

PROBE_SECONDS = 60
"""How long an interpreter may take to say its version on a busy machine."""


class Interpreter(NamedTuple):
    """An interpreter of this machine.

    Attributes:
        version: major, minor and micro version.
        path: its executable, without links.
    """

    version: tuple[int, int, int]
    path: Path

    def __str__(self) -> str:
        return f"Python {'.'.join(map(str, self.version))}"


def folders() -> list[Path]:
    """Return the folders that can hold an interpreter: those of the path, then pyenv's."""
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    on_path = [Path(name) for name in os.environ.get("PATH", "").split(os.pathsep) if name]
    return [*on_path, *sorted(pyenv.glob("versions/*/bin"))]


def find(where: Iterable[Path]) -> list[Interpreter]:
    """Return the admitted interpreters in some folders, oldest first, each once.

    A file that cannot be run is passed over, and so are other implementations and free-threaded builds.
    """
    names = ["python3", *(f"python{major}.{minor}" for major, minor in ADMITTED)]
    candidates = [folder / name for folder in where for name in names if (folder / name).is_file()]
    found = {each.path: each for each in map(_ask, candidates) if each is not None and each.version[:2] in ADMITTED}
    return sorted(found.values())


def missing(found: Iterable[Interpreter]) -> list[str]:
    """Return the admitted versions that no interpreter has, such as ``Python 3.14``."""
    there = {each.version[:2] for each in found}
    return [f"Python {major}.{minor}" for major, minor in ADMITTED if (major, minor) not in there]


def others(found: list[Interpreter]) -> list[Interpreter]:
    """Return the interpreters without this process's own, unless no other one has its minor version."""
    own = Path(sys.executable).resolve()
    rest = [each for each in found if each.path != own]
    return rest if missing(rest) == missing(found) else found


def _ask(executable: Path) -> Interpreter | None:
    """Start an executable and ask for its version. A shim of pyenv answers with the path of the real one."""
    command = [str(executable), "-I", "-c", _PROBE]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=PROBE_SECONDS, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    plain, path, major, minor, micro = done.stdout.strip().split("|")
    if plain != "True":
        return None
    return Interpreter((int(major), int(minor), int(micro)), Path(path).resolve())
