"""Runs the command ``powauth`` as ``python -m powauth``, for an environment whose programs are not on the path."""

import sys

from powauth.cli import main

if __name__ == "__main__":  # pragma: no cover - its tests start a process
    sys.exit(main())
