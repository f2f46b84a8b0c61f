"""The demo: a FastAPI app and a Flask app that know the same signed-in users."""
