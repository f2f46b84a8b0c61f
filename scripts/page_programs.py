"""The programs of the README and the docs, with the install lines and commands of their pages.

A page is read from top to bottom, like a user follows it:

1. An indented line ``pip install …`` adds to the requirements.
2. A block of Python that begins with ``# name.py: command`` is a file of that name. The command runs it.
3. A block without such a line continues the file before it.
"""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

_INSTALL = re.compile(r"^    pip install (.+)$", re.MULTILINE)
_BLOCK = re.compile(r"^```python\n(.*?)^```", re.DOTALL | re.MULTILINE)
_HEADER = re.compile(r"# (\w+\.py): (.+)\n")


class Program(NamedTuple):
    """A file of a page.

    Attributes:
        name: the file's name.
        command: the command with which the page runs it.
        requirements: the requirements in all install lines of the page down to the file's last block.
        text: the file's content.
    """

    name: str
    command: str
    requirements: tuple[str, ...]
    text: str

    @property
    def is_test(self) -> bool:
        """True if pytest runs the file."""
        return self.command.startswith("pytest ")

    @property
    def is_served(self) -> bool:
        """True if the command starts a server."""
        return not self.is_test and not self.command.startswith("python ")


class Page(NamedTuple):
    """A page's install lines and programs.

    Attributes:
        name: the path from the root of the project.
        lines: the arguments of ``pip install``, line by line.
        programs: the files, in the order of the page.
        strays: blocks before the first file. No command runs them.
    """

    name: str
    lines: list[str]
    programs: list[Program]
    strays: list[str]

    def write(self, folder: Path) -> None:
        """Write the files into a folder."""
        for program in self.programs:
            (folder / program.name).write_text(program.text, encoding="utf-8")


def read_page(path: Path) -> Page:
    """Read the lines and programs of a page."""
    text = path.read_text(encoding="utf-8")
    page = Page(path.relative_to(ROOT).as_posix() if path.is_relative_to(ROOT) else path.name, [], [], [])
    found = [*_INSTALL.finditer(text), *_BLOCK.finditer(text)]
    requirements: list[str] = []
    for match in sorted(found, key=lambda each: each.start()):
        content = match[1]
        if match.re is _INSTALL:
            page.lines.append(content)
            requirements += shlex.split(content)
        elif header := _HEADER.match(content):
            page.programs.append(Program(header[1], header[2], tuple(requirements), content))
        elif page.programs:
            last = page.programs.pop()
            page.programs.append(last._replace(requirements=tuple(requirements), text=f"{last.text}\n{content}"))
        else:
            page.strays.append(content)
    return page


def read_pages() -> list[Page]:
    """Read all pages that have an install line or a program."""
    pages = [read_page(path) for path in PAGES]
    return [page for page in pages if page.lines or page.programs or page.strays]


def uncounted_lines(path: Path) -> int:
    """Return the number of times that a page says ``pip install`` outside of an install line."""
    text = path.read_text(encoding="utf-8")
    return text.count("pip install") - len(_INSTALL.findall(text))
