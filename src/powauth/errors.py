"""What a caller of powauth may catch.

Everything raised on purpose derives from `PowauthError`, so that one ``except`` at an app's edge is enough.
Nothing here carries a secret: messages never contain ids, passwords, keys or connection strings.
"""

from collections.abc import Mapping, Sequence


class PowauthError(Exception):
    """Base of every error that powauth raises on purpose."""


class ConfigError(PowauthError, ValueError):
    """An option is wrong or contradicts another; raised at construction, with a sentence that says what to do."""


class MissingExtra(ConfigError):
    """A package that an option needs is not installed; the message names the extra of powauth that installs it.

    Attributes:
        extra: the extra, as in ``pip install 'powauth[extra]'``.
    """

    def __init__(self, message: str, *, extra: str) -> None:
        super().__init__(message)
        self.extra = extra


class ConfigWarning(UserWarning):
    """An option is allowed but weakens a defence, or parts are in the wrong order; the message says what to do."""


class StoreUnavailable(PowauthError):
    """The session store, or the users' database, did not answer or refused: nobody can tell who is signed in.

    Never taken for "anonymous". Where a user is required the answer is 503 and the cookie stays as it is; the
    engine's own error is the ``__cause__``. powauth logs that cause at ERROR, once in ten seconds.

    Attributes:
        logged: whether the log has been told of it.
    """

    logged: bool = False


class StoreMissing(StoreUnavailable):
    """The engine answers, but a table, a database or a file that powauth needs does not exist.

    Nothing recovers by itself: somebody has to create what the message names.
    """


class Overloaded(PowauthError):
    """Too much work is waiting already, so this is refused at once: try again later (503 with ``Retry-After``).

    Attributes:
        retry_after: Seconds to wait before trying again.
    """

    def __init__(self, message: str, *, retry_after: int = 1) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Throttled(PowauthError):
    """Too many attempts: this one was not looked at (429 with ``Retry-After``). Says nothing about any account.

    Attributes:
        scope: Which counter was full: ``"account"``, ``"source"``, ``"proof"`` (a ``current_password``), or
            ``"factor"`` (right passwords without the second factor).
        retry_after: Seconds until it is worth trying again.
    """

    def __init__(self, *, scope: str, retry_after: int) -> None:
        super().__init__("too many attempts; try again later")
        self.scope = scope
        self.retry_after = retry_after


class Refused(PowauthError):
    """A guard said no: who is signed in, or how long ago they proved it, does not fit what was asked for.

    Attributes:
        current_user_key: which authenticator's guard it was, where an app has several; ``None`` if that is not known.
    """

    def __init__(self, message: str = "", *, current_user_key: str | None = None) -> None:
        super().__init__(message)
        self.current_user_key = current_user_key


class NotSignedIn(Refused):
    """An operation that needs a signed-in user was called without one."""


class AlreadySignedIn(Refused):
    """What is for nobody in particular (registering, signing in) was asked for by a signed-in user."""


class NotFresh(Refused):
    """The user is signed in, but proved who they are too long ago for this: they must sign in again."""


class MoreNeeded(Refused):
    """The user has proven one factor, and a hook asks for another one before they get a session (401).

    Raise it from ``before_sign_in`` while the other factor is missing. The right password is then no failure. It does
    not clear the account's earlier failures: only a sign-in does. Raise `Refused` if the other factor is *wrong*.
    That counts as a failure, so that nobody can guess codes without limit.

    Attributes:
        factors: the names of the factors that the client may send, such as ``("totp", "passkey")``.

    Raises:
        ConfigError: if ``factors`` is no sequence of names.

    >>> MoreNeeded(["totp"]).factors
    ('totp',)
    """

    def __init__(self, factors: Sequence[str], *, current_user_key: str | None = None) -> None:
        if isinstance(factors, str) or not factors or not all(isinstance(factor, str) for factor in factors):
            raise ConfigError(f"factors must be names such as ['totp'], not {factors!r}")
        super().__init__("a second factor is required", current_user_key=current_user_key)
        self.factors = tuple(factors)


class CrossSiteRequest(PowauthError):
    """A request that changes something does not come from the app's own pages, or does not say where it comes from."""


class InvalidParams(PowauthError):
    """What a client sent does not make a valid user or change: field to messages, ready for a form or for JSON.

    Attributes:
        errors: field name to the list of messages for it. ``"base"`` holds what concerns no single field.

    >>> InvalidParams({"email": ["has already been taken"]}).errors
    {'email': ['has already been taken']}
    """

    def __init__(self, errors: Mapping[str, Sequence[str]]) -> None:
        super().__init__("invalid: " + ", ".join(sorted(errors)))
        self.errors: dict[str, list[str]] = {field: list(messages) for field, messages in errors.items()}


class MetadataTooLarge(PowauthError, ValueError):
    """Session metadata over its size limit: refused whole, never truncated."""
