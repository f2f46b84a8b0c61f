"""Shared parts of the tests: engines, servers, apps, and clients for them."""
