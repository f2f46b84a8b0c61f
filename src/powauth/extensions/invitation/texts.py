"""The texts of the pages and of the mail of `Invitation`."""

from typing import Final

TEXTS: Final = {
    "invitations_heading": "Your invitations",
    "invitations_intro": "A person who accepts an invitation creates an account.",
    "invitations_link": "Invite others",
    "invitations_address": "E-mail address",
    "invitations_send": "Send invitation",
    "invitations_make_link": "Make a link",
    "invitations_your_link": "Hand this link out. It is shown only once, and is good for one account:",
    "invitations_by_link": "Invitation by a link",
    "invitations_until": "Valid until",
    "invitations_end": "End",
    "invitations_again": "Send again",
    "invitations_renew": "Make a new link",
    "invitations_none": "You have no open invitations.",
    "invitation_heading": "Accept an invitation",
    "invitation_intro": "Choose a password to create your account.",
    "invitation_token": "Code of the invitation",
    "invitation_token_hint": "Paste the link of the invitation, or the part after the # sign.",
    "invitation_action": "Create account",
    "invitation_sign_out_first": "You are signed in already. Sign out first, and open the link again.",
    "done_invitation_sent": "Your invitation is on its way.",
    "done_invitation_ended": "The invitation is no longer valid.",
    "invitation_gone": "This invitation no longer exists.",
}
"""The texts of the pages. `powauth.pages.Messages.more` replaces them."""

MAIL_TEXTS: Final = {
    "invitation_mail_subject": "You are invited to {title}",
    "invitation_mail_text": (
        "Somebody invites you to {title}. Follow this link to create your account. It is valid for {days} days."
    ),
    "invitation_mail_link": "Accept the invitation",
    "invitation_mail_else": "If you do not want an account, ignore this mail.",
}
"""The texts of the mail. The option ``mail_texts`` of `Invitation` replaces them."""
