"""The options of a `SessionAuth` that need a check or a conversion."""

import hashlib
import ipaddress
import re
from datetime import timedelta

import msgspec

from powauth._options import instance, wrong, wrong_type
from powauth._times import duration
from powauth.accounts.throttle import PURPOSE as COUNTERS
from powauth.backends.base import Backend
from powauth.errors import ConfigError
from powauth.sessions.record import Policy, Remembered
from powauth.sessions.store import CredentialsCache

DEFAULT_SESSION_KEY = "auth"

MAX_PORT = 65_535

LONGEST_PART = 16
"""Characters of a name that `short` keeps."""


class Remember(msgspec.Struct, frozen=True):
    """The lifetimes of remembered sessions, an option of `SessionAuth`.

    Attributes:
        ttl: how long an idle session lives.
        max_lifetime: how long a session lives at most.
    """

    ttl: timedelta = timedelta(days=30)
    max_lifetime: timedelta = timedelta(days=90)


def store_of(backend: Backend | str | None, store: CredentialsCache | None, name: str) -> CredentialsCache:
    """Return the store of the sessions of a name, within the store or backend that a `SessionAuth` was given.

    Raises:
        ConfigError: if it was given none, or two, or if the sessions would be among the counters of attempts.
    """
    given = _given(backend, store)
    named = given if name == DEFAULT_SESSION_KEY else given.within(short(name))
    if named.namespace.endswith(f".{COUNTERS}"):
        raise ConfigError(f"session_key and namespace must not end in {COUNTERS!r}: choose another session_key")
    return named


_PUBLIC_URL = re.compile(
    r"(https?)://([A-Za-z0-9.-]+|\[[0-9A-Fa-f:.]+\])(?::([0-9]{1,5}))?((?:/[A-Za-z0-9._~-]+)*)/?\Z"
)
"""A scheme, a host, perhaps a port and a path. No user, no query, no fragment, and nothing outside ASCII."""


def public_url_of(value: object) -> str | None:
    """Return the option ``public_url`` without a slash at its end.

    >>> public_url_of("https://example.org/auth/"), public_url_of("http://localhost:8000"), public_url_of(None)
    ('https://example.org/auth', 'http://localhost:8000', None)

    Raises:
        ConfigError: if it is no such address, or is neither on https nor on this machine. Whoever reads a link in mail
            on its way could use it, so it must lead to https.
    """
    if value is None:
        return None
    found = _PUBLIC_URL.match(value) if isinstance(value, str) else None
    if found is None or {".", ".."} & {*found[4].split("/")} or int(found[3] or 0) > MAX_PORT:
        raise wrong("public_url", "the address of the pages, such as 'https://example.org/auth'", value)
    if found[1] == "http" and not _is_loopback(found[2].lower()):
        raise wrong("public_url", "on https, because links in mail lead there; http is only for localhost", value)
    return str(found[0]).rstrip("/")


def _is_loopback(host: str) -> bool:
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def _given(backend: Backend | str | None, store: CredentialsCache | None) -> CredentialsCache:
    if (backend is None) == (store is None):
        raise ConfigError("give either backend (a Backend or a URL) or store (a CredentialsCache)")
    if backend is not None:
        return CredentialsCache(backend)
    if not isinstance(store, CredentialsCache):
        raise wrong_type("store", "a CredentialsCache", store)
    return store


def short(name: str) -> str:
    """Return a name, or the hash of a long name, as a part of a namespace of limited length.

    >>> short("admin"), short("a" * 64)
    ('admin', '6c0d1add0fa4b6e4')
    """
    if len(name) <= LONGEST_PART:
        return name
    return hashlib.blake2b(name.encode(), digest_size=LONGEST_PART // 2).hexdigest()


def policy_of(
    ttl: timedelta, renewal: timedelta | None, max_lifetime: timedelta, grace: timedelta, remember: Remember | None
) -> Policy:
    """Return the times of a session, in milliseconds.

    Raises:
        ConfigError: if one is wrong, or contradicts another.
    """
    remembered = None
    if remember is not None:
        instance("remember", remember, Remember, "Remember(ttl=..., max_lifetime=...) or None")
        if renewal is None:
            raise ConfigError("remember needs session_ttl_renewal: an id that lives for weeks must be renewed")
        remembered = Remembered(
            duration("the ttl of remember", remember.ttl, at_least=1),
            duration("the max_lifetime of remember", remember.max_lifetime, at_least=1),
        )
    policy = Policy(
        ttl=duration("ttl", ttl, at_least=1),
        renewal=None if renewal is None else duration("session_ttl_renewal", renewal),
        max_lifetime=duration("max_lifetime", max_lifetime, at_least=1),
        grace=duration("grace", grace),
        remembered=remembered,
    )
    if policy.renewal is not None and policy.renewal >= policy.ttl:
        raise ConfigError("session_ttl_renewal must be shorter than ttl, or a session ends before it is renewed")
    if policy.max_lifetime < policy.ttl:
        raise ConfigError("max_lifetime must be at least as long as ttl")
    if policy.grace >= policy.ttl:
        raise ConfigError("grace must be shorter than ttl")
    if remembered is not None:
        if remembered.ttl <= policy.ttl:
            raise ConfigError("the ttl of remember must be longer than ttl")
        if remembered.max_lifetime < max(remembered.ttl, policy.max_lifetime):
            raise ConfigError("the max_lifetime of remember must be at least as long as its ttl and as max_lifetime")
    return policy
