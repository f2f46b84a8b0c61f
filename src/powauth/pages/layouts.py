"""`Surroundings`: the framework's Jinja environment and variables, for a page inside the app's base template."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


def plainly(template: Any, variables: Mapping[str, object]) -> str:
    """Render a template with these variables alone."""
    text: str = template.render(variables)
    return text


@dataclass(frozen=True)
class Surroundings:
    """The framework's Jinja environment, and its way to render a template, for one request.

    Attributes:
        environment: the Jinja environment of the framework; ``None`` if it has none.
        render: renders a Jinja template with the variables, and with those of the framework, such as the request.
    """

    environment: Any = None
    render: Callable[[Any, Mapping[str, object]], str] = plainly
