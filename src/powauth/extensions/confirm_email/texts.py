"""The texts of the pages and of the mail of `ConfirmEmail`."""

from typing import Final

TEXTS: Final = {
    "confirm_email_heading": "Confirm your address",
    "confirm_email_intro": "Confirm that you receive mail at this address.",
    "confirm_email_new_password": "Choose a password for your account. Everybody else who used it is signed out.",
    "confirm_email_action": "Confirm",
    "confirm_email_token": "Code from the mail",
    "confirm_email_token_hint": "Paste the link from the mail, or the part after the # sign.",
    "confirm_email_again_heading": "Get another mail",
    "confirm_email_again_intro": "If this address waits for its confirmation, we send a new link to it.",
    "confirm_email_again_action": "Send mail",
    "confirm_email_complete_heading": "Complete your account",
    "confirm_email_complete_intro": "Your e-mail address is confirmed. Choose a password to create your account.",
    "confirm_email_complete_action": "Create account",
    "confirm_email_sign_out_first": "You are signed in to another account. Sign out first, and open the link again.",
    "confirm_email_change_heading": "Confirm your new address",
    "confirm_email_change_intro": "From now on you sign in with the new address. All other devices are signed out.",
    "confirm_email_change_sign_in": "Sign in to your account first. Then open the link in the mail again.",
    "confirm_email_change_action": "Use the new address",
    "confirm_email_undo_heading": "Keep your old address",
    "confirm_email_undo_intro": (
        "Your account keeps its old address. Choose a new password, because somebody may know your present one. "
        "Everybody is signed out."
    ),
    "confirm_email_undo_action": "Keep the old address",
    "done_confirm_email_sent": "If this address can be used, we have sent a mail to it. Follow the link in it.",
    "done_confirm_email_refused": (
        "Confirm your e-mail address before you sign in: follow the link in our mail. You can get another mail here."
    ),
    "done_confirm_email_change": "We have sent a mail to the new address. It is yours once you follow the link in it.",
    "done_confirm_email_confirmed": "Your e-mail address is confirmed.",
    "done_confirm_email_changed": "Your e-mail address has been changed.",
    "done_confirm_email_undone": "Your account has its old address, and the new password. Everybody is signed out.",
}
"""The texts of the pages. `powauth.pages.Messages.more` replaces them."""

MAIL_TEXTS: Final = {
    "confirm_email_mail_register_subject": "Complete your account at {title}",
    "confirm_email_mail_register_text": (
        "Somebody wants to create an account at {title} with this e-mail address. "
        "If it was you, follow this link to choose a password. The link is valid for {hours} hours."
    ),
    "confirm_email_mail_register_link": "Complete your account",
    "confirm_email_mail_register_else": "If it was not you, ignore this mail. There is no account then.",
    "confirm_email_mail_confirm_subject": "Confirm your e-mail address at {title}",
    "confirm_email_mail_confirm_text": (
        "There is an account at {title} with this e-mail address. "
        "If it is yours, follow this link to confirm the address. The link is valid for {hours} hours."
    ),
    "confirm_email_mail_confirm_link": "Confirm your e-mail address",
    "confirm_email_mail_confirm_else": (
        "If you have not created this account, ignore this mail, or follow the link and choose a password: "
        "the account is then yours alone."
    ),
    "confirm_email_mail_taken_subject": "You have an account at {title}",
    "confirm_email_mail_taken_text": (
        "Somebody wants to use this e-mail address at {title}. You have an account with it already. "
        "If it was you, sign in."
    ),
    "confirm_email_mail_taken_link": "Sign in",
    "confirm_email_mail_taken_else": "If it was not you, ignore this mail. Nobody can use your address without it.",
    "confirm_email_mail_change_subject": "Confirm your new e-mail address at {title}",
    "confirm_email_mail_change_text": (
        "A user of {title} wants to use this e-mail address from now on. If it was you, follow this link in the "
        "browser where you are signed in. The link is valid for {hours} hours."
    ),
    "confirm_email_mail_change_link": "Use this address",
    "confirm_email_mail_change_else": "If it was not you, ignore this mail.",
    "confirm_email_mail_change_notice_subject": "Your e-mail address at {title} is about to change",
    "confirm_email_mail_change_notice_text": (
        "Somebody who knows your password wants to change the e-mail address of your account at {title} to {address}. "
        "If it was not you, follow this link. Your account then keeps this address, also if the change is complete, "
        "and you choose a new password. The link is valid for {days} days."
    ),
    "confirm_email_mail_change_notice_link": "Keep this address",
    "confirm_email_mail_change_notice_else": "If it was you, ignore this mail.",
    "confirm_email_mail_changed_subject": "Your e-mail address at {title} has changed",
    "confirm_email_mail_changed_text": "The e-mail address of your account at {title} is now {address}.",
    "confirm_email_mail_changed_else": (
        "If you have not changed it, follow the link in our earlier mail. It undoes the change for some days."
    ),
}
"""The texts of the mail. The option ``mail_texts`` of `ConfirmEmail` replaces them."""
