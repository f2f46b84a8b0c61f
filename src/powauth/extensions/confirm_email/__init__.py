"""`ConfirmEmail`: users prove that they receive mail at their address, when they register and when they change it."""

from powauth.extensions.confirm_email.columns import ConfirmEmailMixin
from powauth.extensions.confirm_email.extension import ConfirmEmail
from powauth.extensions.confirm_email.pages import Paths

__all__ = ["ConfirmEmail", "ConfirmEmailMixin", "Paths"]
