"""Tools for tests: sign-in on an app's test client, mail in memory, and suites for backends, users and extensions."""

import sys

_SUITES = ["powauth.testing.backend", "powauth.testing.extension", "powauth.testing.factors", "powauth.testing.users"]

if "pytest" in sys.modules:
    import pytest

    # A failed assert then shows its values, as in a test module. pytest would warn about modules already imported.
    pytest.register_assert_rewrite(*(name for name in _SUITES if name not in sys.modules))

from powauth.testing.backend import BackendConformance  # noqa: E402 after the registration
from powauth.testing.clients import async_sign_in, sign_in  # noqa: E402
from powauth.testing.extension import ExtensionConformance  # noqa: E402
from powauth.testing.mail import MemoryMailer  # noqa: E402
from powauth.testing.users import UsersConformance  # noqa: E402

__all__ = [
    "BackendConformance",
    "ExtensionConformance",
    "MemoryMailer",
    "UsersConformance",
    "async_sign_in",
    "sign_in",
]
