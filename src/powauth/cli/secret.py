"""``powauth secret``."""

import argparse
import secrets

from powauth.cli.status import Status

SECRET_BYTES = 48


def print_secret(options: argparse.Namespace) -> Status:
    """Print a new secret key."""
    del options
    print(secrets.token_urlsafe(SECRET_BYTES))
    return Status.DONE
