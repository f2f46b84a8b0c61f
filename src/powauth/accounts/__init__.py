"""Users: the protocol (`powauth.accounts.base`), passwords, and users in an app's own database."""
