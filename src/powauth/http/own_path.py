"""Checks of redirect targets: only a path of this origin is valid."""

import re
from urllib.parse import quote

MAX_OWN_PATH_CHARS = 2048
"""The longest valid path with its query. An app's own links are shorter."""

_UNSAFE = re.compile(r"[\x00-\x20\x7f-\x9f\\]")
_KEPT = "!#$%&'()*+,/:;=?@[]~"


def own_path(value: object) -> str | None:
    """Return ``value`` if any browser reads it as a path of this origin; ``None`` otherwise.

    Such a path begins with exactly one slash: two slashes name another host (RFC 3986, section 4.2). It holds no
    backslash, which browsers read as a slash. It holds no white space or control character, which browsers drop (WHATWG
    URL, basic parser). Characters outside ASCII are percent-encoded, so that the path fits into a header. If a path was
    stored, check it again when you use it.

    >>> own_path("/account?tab=2"), own_path("//evil.example"), own_path("https://evil.example")
    ('/account?tab=2', None, None)
    """
    if not isinstance(value, str) or not value.startswith("/") or value.startswith("//"):
        return None
    if len(value) > MAX_OWN_PATH_CHARS or _UNSAFE.search(value):
        return None
    try:
        return quote(value, safe=_KEPT)
    except UnicodeEncodeError:
        return None


def path_below(prefix: str, path: str) -> str:
    """Return a path of the app as the client must request it: below the prefix that a server or proxy removed.

    A path that is already below the prefix stays unchanged. So does every path if the prefix would lead to another
    origin: a proxy may take the prefix from a header that clients can send.

    >>> path_below("/api", "/login"), path_below("/api", "/api/login"), path_below("//evil.example", "/login")
    ('/api/login', '/api/login', '/login')
    """
    prefix = prefix.rstrip("/")
    if not prefix or path == prefix or path.startswith((f"{prefix}/", f"{prefix}?")):
        return path
    return own_path(prefix + path) or path
