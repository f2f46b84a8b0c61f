"""Reset of a forgotten password by a link in mail: see `ResetPassword`."""

from powauth.extensions.reset_password._extension import ResetPassword

__all__ = ["ResetPassword"]
