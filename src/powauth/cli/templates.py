"""``powauth templates``."""

import argparse
import sys

from powauth.cli.status import Status
from powauth.errors import ConfigError, MissingExtra
from powauth.pages.shipped import copy_templates


def copy(options: argparse.Namespace) -> Status:
    """Copy the pages' templates into a folder."""
    try:
        written = copy_templates(options.folder, overwrite=options.force)
    except MissingExtra:
        raise
    except ConfigError as error:
        print(f"powauth: {error}", file=sys.stderr)
        return Status.USAGE
    for path in written:
        print(path)
    return Status.DONE
