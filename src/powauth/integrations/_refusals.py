"""powauth's answers to errors, for FastAPI's OpenAPI document."""

from typing import Any, Final

from powauth._options import wrong

_TEXT: Final = {"type": "string"}
_TEXTS: Final = {"type": "array", "items": _TEXT}
_RETRY: Final = {"headers": {"Retry-After": {"description": "Seconds to wait", "schema": {"type": "integer"}}}}


def _only(text: str) -> dict[str, Any]:
    """Return the schema of a text that is always the same, so that a client can tell two objects apart by it."""
    return {**_TEXT, "enum": [text]}


def _object(title: str, required: dict[str, Any], **optional: Any) -> dict[str, Any]:
    return {"title": title, "type": "object", "properties": {**required, **optional}, "required": [*required]}


def _answer(description: str, *schemas: dict[str, Any], **more: Any) -> dict[str, Any]:
    schema = schemas[0] if len(schemas) == 1 else {"anyOf": [*schemas]}
    return {"description": description, "content": {"application/json": {"schema": schema}}, **more}


_BY_GUARD: Final = _object("Guarded", {"detail": _TEXT})
"""FastAPI's own form. An `HTTPException` has it, and so has a guard of `Auth`."""

_MORE_NEEDED: Final = _object(
    "MoreNeeded", {"error": _only("second_factor_required"), "factors": _TEXTS}, challenge=_TEXT
)
"""The right password, and a second factor is missing. A program sends ``challenge`` together with the factor."""

_BY_STATUS: Final = {
    401: _answer(
        "Nobody is signed in, or a second factor is missing",
        _BY_GUARD,
        _object("NotSignedIn", {"error": _only("not_signed_in")}),
        _MORE_NEEDED,
    ),
    403: _answer("Refused, and why", _BY_GUARD, _object("Refused", {"error": _TEXT}, reason=_TEXT, methods=_TEXTS)),
    422: _answer(
        "The messages about each field",
        _object("InvalidParams", {"errors": {"type": "object", "additionalProperties": _TEXTS}}),
    ),
    429: _answer("Too many wrong passwords", _object("Throttled", {"error": _TEXT}), **_RETRY),
    503: _answer("The store is unreachable", _object("Unavailable", {"error": _TEXT}), **_RETRY),
}


def refusals(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """Return powauth's answers of some statuses, for the OpenAPI document.

    FastAPI learns nothing of them from a dependency. Name them for a route, a router or the app::

        APIRouter(dependencies=[Depends(session.identity)], responses=refusals(401, 503))

    Args:
        statuses: 401, 403, 422, 429, 503, or some of them.

    Raises:
        ConfigError: if powauth answers with no such status.
    """
    for status in statuses:
        if status not in _BY_STATUS:
            raise wrong("a status", "401, 403, 422, 429 or 503", status)
    return {status: _BY_STATUS[status] for status in statuses}
