"""Building blocks of extensions. An extension is a feature around the plug: see `powauth.Extension`.

- `OneTimeTokens`: tokens for links in mail, such as that of a password reset.
- `Outbox`: sends mail in the background, by a `Mailer`: `SMTPMailer`, `ConsoleMailer`, or one of the app.
- `compose`: makes a message to one address.

`powauth.extensions.links` has what the pages behind links in mail share. `powauth.extensions.letters` makes mail from
templates.
"""

from powauth.extensions.mail import ConsoleMailer, Mailer, SMTPMailer, compose
from powauth.extensions.outbox import Outbox
from powauth.extensions.tokens import Claim, OneTimeTokens

__all__ = ["Claim", "ConsoleMailer", "Mailer", "OneTimeTokens", "Outbox", "SMTPMailer", "compose"]
