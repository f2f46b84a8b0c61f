"""The site's options. ``make docs`` builds it, and stops at a broken link or any other warning."""

import pkgutil
import re
from importlib.metadata import version as version_of
from pathlib import Path
from typing import Any

from sphinx.addnodes import pending_xref
from sphinx.transforms.post_transforms import SphinxPostTransform

import powauth

project = "powauth"
author = "The powauth developers"
version = release = version_of("powauth")
html_title = f"powauth {version}"

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon"]
highlight_language = "text"  # most indented blocks are commands of a shell

html_theme = "pydata_sphinx_theme"
html_theme_options = {
    "navbar_center": [],
    "navbar_align": "left",
    "secondary_sidebar_items": ["page-toc"],
    "show_prev_next": True,
}
templates_path = ["_templates"]
html_sidebars = {"**": ["all-pages.html"]}
html_show_sourcelink = False
html_copy_source = False

myst_heading_anchors = 4
"""Headings have the anchors that they have on GitHub, so a link to one works in both places."""

default_role = "any"
"""A name in backticks in a docstring is a link. See `NamesWithoutLink` for what is none."""
autodoc_member_order = "bysource"
autodoc_typehints_format = "short"
autodoc_preserve_defaults = True
autodoc_default_options = {"members": True, "show-inheritance": True}
napoleon_numpy_docstring = False
napoleon_use_ivar = True


def _links_of_the_root(app: object, path: Path, parent: str, content: list[str]) -> None:
    """Change the links of the README and the changelog: their pages on the site are beside the others."""
    pages = {"CHANGELOG.md": "changes.md", "README.md": "index.md"}
    content[0] = re.sub(r"\]\(docs/", "](", content[0])
    content[0] = re.sub(r"\]\((CHANGELOG|README)\.md", lambda match: f"]({pages[f'{match[1]}.md']}", content[0])


def _is_described_elsewhere(app: Any, kind: str, name: str, found: object, skip: bool, options: object) -> bool | None:
    """Leave out of other pages what ``powauth`` itself exports: users import it from there."""
    if isinstance(found, type) and issubclass(found, type):
        return True  # a metaclass has no signature to show
    elsewhere = name in powauth.__all__ and getattr(powauth, name) is found and app.env.docname != "api/powauth"
    return True if elsewhere else None


class NamesWithoutLink(SphinxPostTransform):
    """Leave as plain text the names that have no description of their own here.

    These are names of other packages, names of the module that are not public, and names that several classes have,
    such as ``delete``. The first two must exist. A name that exists nowhere stays a broken link, so it fails the build.
    """

    default_priority = 5  # before Sphinx resolves links

    def run(self, **options: Any) -> None:
        """Replace the links of one page."""
        for node in list(self.document.findall(pending_xref)):
            if node["reftype"] != "any":
                continue
            described = self._described(node)
            if described > 1 or (not described and _exists(node)):
                node.replace_self(node.children)

    def _described(self, node: pending_xref) -> int:
        """Count the objects that a name can stand for in the place where it is written."""
        python = self.env.domains.python_domain
        name = node["reftarget"].removesuffix("()")
        found = python.find_obj(self.env, node.get("py:module"), node.get("py:class"), name, None, 1)
        return len({entry.node_id for _, entry in found if not entry.aliased})


def _exists(node: pending_xref) -> bool:
    """Tell whether a name exists in the class or module that names it, in Python, or in another package."""
    module, name = node.get("py:module") or "powauth", node["reftarget"].removesuffix("()")
    owner = f"{module}.{node['py:class']}" if node.get("py:class") else module
    scopes = [owner, getattr(_resolve(owner), "__module__", module), module, "builtins"]
    return any(_resolve(place) is not None for place in (*(f"{scope}.{name}" for scope in scopes), name))


def _resolve(name: str) -> object:
    try:
        return pkgutil.resolve_name(name)
    except (ImportError, AttributeError, ValueError):
        return None


def setup(app: Any) -> None:
    """Connect the functions above to the build."""
    app.add_post_transform(NamesWithoutLink)
    app.connect("include-read", _links_of_the_root)
    app.connect("autodoc-skip-member", _is_described_elsewhere)
