"""Pages from Jinja2 templates. An app's own templates replace the shipped ones, and its base template frames them."""

import hashlib
from collections.abc import Callable, Iterable, Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from powauth._extras import needs
from powauth._options import wrong, wrong_type
from powauth.errors import ConfigError
from powauth.pages.layouts import Surroundings
from powauth.pages.shipped import SHIPPED, STYLE

with needs("pages", "the pages", "jinja2"):
    from jinja2 import BaseLoader, ChoiceLoader, Environment, FileSystemLoader, PrefixLoader, StrictUndefined, Template
    from jinja2 import TemplateNotFound as NotFound
    from markupsafe import Markup

BASE, FRAGMENT = "base.html", "fragment.html"
"""The template of a whole page, and the one that takes its place if the app has a base template."""

_CUT = "\0"
"""Parts the title of a fragment from its content."""


class Templates:
    """Renders pages from templates.

    All output of a template is escaped for HTML. A missing name raises an error.

    Args:
        folder: the folder with an app's own templates. A file there replaces the shipped file of the same name. It may
            extend the shipped file with ``{% extends "powauth/login.html" %}`` and change a block.
        extensions: folders with the templates of extensions. The app's own and the shipped templates override them.
        base: the name of the app's base template, which has a block ``content`` and may have a block ``title``. Each
            page is then a part of that template. ``None`` makes whole pages.
        environment: the Jinja environment that has the base template. ``None`` uses the environment of the framework.

    Raises:
        ConfigError: if an option is wrong.
    """

    def __init__(
        self,
        folder: str | Path | None = None,
        extensions: Iterable[Path] = (),
        *,
        base: str | None = None,
        environment: Environment | None = None,
    ) -> None:
        if folder is not None and not Path(folder).is_dir():
            raise wrong("templates", "a folder that exists", str(folder))
        self._layout = None if base is None else _Layout(base, environment)
        if base is None and environment is not None:
            raise ConfigError("environment needs base, the name of the app's base template, such as 'layout.html'")
        if base is not None and folder is not None and (Path(folder) / BASE).exists():
            raise ConfigError(f"give base, or a {BASE} in the folder templates, not both: each frames the pages")
        make = _shared_environment if folder is None else _environment
        self._environment = make(folder, tuple(extensions), fragments=base is not None)
        self.style = self._read_style(folder)
        self.style_version = hashlib.blake2b(self.style, digest_size=6).hexdigest()

    @property
    def needs_environment(self) -> bool:
        """True if only the framework has the environment of the base template."""
        return self._layout is not None and self._layout.environment is None

    def check_environment(self, environment: Environment) -> None:
        """Check the environment of the framework, if the base template comes from it.

        Raises:
            ConfigError: if it does not escape what the base template prints.
        """
        if self._layout is not None:
            self._layout.check(self._layout.environment or environment)

    def render(self, name: str, context: Mapping[str, Any], surroundings: Surroundings) -> str:
        """See `Renderer.render`."""
        template = self._environment.get_template(f"{name}.html")
        if self._layout is None:
            return template.render(context)
        title, _, content = template.render({**context, "cut": _CUT}).partition(_CUT)
        return self._layout.around(Markup(title.strip()), Markup(content), surroundings)  # noqa: S704 - it is escaped

    @staticmethod
    def _read_style(folder: str | Path | None) -> bytes:
        own = None if folder is None else Path(folder) / STYLE
        return (own if own is not None and own.is_file() else SHIPPED / STYLE).read_bytes()


def _environment(folder: str | Path | None, extensions: tuple[Path, ...], *, fragments: bool) -> Environment:
    """Return the environment of the pages."""
    shipped: BaseLoader = FileSystemLoader(SHIPPED)
    own = [] if folder is None else [FileSystemLoader(folder)]
    theirs = [FileSystemLoader(each) for each in extensions]
    if fragments:
        shipped = ChoiceLoader([_Fragments(ChoiceLoader([*own, shipped])), shipped])
    return Environment(
        loader=ChoiceLoader([*own, shipped, PrefixLoader({"powauth": shipped}), *theirs]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )


_shared_environment = lru_cache(maxsize=16)(_environment)
"""Returns one environment for all pages without templates of an app, so that the shipped ones are compiled once."""


class _Fragments(BaseLoader):
    """Gives the template of a fragment to pages that extend the template of a whole page."""

    def __init__(self, loader: BaseLoader) -> None:
        self._loader = loader

    def get_source(self, environment: Environment, template: str) -> tuple[str, str | None, Callable[[], bool] | None]:
        if template != BASE:
            raise NotFound(template)
        return self._loader.get_source(environment, FRAGMENT)


class _Layout:
    """The app's base template."""

    def __init__(self, base: object, environment: Environment | None) -> None:
        if not isinstance(base, str) or not base:
            raise wrong("base", "the name of a template, such as 'layout.html'", base)
        self.base = base
        self.environment = environment
        self._frame: tuple[Environment, Template] | None = None
        if environment is None:
            return
        if not isinstance(environment, Environment):
            raise wrong_type("environment", "a jinja2.Environment, such as the env of Jinja2Templates", environment)
        self.check(environment)
        try:
            environment.get_template(base)
        except NotFound as error:
            raise ConfigError(f"environment has no template {str(error)!r}, which base names or needs") from error

    def check(self, environment: Environment) -> None:
        """Refuse an environment that would print text as HTML."""
        escapes = environment.autoescape
        if not (escapes(self.base) if callable(escapes) else escapes):
            raise ConfigError(
                f"the environment of {self.base!r} does not escape what it prints, so users could write scripts into "
                "pages with passwords: make it with autoescape=jinja2.select_autoescape(), and name the file .html"
            )
        if environment.is_async:
            raise ConfigError("environment must have enable_async=False, because pages are rendered without await")

    def around(self, title: Markup, content: Markup, surroundings: Surroundings) -> str:
        """Return the base template with a title and a content in its blocks."""
        environment = self.environment or surroundings.environment
        if self._frame is None or self._frame[0] is not environment:
            self.check(environment)
            self._frame = environment, _frame_in(environment)
        names = {"powauth_base": self.base, "powauth_title": title, "powauth_content": content}
        text = surroundings.render(self._frame[1], names)
        if content not in text:
            raise ConfigError(f"the template {self.base!r} needs {{% block content %}}{{% endblock %}} for the pages")
        return text


def _frame_in(environment: Environment) -> Template:
    """Return the template that puts a title and a content into the base template."""
    begin, end = environment.block_start_string, environment.block_end_string
    before, after = environment.variable_start_string, environment.variable_end_string
    blocks = "".join(
        f"{begin} block {name} {end}{before} powauth_{name} {after}{begin} endblock {end}"
        for name in ("title", "content")
    )
    return environment.from_string(f"{begin} extends powauth_base {end}{blocks}")
