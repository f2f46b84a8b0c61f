"""Flask without a layer. All contenders on Flask are compared with it."""

from typing import Any

from benchmarks.contenders.base import EMAIL


def bare() -> Any:
    """Return the app. Flask opens its session only if a handler uses it, and this handler does not."""
    from flask import Flask

    app = Flask(__name__)

    @app.get("/me")
    def me() -> str:
        return EMAIL

    return app
