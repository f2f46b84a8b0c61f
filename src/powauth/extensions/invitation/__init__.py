"""`Invitation`: users invite others to register, by mail or by a link that they hand out themselves."""

from powauth.extensions.invitation.extension import Invitation
from powauth.extensions.invitation.flows import Invited, Made
from powauth.extensions.invitation.pages import Paths

__all__ = ["Invitation", "Invited", "Made", "Paths"]
