"""The texts of the pages and of the mail. `Messages.more` replaces them, and so does ``SecondFactor(texts=…)``."""

from collections.abc import Mapping
from typing import Final

TEXTS: Final[Mapping[str, str]] = {
    # the page that asks for a factor
    "second_factor": "Confirm that it is you",
    "second_factor_intro": "One more step, because your account is protected by a second factor.",
    "second_factor_enrol": "Your account must be protected by a second factor. Set one up to go on.",
    "second_factor_wrong": "That was wrong. Try again.",
    "second_factor_again": "Sign in with the password again",
    "done_challenge_invalid": "The sign-in took too long, or was completed elsewhere. Please start again.",
    # the list
    "factors": "Sign-in security",
    "factors_link": "Sign-in security",
    "factors_intro": "Ways to confirm that it is you when you sign in. Remove what you no longer have.",
    "factors_none": "Your account is protected by its password alone. Add a second factor.",
    "factors_created": "Added",
    "factors_used": "Last used",
    "factors_never": "never",
    "factors_left": "{left} left",
    "factors_remove": "Remove",
    "factors_remove_of": "Remove {label}",
    "factors_last_way_in": "This is your last way to sign in. Add another one first.",
    "factors_required": "Your account must have a second factor. Add another one first.",
    "factors_gone": "This second factor has already been removed.",
    "done_factor_removed": "The second factor has been removed.",
    "done_factor_enrolled": "The second factor is on. If it is your first one, all other devices are signed out.",
    "done_factor_required": "Your account needs a second factor. Add one to go on.",
    # the mail
    "factor_added_subject": "A second factor was added to your account",
    "factor_added_intro": "A way to confirm your sign-in was added to your account: {label}.",
    "factor_removed_subject": "A second factor was removed from your account",
    "factor_removed_intro": "A way to confirm your sign-in was removed from your account: {label}.",
    "factors_reset_subject": "The second factors of your account were reset",
    "factors_reset_intro": "All second factors of your account were removed, and all devices were signed out.",
    "recovery_used_subject": "A recovery code of your account was used",
    "recovery_used_intro": "Somebody signed in to your account with a recovery code. Codes left: {left}.",
    "recovery_made_subject": "New recovery codes for your account",
    "recovery_made_intro": "New recovery codes were made for your account. The earlier ones no longer work.",
    "factor_notice_alarm": "If this was not you, change your password at once, and tell the people who run this site.",
}
