"""The pages as a Flask blueprint."""

from typing import Any, Unpack

from powauth._extras import needs
from powauth.pages import wsgi
from powauth.pages.flows import Flows
from powauth.pages.site import PagesOptions, flows_of
from powauth.plug import SessionAuth

with needs("flask", "the pages' blueprint", "flask"):
    from flask import Blueprint, Response, request
    from flask.sansio.blueprints import BlueprintSetupState


def pages(auth: SessionAuth[Any, Any] | Flows, *, name: str = "powauth", **options: Unpack[PagesOptions]) -> Blueprint:
    """A blueprint with each page: ``app.register_blueprint(pages(auth))``, with a ``url_prefix`` if you like.

    Args:
        auth: the authenticator, or `Flows` (`Pages`) made of it.
        name: the blueprint's; two in one app need two.
        options: those of `Pages`, with an authenticator.
    """
    flows = flows_of(auth, options)
    blueprint = Blueprint(name, __name__)

    def add(state: BlueprintSetupState) -> None:
        for path in flows.paths:
            endpoint = f"{state.name}.{path.strip('/').replace('/', '_').replace('.', '_')}"
            rule = (state.url_prefix or "").rstrip("/") + path
            # Not `add_url_rule`: without methods the rule is for all, and the flows say which are allowed.
            state.app.url_map.add(state.app.url_rule_class(rule, endpoint=endpoint, subdomain=state.subdomain))
            state.app.view_functions[endpoint] = _View(flows, path)

    blueprint.record(add)
    return blueprint


class _Answer(Response):
    automatically_set_content_length = False  # of a HEAD it is the length of what GET would give


class _View:
    """One page."""

    def __init__(self, flows: Flows, path: str) -> None:
        self.flows = flows
        self.path = path
        self.__name__ = path

    def __call__(self) -> Response:
        full = request.environ.get("SCRIPT_NAME", "").rstrip("/") + request.environ.get("PATH_INFO", "")
        answer = wsgi.respond(self.flows, request.environ, self.path, full.removesuffix(self.path))
        return _Answer(answer.body, answer.status, answer.headers)
