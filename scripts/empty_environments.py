"""New environments with this copy's wheel and given requirements, in the newest or the oldest admitted releases."""

import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from shutil import which
from threading import Lock
from typing import Any

from scripts.page_programs import ROOT

INSTALL_SECONDS = 900
"""Maximum duration of an installation on a busy machine with an empty cache."""

RUN_SECONDS = 600
"""Maximum duration of a command on a busy machine. Only a command that hangs takes longer."""


_POWAUTH = re.compile(r"powauth(?:\[([\w,-]+)\])?\Z")


class Failed(Exception):
    """A package could not be installed, or a program could not be started.

    Attributes:
        what: the packages or the program.
    """

    def __init__(self, what: str, reason: str) -> None:
        super().__init__(reason)
        self.what = what


class Environments:
    """Environments by their requirements. Equal requirements share one environment.

    Args:
        folder: the folder in which the environments are made.
        wheel: powauth's wheel.
        oldest: whether to install the oldest admitted release of each package that powauth requires.
    """

    def __init__(self, folder: Path, wheel: Path, *, oldest: bool) -> None:
        self._folder = folder
        self._wheel = wheel
        self.oldest = oldest
        self._made: dict[tuple[str, ...], Path] = {}
        self._lock = Lock()

    @classmethod
    def newest_and_oldest(cls, folder: Path) -> Iterator["Environments"]:
        """Build the wheel. Yield environments of the newest releases and, if uv is installed, of the oldest."""
        wheel = build_wheel(folder)
        yield cls(folder / "newest", wheel, oldest=False)
        if uv() is not None:
            yield cls(folder / "oldest", wheel, oldest=True)

    @property
    def title(self) -> str:
        """The installed releases, for a heading."""
        which_ones = "the oldest releases that pyproject.toml admits" if self.oldest else "the newest releases"
        return f"Python {sys.version.split()[0]}, {which_ones}"

    def get(self, requirements: tuple[str, ...]) -> Path:
        """Return the folder of commands of an environment with exactly these requirements.

        Raises:
            Failed: if the requirements cannot be installed.
        """
        with self._lock:
            place = self._made.get(requirements)
            if place is None:
                place = self._made[requirements] = self._folder / str(len(self._made)) / "bin"
                self._install(place.parent, requirements)
        return place

    def _install(self, place: Path, requirements: tuple[str, ...]) -> None:
        wanted = [self._local(requirement) for requirement in requirements]
        if self.oldest:
            wanted += [bound for requirement in requirements for bound in bounds(requirement)]
        tool = uv()
        if tool is None:
            run([sys.executable, "-m", "venv", str(place)], requirements)
            run([str(place / "bin" / "python"), "-m", "pip", "install", "--quiet", *wanted], requirements)
            return
        run([tool, "venv", "--quiet", "--python", sys.executable, str(place)], requirements)
        options = ["--resolution", "lowest-direct"] if self.oldest else []
        run([tool, "pip", "install", "--quiet", "--python", str(place), *options, *wanted], requirements)

    def _local(self, requirement: str) -> str:
        """Return the requirement to install: this copy's wheel for powauth. With `oldest`, others get a lower bound.

        Raises:
            Failed: if `NEW_ENOUGH` has no lower bound for a package.
        """
        match = _POWAUTH.match(requirement)
        if match is None:
            if not self.oldest:
                return requirement
            if requirement not in NEW_ENOUGH:
                raise Failed(requirement, "give it a release in NEW_ENOUGH")
            return f"{requirement}>={NEW_ENOUGH[requirement]}"
        extras = f"[{match[1]}]" if match[1] else ""
        return f"powauth{extras} @ {self._wheel.as_uri()}"


NEW_ENOUGH = {
    "advanced-alchemy": "1.4",
    "aiohttp": "3.14",
    "aiosqlite": "0.20",
    "flask-sqlalchemy": "3.1",
    "gunicorn": "23",
    "httpx": "0.28",
    "httpx2": "2",
    "pytest": "8",
    "uvicorn": "0.37",
    "websockets": "13",
    "werkzeug": "3.1",
}
"""Lower bounds of packages that pages install besides powauth. They are about as old as the other oldest releases."""


def project() -> dict[str, Any]:
    """Return the table ``project`` of ``pyproject.toml``."""
    table: dict[str, Any] = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    return table


def bounds(requirement: str) -> list[str]:
    """Return the dependencies of a requirement of powauth, so that they can be installed as direct requirements."""
    match = _POWAUTH.match(requirement)
    if match is None:
        return []
    table = project()
    extras = match[1].split(",") if match[1] else []
    return [*table["dependencies"], *(line for extra in extras for line in table["optional-dependencies"][extra])]


def uv() -> str | None:
    """Return the path of uv, beside this interpreter or on the PATH; ``None`` if it is not installed."""
    beside = Path(sys.executable).with_name("uv")
    return str(beside) if beside.exists() else which("uv")


def build_wheel(folder: Path) -> Path:
    """Build the wheel of this copy."""
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    run([*command, "--wheel-dir", str(folder), str(ROOT)], ("powauth",))
    (wheel,) = folder.glob("powauth-*.whl")
    return wheel


def run(command: list[str], requirements: tuple[str, ...]) -> None:
    """Run a command of an installation.

    Raises:
        Failed: if it fails, with the end of its error output.
    """
    # Hide the parent's environment from the new one.
    environment = {name: value for name, value in os.environ.items() if name not in {"VIRTUAL_ENV", "PYTHONPATH"}}
    try:
        subprocess.run(command, check=True, capture_output=True, text=True, timeout=INSTALL_SECONDS, env=environment)
    except subprocess.CalledProcessError as error:
        said = " ".join(error.stderr.split())
        raise Failed(" ".join(requirements), said[-400:]) from error
    except subprocess.TimeoutExpired as error:
        raise Failed(" ".join(requirements), f"not installed within {INSTALL_SECONDS} seconds") from error


def outcome_of_command(
    command: list[str],
    folder: Path,
    *,
    others: Mapping[int, str] | None = None,
    environment: dict[str, str] | None = None,
) -> str:
    """Run a command of an environment. Return "ok", or the failure.

    Args:
        command: the command and its arguments.
        folder: the working directory.
        others: further exit statuses that are no failure, and the text to return for each.
        environment: the environment variables. By default they are those of this process.
    """
    try:
        done = subprocess.run(
            command, cwd=folder, env=environment, capture_output=True, text=True, timeout=RUN_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"FAILED: it did not end within {RUN_SECONDS} seconds"
    fine = {0: "ok", **(others or {})}
    if done.returncode in fine:
        return fine[done.returncode]
    return f"FAILED: exit status {done.returncode}: {' '.join((done.stdout + done.stderr).split())[-400:]}"
