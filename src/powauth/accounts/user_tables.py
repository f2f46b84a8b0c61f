"""`bind_to_users`: binds a table of an extension to the users whose keys are in it.

Such a table names a user by the key alone (`powauth.accounts.user_keys`). If authenticators of two user tables shared
it, customer 1 and administrator 1 would share what it holds, such as a second factor.
"""

import threading
import weakref
from typing import Any, Final, NamedTuple

from powauth._extras import needs

with needs("users", "tables of extensions", "sqlalchemy"):
    import sqlalchemy as sa

from powauth.accounts._database import have_one_table
from powauth.accounts.base import UsersContext
from powauth.errors import ConfigError


class _Binding(NamedTuple):
    """The users of the rows of a model, in one database.

    Attributes:
        users: the name of their table.
        namespace: the part of the rows.
        engine: the engine. ``None`` if there is none.
    """

    users: str
    namespace: str
    engine: weakref.ref[sa.Engine] | None


_BINDINGS: Final[weakref.WeakKeyDictionary[Any, list[_Binding]]] = weakref.WeakKeyDictionary()
_LOCK: Final = threading.Lock()


def bind_to_users(model: object, users: UsersContext[Any, Any], engine: object = None, *, namespace: str = "") -> None:
    """Note that rows of a model name these users. Call it in `powauth.Extension.bind`.

    Several authenticators may share a model if they have the same users, such as a site and an API. The users are the
    same if their tables have one name (`UsersContext.table_name`). Nothing is refused if a name is not known, or if the
    rows are in different databases.

    Args:
        model: the model of the extension. Or an object that stores such rows.
        users: the users context, ``Parts.users``.
        engine: the ``Engine`` or ``AsyncEngine`` of the rows.
        namespace: the namespace, if the rows have one, and the extension reads only its own.

    Raises:
        ConfigError: if the rows name users of another table already.
    """
    name = users.table_name
    given = getattr(engine, "sync_engine", engine)
    own = given if isinstance(given, sa.Engine) else None
    if name is None:
        return
    with _LOCK:
        try:
            bindings = _BINDINGS.setdefault(model, [])
        except TypeError:  # an object without weak references, or without a hash
            return
        bindings[:] = [each for each in bindings if each.engine is None or each.engine() is not None]
        for each in bindings:
            other = None if each.engine is None else each.engine()
            if each.users != name and each.namespace == namespace and _is_one_place(own, other):
                raise ConfigError(
                    f"{getattr(model, '__name__', type(model).__name__)} has rows of the users in {each.users!r}, and "
                    f"an authenticator with the users in {name!r} got it, too. Its rows name users by their keys alone,"
                    " so two users with one key would share them: give each authenticator a model of its own"
                )
        binding = _Binding(name, namespace, None if own is None else weakref.ref(own))
        if binding not in bindings:
            bindings.append(binding)


def _is_one_place(one: sa.Engine | None, other: sa.Engine | None) -> bool:
    return one is other or (one is not None and other is not None and have_one_table(one, other))
