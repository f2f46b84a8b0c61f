"""Give each process its own connections of a SQLAlchemy engine, the app's or powauth's."""

import logging

from powauth import _forks
from powauth.backends._sql_engine import is_memory

# isort: split
# The module above says what to install where SQLAlchemy is missing.
from sqlalchemy import Engine, QueuePool

logger = logging.getLogger("powauth")


def separate_processes(engine: Engine) -> None:
    """Replace the engine's pool in each child, the first time that powauth takes a connection there.

    The app's own code takes its connections from the new pool, too.
    """
    _forks.on_fork(engine, _replace_pool)


def _replace_pool(engine: Engine) -> None:
    if engine.dialect.name != "sqlite":
        _forks.keep(engine.pool)
        engine.dispose(close=False)
    elif is_memory(engine.url):
        return  # the child has a copy of the database, which nobody else can see
    elif not engine.dialect.is_async:
        # SQLite keeps a list of the locks that its process holds. A child inherits the list without the locks. It would
        # lock nothing while a connection of the parent is open here, so close it. Closing sends nothing.
        engine.dispose()
    else:
        _leave_to_threads_of_the_parent(engine)


def _leave_to_threads_of_the_parent(engine: Engine) -> None:
    pool = engine.pool
    _forks.keep(pool)
    engine.dispose(close=False)
    if isinstance(pool, QueuePool) and pool.checkedin() + pool.checkedout():
        logger.warning(
            "powauth: %s was used before this process was forked, and SQLite's locks do not work here: use it first "
            "after the fork (gunicorn without --preload, uWSGI with lazy-apps), or use sqlite:// without aiosqlite",
            engine.url.render_as_string(),
        )
