"""The pages as a Flask blueprint."""

from collections.abc import Mapping
from typing import Any, Unpack

from powauth._extras import needs
from powauth.pages import wsgi
from powauth.pages.base import BasePages
from powauth.pages.layouts import Surroundings
from powauth.pages.site import PagesOptions, pages_of
from powauth.plug import SessionAuth

with needs("flask", "the pages' blueprint", "flask"):
    from flask import Blueprint, Response, current_app, render_template, request
    from flask.sansio.blueprints import BlueprintSetupState


def pages(
    auth: SessionAuth[Any, Any] | BasePages, *, name: str = "powauth", **options: Unpack[PagesOptions]
) -> Blueprint:
    """Return a blueprint with all pages, for ``app.register_blueprint(pages(auth))``. A ``url_prefix`` is optional.

    Args:
        auth: the authenticator, or `BasePages` (such as `Pages`) made from it.
        name: the name of the blueprint, unique in the app.
        options: the options of `Pages`, if ``auth`` is an authenticator.
    """
    site = pages_of(auth, options)
    blueprint = Blueprint(name, __name__)

    def add(state: BlueprintSetupState) -> None:
        site.check_environment(state.app.jinja_env)
        for path in site.paths:
            endpoint = f"{state.name}.{path.strip('/').replace('/', '_').replace('.', '_')}"
            rule = (state.url_prefix or "").rstrip("/") + path
            # `add_url_rule` would set methods. A rule without methods accepts all, and the pages refuse the others.
            state.app.url_map.add(state.app.url_rule_class(rule, endpoint=endpoint, subdomain=state.subdomain))
            state.app.view_functions[endpoint] = _View(site, path)

    blueprint.record(add)
    return blueprint


class _Answer(Response):
    automatically_set_content_length = False  # for HEAD it is the length of the GET response


def _rendered(template: Any, variables: Mapping[str, object]) -> str:
    """Render a template with the variables of Flask and of the app's context processors."""
    return render_template(template, **variables)


class _View:
    """One page."""

    def __init__(self, site: BasePages, path: str) -> None:
        self.site = site
        self.path = path
        self.__name__ = path

    def __call__(self) -> Response:
        full = request.environ.get("SCRIPT_NAME", "").rstrip("/") + request.environ.get("PATH_INFO", "")
        framed = Surroundings(current_app.jinja_env, _rendered)
        answer = wsgi.respond(self.site, request.environ, self.path, full.removesuffix(self.path), framed)
        return _Answer(answer.body, answer.status, answer.headers)
