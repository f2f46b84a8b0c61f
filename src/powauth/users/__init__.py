"""Who the users are: the protocol (`powauth.users.base`), passwords, and users in an app's own database."""
