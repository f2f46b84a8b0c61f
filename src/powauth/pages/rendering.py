"""Pages from Jinja2 templates. An app's own templates replace the shipped ones."""

import hashlib
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from powauth._extras import needs
from powauth.errors import ConfigError
from powauth.pages.shipped import SHIPPED, STYLE

with needs("pages", "the pages", "jinja2"):
    from jinja2 import ChoiceLoader, Environment, FileSystemLoader, PrefixLoader, StrictUndefined


class Templates:
    """Renders pages from templates.

    All output of a template is escaped for HTML. A missing name raises an error.

    Args:
        folder: the folder with an app's own templates. A file there replaces the shipped file of the same name. It may
            extend the shipped file with ``{% extends "powauth/login.html" %}`` and change a block.
        extensions: folders with the templates of extensions. The app's own and the shipped templates override them.

    Raises:
        ConfigError: if the folder does not exist.
    """

    def __init__(self, folder: str | Path | None = None, extensions: Iterable[Path] = ()) -> None:
        if folder is not None and not Path(folder).is_dir():
            raise ConfigError(f"templates must be a folder; there is none at {str(folder)!r}")
        shipped = FileSystemLoader(SHIPPED)
        own = [] if folder is None else [FileSystemLoader(folder)]
        theirs = [FileSystemLoader(each) for each in extensions]
        self._environment = Environment(
            loader=ChoiceLoader([*own, shipped, PrefixLoader({"powauth": shipped}), *theirs]),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
        )
        self.style = self._read_style(folder)
        self.style_version = hashlib.blake2b(self.style, digest_size=6).hexdigest()

    def render(self, name: str, context: Mapping[str, Any]) -> str:
        """See `Renderer.render`."""
        return self._environment.get_template(f"{name}.html").render(context)

    @staticmethod
    def _read_style(folder: str | Path | None) -> bytes:
        own = None if folder is None else Path(folder) / STYLE
        return (own if own is not None and own.is_file() else SHIPPED / STYLE).read_bytes()
