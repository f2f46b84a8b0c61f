"""The site that ``make docs`` builds: it has each page and each public module, and no program on it is untested."""

import ast
import pkgutil
import re
import textwrap
from pathlib import Path

import pytest
from scripts.page_programs import ROOT, Page, read_pages

import powauth

DOCS = ROOT / "docs"
API = DOCS / "api"
PAGES = sorted(DOCS.glob("*.md"))
INCLUDED = [ROOT / "README.md", ROOT / "CHANGELOG.md"]

OF_ONE_PACKAGE = r"powauth\.(cli|plug|testing|pages|extensions\.\w+)\."
"""Modules of packages whose public names are those that the package exports. The command has a page instead."""

FRAGMENT = re.compile(r"^( +)```python\n(.*?)^\1```", re.DOTALL | re.MULTILINE)
"""A few lines of Python in an item of a list: they run alone."""

FENCE = re.compile(r"^ *(?:`{3,}|~{3,}) *(?:py|\{code|\{lit|\{doctest)", re.MULTILINE)
"""Each way to begin a block of Python, on GitHub and on the site."""


def entries(page: Path) -> list[str]:
    """The pages in all tables of contents of a page."""
    text = page.read_text(encoding="utf-8")
    if page.suffix == ".rst":
        return re.findall(r"^   (\w+)$", text.partition(".. toctree::")[2], re.MULTILINE)
    found = []
    for block in re.findall(r"^```\{toctree\}\n(.*?)^```", text, re.DOTALL | re.MULTILINE):
        lines = [line for line in block.splitlines() if line and not line.startswith(":")]
        found += [re.sub(r".*<(.+)>", r"\1", line) for line in lines]
    return found


def described() -> list[str]:
    """The modules in the API reference."""
    pages = sorted(API.glob("*.rst"))
    return [name for page in pages for name in re.findall(r"^\.\. automodule:: (\S+)$", page.read_text(), re.MULTILINE)]


def imported(text: str) -> set[str]:
    """The modules of powauth that a program imports."""
    found = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found.add(node.module)
        elif isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
    return {name for name in found if name.partition(".")[0] == "powauth"}


def test_each_page_is_in_the_contents_once() -> None:
    pages = [page.stem for page in PAGES if page.stem != "index"]
    assert sorted(entries(DOCS / "index.md")) == sorted([*pages, "self", "api/index"])
    assert sorted(entries(API / "index.rst")) == sorted(page.stem for page in API.glob("*.rst") if page.stem != "index")


def test_the_readme_and_the_changelog_are_on_the_site() -> None:
    text = "".join(page.read_text(encoding="utf-8") for page in PAGES)
    assert [page.name for page in INCLUDED if f"```{{include}} ../{page.name}\n" not in text] == []


def test_each_public_module_is_in_the_reference_once() -> None:
    modules = [each.name for each in pkgutil.walk_packages(powauth.__path__, "powauth.")]
    public = [name for name in modules if "._" not in name and not re.match(OF_ONE_PACKAGE, name)]
    frameworks = [name for name in described() if re.match(OF_ONE_PACKAGE, name)]
    assert sorted(described()) == sorted(["powauth", *set(public) - {"powauth.cli"}, *frameworks])
    assert all(name in modules for name in frameworks)


@pytest.mark.parametrize("page", [page for page in read_pages() if page.programs], ids=lambda page: str(page.name))
def test_the_reference_has_each_module_that_a_program_imports(page: Page) -> None:
    used = {name for program in page.programs for name in imported(program.text)}
    assert used <= set(described())


@pytest.mark.parametrize("page", [*INCLUDED, *PAGES], ids=lambda page: str(page.name))
def test_each_block_of_python_belongs_to_a_program_that_a_test_runs(page: Path) -> None:
    """``test_docs.py`` and ``test_readme.py`` run each program that `read_pages` finds."""
    text = page.read_text(encoding="utf-8")
    counted = re.findall(r"^```python\n", text, re.MULTILINE)
    fragments = [textwrap.dedent(code) for _, code in FRAGMENT.findall(text)]
    assert len(FENCE.findall(text)) == len(counted) + len(fragments)
    for fragment in fragments:
        exec(compile(fragment, page.name, "exec"), {})
    name = page.relative_to(ROOT).as_posix()
    read = {each.name: each for each in read_pages()}
    assert not counted or read[name].programs
    assert not counted or read[name].strays == []


def test_the_page_of_examples_has_each_program() -> None:
    text = (DOCS / "examples.md").read_text(encoding="utf-8")
    assert sorted(re.findall(r"\(\.\./examples/(\w+\.py)\)", text)) == sorted(
        path.name for path in (ROOT / "examples").glob("*.py")
    )


def test_each_example_is_run_by_a_test() -> None:
    tests = "".join(
        path.read_text(encoding="utf-8") for path in (ROOT / "tests").rglob("*.py") if path.name != "test_site.py"
    )
    assert [path.name for path in (ROOT / "examples").glob("*.py") if not re.search(rf"\b{path.stem}\b", tests)] == []
