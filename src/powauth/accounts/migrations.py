"""Alembic: `render_item` writes powauth's column types into a migration, with their imports.

An app's ``env.py`` passes it on::

    context.configure(connection=connection, target_metadata=Base.metadata, render_item=render_item)
"""

from typing import Any, Literal

from powauth.accounts.sqlalchemy import UTCDateTime

TYPES = (UTCDateTime,)
"""The types of powauth's own columns. All others are types of SQLAlchemy, which Alembic knows."""


def render_item(kind: str, item: object, context: Any) -> str | Literal[False]:
    """Return the text of one of powauth's types for a migration, and add its import. Return ``False`` for others.

    An app with a function of its own calls this one first, and goes on if the result is ``False``.

    Args:
        kind: the kind of the item, such as ``"type"``.
        item: the item.
        context: Alembic's ``AutogenContext``.
    """
    if kind != "type" or type(item) not in TYPES:
        return False
    context.imports.add(f"from {type(item).__module__} import {type(item).__name__}")
    return repr(item)
