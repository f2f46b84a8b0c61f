"""All texts of the pages. An app can change or translate each of them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from typing import Final

USER_ID: Final = "{user_id}"
"""The place in a text for the name of the user id."""


@dataclass(frozen=True, kw_only=True)
class Messages:
    """The texts. Replace some of them, or all of them and ``lang`` for another language.

    In a text, ``{user_id}`` stands for the name of what users sign in with, such as "e-mail address"; see ``names``.

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

    names: Mapping[str, str] = field(default_factory=lambda: {"email": "e-mail address", "username": "user name"})
    """Names of the user ids within a sentence. If one is missing, the pages make one from the field's name."""

    either: str = "{first} or {second}"
    """The name of two user ids with either of which a user can sign in."""

    optional: str = "{label} (optional)"
    """The label of a field that may be left empty."""

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
    sign_in_refused: str = "That {user_id} and password do not match an account."
    second_factor: str = "Your password is right. Now confirm that it is you."
    sign_in_first: str = "Sign in to go on."
    sign_in_again: str = "Confirm that it is you: enter your password again."
    remember: str = "Stay signed in on this device"
    no_account: str = "No account yet?"
    sign_out: str = "Sign out"

    account: str = "Your account"
    change_user_id: str = "{user_id}"
    change_user_id_action: str = "Change {user_id}"
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
            "user_id": "Your {user_id} has been changed.",
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
            "bad_request": "The form was incomplete. Go back and send it again.",
            "too_large": "The form was too large. Go back and shorten what you entered.",
            "unsupported_media_type": "This kind of form is not taken here.",
            "cross_site_request": "For your safety, this was refused: it did not come from this site's own pages.",
            "not_signed_in": "Sign in first.",
            "second_factor_required": "This needs a second confirmation that it is you.",
            "already_signed_in": "You are signed in already.",
            "refused": "This is not allowed.",
            "store_unavailable": "We cannot reach your account right now. You are not signed out: try again soon.",
            "overloaded": "Too much is going on right now. Try again in a moment.",
            "internal_error": "Something went wrong on our side. Try again in a moment.",
        }
    )
    """Texts shown instead of a page, by the error code that programs get."""

    try_again: Mapping[str, str] = field(
        default_factory=lambda: {
            "seconds": "To keep accounts safe, only a few attempts are allowed. Try again in {count} seconds.",
            "minutes": "To keep accounts safe, only a few attempts are allowed. Try again in {count} minutes.",
            "hours": "To keep accounts safe, only a few attempts are allowed. Try again in {count} hours.",
        }
    )
    """Texts after too many attempts, by the unit of the time to wait. The count is at least 2."""

    headings: Mapping[str, str] = field(
        default_factory=lambda: {
            "not_found": "Page not found",
            "store_unavailable": "Try again soon",
            "overloaded": "Try again soon",
            "throttled": "Too many attempts",
        }
    )
    """Headings of these pages, by the error code. The others have the heading ``failure``."""

    more: Mapping[str, str] = field(default_factory=dict)
    """Texts that replace those of the extensions' pages (`powauth.pages.Page`)."""

    failure: str = "That did not work"
    go_back: str = "Back to your account"
    go_to_sign_in: str = "Go to the sign-in page"

    def label(self, name: str) -> str:
        """Return the label of a field."""
        return self.labels.get(name) or name.replace("_", " ").capitalize()

    def name(self, user_ids: Sequence[str]) -> str:
        """Return the name of one or several user ids within a sentence.

        >>> Messages().name(["email", "username"])
        'e-mail address or user name'
        """
        first, *others = (self.names.get(each) or each.replace("_", " ") for each in user_ids)
        for other in others:
            first = self.either.format(first=first, second=other)
        return first

    def naming(self, user_ids: Sequence[str]) -> "Messages":
        """Return these texts with the name of the user ids in the place of ``{user_id}``.

        A text that begins with the name gets a capital letter.

        >>> Messages().naming(["username"]).change_user_id
        'User name'
        """
        name = self.name(user_ids)

        def filled(text: str) -> str:
            return capital(text.replace(USER_ID, name)) if text.startswith(USER_ID) else text.replace(USER_ID, name)

        found: dict[str, object] = {}
        for each in fields(self):
            value = getattr(self, each.name)
            found[each.name] = (
                filled(value) if isinstance(value, str) else {key: filled(text) for key, text in value.items()}
            )
        return replace(self, **found)  # type: ignore[arg-type] # the types are those of the fields

    def error(self, name: str, message: str) -> str:
        """Return the error of a field as a sentence."""
        said = self.errors.get(message, message)
        return said if name == "base" else self.field_error.format(label=self.label(name), message=said)


def capital(text: str) -> str:
    """Return a text with a capital letter at its beginning."""
    return text[:1].upper() + text[1:]
