"""``python -m powauth.cli``."""

import sys

from powauth.cli import main

sys.exit(main())
