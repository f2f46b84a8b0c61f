"""All texts of the pages. An app can change or translate each of them."""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, kw_only=True)
class Messages:
    """The texts. Replace some of them, or all of them and ``lang`` for another language.

    >>> Messages(lang="de", sign_in="Anmelden").sign_in
    'Anmelden'
    """

    lang: str = "en"
    """The language of all texts (BCP 47)."""

    direction: str = "ltr"
    """The direction of the text: ``ltr`` or ``rtl``."""

    labels: Mapping[str, str] = field(
        default_factory=lambda: {
            "email": "E-mail",
            "username": "User name",
            "password": "Password",
            "current_password": "Current password",
        }
    )
    """Labels of the fields. If a label is missing, the pages make one from the field's name."""

    errors: Mapping[str, str] = field(default_factory=dict)
    """Replacements for the users context's messages, such as ``can't be blank``. Other messages stay unchanged."""

    field_error: str = "{label} {message}."
    """The sentence made from a field's label and its error message."""

    error_prefix: str = "Error: "
    """The prefix of a refused page's title, so that screen readers say it first."""

    check_input: str = "Please check what you entered"
    signed_in_as: str = "Signed in as"
    navigation: str = "Account"
    """The name of the list of links to the pages."""
    to_account: str = "Account"
    to_sessions: str = "Devices"

    register: str = "Create your account"
    register_action: str = "Create account"
    password_hint: str = "At least 8 characters. A few unrelated words make a good one."  # noqa: S105 - a text
    have_account: str = "Already have an account?"

    sign_in: str = "Sign in"
    sign_in_action: str = "Sign in"
    sign_in_refused: str = "That e-mail and password do not match an account."
    second_factor: str = "Your password is right. Now confirm that it is you."
    sign_in_first: str = "Sign in to go on."
    sign_in_again: str = "Confirm that it is you: enter your password again."
    remember: str = "Stay signed in on this device"
    no_account: str = "No account yet?"
    sign_out: str = "Sign out"

    account: str = "Your account"
    change_user_id: str = "E-mail address"
    change_user_id_action: str = "Change e-mail"
    change_password: str = "Password"  # noqa: S105 - a text
    change_password_action: str = "Change password"  # noqa: S105 - a text
    new_password: str = "New password"  # noqa: S105 - a text
    signs_out_others: str = "You stay signed in here, and are signed out on all other devices."
    delete: str = "Delete account"
    delete_warning: str = "This deletes your account and signs you out everywhere. It cannot be undone."
    delete_action: str = "Delete my account"

    sessions: str = "Your devices"
    sessions_intro: str = "Where you are signed in. End what you do not recognise, then change your password."
    this_device: str = "This device"
    remembered: str = "Stays signed in"
    unknown_device: str = "Unknown device"
    device: str = "{browser} on {system}"
    signed_in_at: str = "Signed in"
    last_seen: str = "Last active"
    address: str = "Address"
    unknown: str = "unknown"
    time_format: str = "%Y-%m-%d %H:%M UTC"
    """Format for ``strftime``. Times are in UTC, because a page without a script cannot know the user's zone."""
    end: str = "Sign out"
    end_of: str = "Sign out {device}, signed in {time}"
    """The name of the button for users who cannot see the device beside it."""
    end_others: str = "Sign out all other devices"
    no_others: str = "You are signed in nowhere else."

    done: Mapping[str, str] = field(
        default_factory=lambda: {
            "registered": "Welcome. Your account is ready.",
            "created": "Your account has been created. You can sign in once it has been activated.",
            "user_id": "Your e-mail address has been changed.",
            "password": "Your password has been changed. All other devices have been signed out.",
            "updated": "Your account has been changed.",
            "ended": "That device has been signed out.",
            "ended_others": "All other devices have been signed out.",
            "signed_out": "You are signed out.",
            "deleted": "Your account has been deleted.",
        }
    )
    """Confirmations of a completed step, by its name. The page after the step shows them."""

    failures: Mapping[str, str] = field(
        default_factory=lambda: {
            "not_found": "There is no such page.",
            "no_such_session": "That device is signed out already.",
            "method_not_allowed": "This address cannot be used like that.",
            "bad_request": "The form did not arrive in one piece. Go back and send it again.",
            "too_large": "That is more than any form here takes.",
            "unsupported_media_type": "This kind of form is not taken here.",
            "cross_site_request": "For your safety, this was refused: it did not come from this site's own pages.",
            "not_signed_in": "Sign in first.",
            "second_factor_required": "This needs a second confirmation that it is you.",
            "already_signed_in": "You are signed in already.",
            "refused": "This is not allowed.",
            "store_unavailable": "We cannot reach your account right now. You are not signed out: try again soon.",
            "overloaded": "Too much is going on right now. Try again in a moment.",
            "throttled": "Too many attempts. Wait a while, then try again.",
            "internal_error": "Something went wrong on our side. Try again in a moment.",
        }
    )
    """Texts shown instead of a page, by the error code that programs get."""

    more: Mapping[str, str] = field(default_factory=dict)
    """Texts that replace those of the extensions' pages (`powauth.pages.Page`)."""

    failure: str = "That did not work"
    go_back: str = "Back to your account"

    def label(self, name: str) -> str:
        """Return the label of a field."""
        return self.labels.get(name) or name.replace("_", " ").capitalize()

    def error(self, name: str, message: str) -> str:
        """Return the error of a field as a sentence."""
        said = self.errors.get(message, message)
        return said if name == "base" else self.field_error.format(label=self.label(name), message=said)
