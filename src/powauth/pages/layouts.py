"""`Surroundings`: what a framework adds when a page is put into a base template of the app."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any


def plainly(template: Any, variables: Mapping[str, object]) -> str:
    """Render a template with these variables alone."""
    text: str = template.render(variables)
    return text


@dataclass(frozen=True)
class Surroundings:
    """What a framework adds to the app's base template, for one request.

    Attributes:
        environment: the Jinja environment of the framework; ``None`` if it has none.
        render: renders a Jinja template with the variables, and with those of the framework, such as the request.
    """

    environment: Any = None
    render: Callable[[Any, Mapping[str, object]], str] = plainly
