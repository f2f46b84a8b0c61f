"""The demo: a FastAPI app and a Flask app that share users and sessions."""
