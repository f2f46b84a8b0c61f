"""For tests: the suites that a backend, or a users context, of your own must pass, run with pytest."""

import sys

_SUITES = ["powauth.testing.backend", "powauth.testing.users"]

if "pytest" in sys.modules:
    import pytest

    # A failed assert then shows its values, as in a test module. Names already imported would be warned about.
    pytest.register_assert_rewrite(*(name for name in _SUITES if name not in sys.modules))

from powauth.testing.backend import BackendConformance  # noqa: E402 after the registration
from powauth.testing.users import UsersConformance  # noqa: E402

__all__ = ["BackendConformance", "UsersConformance"]
