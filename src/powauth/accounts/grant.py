"""`Grant`: the options of a new session."""

import re
from collections.abc import Collection, Mapping
from typing import Final

import msgspec

from powauth._options import wrong
from powauth.accounts.records import Attempt
from powauth.backends.base import Millis

PASSWORD: Final = "pwd"  # noqa: S105 - a name
"""The method of a password (RFC 8176, section 2)."""

_METHOD: Final = re.compile(r"[a-z][a-z0-9_.-]{0,31}\Z")

MethodTimes = Mapping[str, Millis | None]
"""Methods by which a user has proven their identity, with the time of each. ``None`` is the time of the sign-in."""


class Grant(msgspec.Struct, frozen=True):
    """The options of a new session.

    Attributes:
        remember: whether the session outlives the browser session. ``None`` keeps the choice of the replaced session.
        bearer: whether a program gets the id as a bearer token. ``None`` keeps the choice of the replaced session.
        fresh: whether the user has just proven their identity. Otherwise `powauth.RequestAuth.is_fresh` is false.
        attempt: the attempt that led to the session, if a password was checked.
        same_proof: whether the account must still have the proof that was checked.
        amr: the methods by which the user has proven their identity. ``None`` keeps those of the current session.
        once: whether the sign-in fails if the user's sessions are revoked meanwhile. Otherwise the account is read
            again, and no hook runs for it.
    """

    remember: bool | None = None
    bearer: bool | None = None
    fresh: bool = True
    attempt: Attempt | None = None
    same_proof: bool = False
    amr: MethodTimes | None = None
    once: bool = False


AS_BEFORE: Final = Grant()
"""The grant of a user who is signed in again after a change: everything stays as it was."""


def times_of(grant: Grant) -> dict[str, Millis]:
    """Return the proven methods of a grant with their times. A method without a time gets 0, so it is never fresh."""
    return {method: 0 if at is None else at for method, at in (grant.amr or {}).items()}


def checked_amr(amr: Collection[str] | None) -> MethodTimes | None:
    """Return an option that names what a user has just proven. ``None`` stays ``None``.

    Raises:
        ConfigError: if it is no collection of names.
    """
    if amr is None:
        return None
    if isinstance(amr, str) or not all(isinstance(each, str) and _METHOD.match(each) for each in amr):
        raise wrong("amr", "names of what was proven, such as ['mfa']", amr)
    return dict.fromkeys(amr)


def checked_methods(methods: Collection[str]) -> Collection[str]:
    """Return an option that names methods, one of which a user must have proven.

    Raises:
        ConfigError: if it is no collection of names, or empty.
    """
    if not checked_amr(methods):
        raise wrong("methods", "names of what a user can prove, such as ['otp', 'hwk']", methods)
    return methods
