"""The path of a named route in an app that a middleware wraps."""

from powauth._options import wrong
from powauth.errors import ConfigError
from powauth.integrations._parts import apps_in


def path_of_route(app: object, name: object) -> str:
    """Return the path of a route of a Starlette or FastAPI app, by its name.

    Raises:
        ConfigError: if the app has no such route, or its routes have no names.
    """
    if not isinstance(name, str) or not name:
        raise wrong("sign_in_endpoint", "the name of a route, such as 'login'", name)
    router = next((part for part in apps_in(app) if hasattr(part, "url_path_for")), None)
    if router is None:
        raise ConfigError("sign_in_endpoint needs an app of Starlette or FastAPI: give sign_in_path instead")
    try:
        return str(router.url_path_for(name))
    except Exception as error:  # Starlette's NoMatchFound is a plain exception
        raise ConfigError(f"sign_in_endpoint {name!r}: no route has this name, or it has parameters") from error
