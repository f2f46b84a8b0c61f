"""The texts of the pages and of the mails. `Messages.more` replaces them, and so does ``ResetPassword(texts=…)``."""

from collections.abc import Mapping
from typing import Final

MESSAGES: Final[Mapping[str, str]] = {
    # the pages
    "forgot_password_link": "Forgot your password?",
    "forgot_password": "Reset your password",
    "forgot_password_intro": "Enter what you sign in with. If the account exists, we mail a link to it.",
    "forgot_password_action": "Send the link",
    "done_asked": "If the account exists, a mail is on its way. The link in it works for a limited time.",
    "forgot_password_more": "No mail? Check the spam folder, or ask again in a few minutes.",
    "reset_password": "Set a new password",
    "reset_password_code": "Code",
    "reset_password_code_hint": "Paste the code from the mail, or the whole link.",
    "reset_password_action": "Set the password",
    "reset_password_ends_all": "You are then signed out on all devices.",
    "reset_password_invalid": "This link is no longer valid. It works once, for a limited time. Ask for a new one.",
    "done_reset": "Your password has been changed. You can sign in with it now.",
    # the mail with the link
    "reset_subject": "Reset your password",
    "reset_intro": "Somebody asked to reset the password of your account. To set a new one, open this link:",
    "reset_action": "Set a new password",
    "reset_code": "Or enter this code on the page:",
    "reset_limit": "The link works once, for {minutes} minutes.",
    "reset_ignore": "If you did not ask for it, ignore this mail. Your password stays as it is.",
    # the notice
    "password_changed_subject": "Your password was changed",
    "password_changed_intro": "The password of your account was changed, and all other devices were signed out.",
    "password_changed_alarm": "If you did not do this, reset your password now:",
}
