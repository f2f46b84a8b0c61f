"""The texts of the pages and of the mail of `Passkeys`."""

from typing import Final

TEXTS: Final = {
    "passkeys_heading": "Your passkeys",
    "passkeys_intro": "A passkey signs you in with the lock of your device, such as your fingerprint.",
    "passkeys_link": "Passkeys",
    "passkeys_none": "You have no passkeys yet.",
    "passkeys_label": "Name",
    "passkeys_label_hint": "Optional, such as the name of the device.",
    "passkeys_add": "Add a passkey",
    "passkeys_no_scripts": "Passkeys need JavaScript, and a browser that supports them.",
    "passkeys_confirm_first": "To add or remove passkeys, confirm that it is you.",
    "passkeys_confirm": "Confirm that it is you",
    "passkeys_created": "Added",
    "passkeys_used": "Last used",
    "passkeys_never": "never",
    "passkeys_synced": "On several devices",
    "passkeys_rename": "Rename",
    "passkeys_remove": "Remove",
    "passkeys_remove_of": "Remove {label}",
    "passkeys_rename_of": "Rename {label}",
    "passkeys_gone": "This passkey no longer exists.",
    "passkeys_last": "This is your last way to sign in. Set a password or add another passkey first.",
    "passkeys_most": "You have the maximum number of passkeys. Remove one first.",
    "passkeys_taken": "This passkey is registered already.",
    "passkeys_failed": "The passkey could not be added. Try again.",
    "done_passkey_added": "Your passkey has been added. You are signed out on all other devices.",
    "done_passkey_renamed": "Your passkey has been renamed.",
    "done_passkey_removed": "Your passkey has been removed. You are signed out on all other devices.",
}
"""The texts of the page with the passkeys. `powauth.pages.Messages.more` replaces them."""

SIGN_IN_TEXTS: Final = {
    "passkey_action": "Sign in with a passkey",
    "passkey_confirm_action": "Confirm with a passkey",
    "passkey_refused": "That passkey was not accepted. Try again, or sign in with your password.",
    "passkey_cancelled": "No passkey was used. Try again, or sign in with your password.",
    "passkey_heading": "Sign in with a passkey",
    "passkey_to_password": "Sign in with your password",
}
"""The texts of the sign-in with a passkey."""

FACTOR_TEXTS: Final = {
    "factor_passkey": "Passkey",
    "factor_passkey_action": "Use your passkey",
    "factor_passkey_add": "Add a passkey",
    "factor_passkey_cancelled": "No passkey was used. Try again.",
    "factor_passkey_offer": "Make a passkey with the lock of your device, such as your fingerprint.",
    "passkeys_no_scripts": TEXTS["passkeys_no_scripts"],
}
"""The texts of a passkey as a second factor."""

MAIL_TEXTS: Final = {
    "passkey_mail_added_subject": "A passkey was added to your account at {title}",
    "passkey_mail_added_text": (
        "The passkey “{label}” was added to your account at {title}. It signs in without a password."
    ),
    "passkey_mail_removed_subject": "A passkey was removed from your account at {title}",
    "passkey_mail_removed_text": "The passkey “{label}” was removed from your account at {title}.",
    "passkey_mail_else": "If that was not you, remove the passkeys that you do not know, and change your password.",
    "passkey_mail_link": "Your passkeys",
}
"""The texts of the mail. The option ``mail_texts`` of `Passkeys` replaces them."""
