"""The exceptions that a caller of powauth may catch.

All of them derive from `PowauthError`, so one ``except`` at the edge of an app is enough. Their messages contain no
secret: no ids, passwords, keys or connection strings.
"""

from collections.abc import Mapping, Sequence
from datetime import timedelta


class PowauthError(Exception):
    """Base of every error that powauth raises on purpose."""


class ConfigError(PowauthError, ValueError):
    """An option is wrong or contradicts another one. Raised at construction. The message says what to do."""


class MissingExtra(ConfigError):
    """An option needs a package that is not installed. The message names the extra of powauth that installs it.

    Attributes:
        extra: the extra, as in ``pip install 'powauth[extra]'``.
    """

    def __init__(self, message: str, *, extra: str) -> None:
        super().__init__(message)
        self.extra = extra


class ConfigWarning(UserWarning):
    """An allowed option weakens a defence, or parts are in the wrong order. The message says what to do."""


class StoreUnavailable(PowauthError):
    """The session store, or the users' database, did not answer or refused, so the user of a request is unknown.

    powauth never treats such a request as anonymous. A request that needs the user gets 503, and its cookie stays
    unchanged. The engine's own error is the ``__cause__``. powauth logs it at ERROR, once in ten seconds.

    Attributes:
        logged: whether powauth has logged the error already.
    """

    logged: bool = False


class StoreMissing(StoreUnavailable):
    """The engine answers, but a table, a database or a file that powauth needs does not exist.

    The error does not go away by itself: somebody has to create what the message names.
    """


class Overloaded(PowauthError):
    """Too much work is waiting, so powauth refuses more at once. Try again later (503 with ``Retry-After``).

    Attributes:
        retry_after: how long to wait before trying again.
    """

    def __init__(self, message: str, *, retry_after: timedelta = timedelta(seconds=1)) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class Throttled(PowauthError):
    """There were too many attempts, so powauth did not check this one (429 with ``Retry-After``).

    The error reveals nothing about any account.

    Attributes:
        scope: the counter that was full: ``"account"``, ``"source"``, ``"current_password"``, or ``"factor"``
            (right passwords without the second factor).
        retry_after: the time until another attempt can succeed, in whole seconds.
    """

    def __init__(self, *, scope: str, retry_after: timedelta) -> None:
        super().__init__("too many attempts; try again later")
        self.scope = scope
        self.retry_after = retry_after


class Accepted(PowauthError):
    """A flow was accepted and goes on elsewhere, such as by a mail (202). Nobody was signed in by it.

    An extension raises it where the flow would return a user. The answer must be the same for every account, so the
    message says only what a client can do next.

    Attributes:
        code: what happens next, for programs: the ``"accepted"`` of the JSON response.
        page: the name of the page of `powauth.pages` that tells people what to do next. ``None`` if there is none.
        done: the key of the confirmation on that page.

    >>> Accepted("We have sent you a mail.", code="mail_sent").code
    'mail_sent'
    """

    def __init__(self, message: str, *, code: str, page: str | None = None, done: str | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.page = page
        self.done = done


class Refused(PowauthError):
    """A guard or a hook refused the request.

    Attributes:
        current_user_key: the authenticator whose guard refused, if an app has several. ``None`` if it is not known.
        code: the reason, for programs: the ``"error"`` of the JSON response.
        page: the name of the page of `powauth.pages` that helps people on. ``None`` if there is none.
        done: the key of the text on that page.
    """

    code: str = "refused"
    page: str | None = None
    done: str | None = None

    def __init__(
        self,
        message: str = "",
        *,
        current_user_key: str | None = None,
        code: str = "refused",
        page: str | None = None,
        done: str | None = None,
    ) -> None:
        super().__init__(message)
        self.current_user_key = current_user_key
        self.code = code
        self.page = page
        self.done = done


class NotSignedIn(Refused):
    """An operation that needs a signed-in user was called without one."""


class AlreadySignedIn(Refused):
    """A signed-in user asked for something that is for anonymous users, such as signing in or registering."""


class NotFresh(Refused):
    """The operation needs a recent sign-in, and the user's sign-in is too old: the user must sign in again.

    Attributes:
        methods: the ways of which one must be proven again; ``None`` if any will do. See
            `powauth.http.guards.require_fresh`.
    """

    def __init__(
        self, message: str = "", *, current_user_key: str | None = None, methods: Sequence[str] | None = None
    ) -> None:
        super().__init__(message, current_user_key=current_user_key)
        self.methods = None if methods is None else tuple(methods)


class MoreNeeded(Refused):
    """The user has proven one factor, and a hook asks for another one before the session begins (401).

    Raise it from ``before_sign_in`` while the other factor is missing. powauth then does not count the right password
    as a failure. It does not clear the account's earlier failures either: only a complete sign-in does. Raise `Refused`
    if the other factor is *wrong*. That counts as a failure, so nobody can guess codes without limit.

    Attributes:
        factors: the names of the factors that the client may send, such as ``("totp", "passkey")``.
        challenge: a value that a program sends together with the other factor, if it keeps no cookies.

    Raises:
        ConfigError: if ``factors`` is no sequence of names.

    >>> MoreNeeded(["totp"]).factors
    ('totp',)
    """

    def __init__(
        self,
        factors: Sequence[str],
        *,
        current_user_key: str | None = None,
        challenge: str | None = None,
        page: str | None = None,
    ) -> None:
        if isinstance(factors, str) or not factors or not all(isinstance(factor, str) for factor in factors):
            raise ConfigError(f"factors must be names such as ['totp'], not {factors!r}")
        super().__init__("a second factor is required", current_user_key=current_user_key, page=page)
        self.factors = tuple(factors)
        self.challenge = challenge


class CrossSiteRequest(PowauthError):
    """A request that changes something does not come from the app's own pages, or does not name its origin."""


class InvalidParams(PowauthError):
    """The client's input is not a valid user or change.

    Attributes:
        errors: maps each field name to its messages, ready for a form or for JSON. ``"base"`` holds the messages that
            concern no single field.

    >>> InvalidParams({"email": ["has already been taken"]}).errors
    {'email': ['has already been taken']}
    >>> print(InvalidParams({"email": ["has already been taken"]}))
    invalid: email (has already been taken)
    """

    def __init__(self, errors: Mapping[str, Sequence[str]]) -> None:
        shown = (f"{field} ({', '.join(messages)})" for field, messages in sorted(errors.items()))
        super().__init__("invalid: " + ", ".join(shown))
        self.errors: dict[str, list[str]] = {field: list(messages) for field, messages in errors.items()}


class Overtaken(InvalidParams):
    """An account has changed since somebody read it, so a change that depends on it was not written.

    See ``proof`` of `powauth.UsersContext.update`.
    """

    def __init__(self) -> None:
        super().__init__({"base": ["was changed at the same time; try again"]})


class MetadataTooLarge(PowauthError, ValueError):
    """The session metadata exceeds its size limit. powauth refuses it as a whole and never truncates it."""
