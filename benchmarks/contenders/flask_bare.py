"""Flask without a layer: what all contenders on Flask are measured against."""

from typing import Any

from benchmarks.contenders.base import EMAIL


def bare() -> Any:
    """Its own session is Flask's: opened only when a handler looks at it, which this one does not."""
    from flask import Flask

    app = Flask(__name__)

    @app.get("/me")
    def me() -> str:
        return EMAIL

    return app
