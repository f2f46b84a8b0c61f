"""``python -m powauth`` does what the command ``powauth`` does, where that is not on the path."""

import sys

from powauth.cli import main

if __name__ == "__main__":  # pragma: no cover - its test starts a process
    sys.exit(main())
