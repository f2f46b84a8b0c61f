"""Where a redirect may lead: a path of this origin, and nowhere else."""

import re
from urllib.parse import quote

MAX_OWN_PATH_CHARS = 2048
"""The longest path, with its query, to come back to; more than that no link of an app's own has."""

_UNSAFE = re.compile(r"[\x00-\x20\x7f-\x9f\\]")
_KEPT = "!#$%&'()*+,/:;=?@[]~"


def own_path(value: object) -> str | None:
    """``value``, if it is a path that a browser can only take for one of this origin; ``None`` otherwise.

    It begins with exactly one slash (two name another host; RFC 3986, section 4.2), and holds no backslash, which
    browsers take for a slash, and no white space or control character, which they drop (WHATWG URL, basic parser).
    What is not ASCII comes back percent-encoded, so that it fits into a header. Check again wherever a path that was
    kept somewhere is used.

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
    """Return a path of the app as the client must ask for it: below the prefix that a server or proxy took off.

    A path that is below the prefix already stays as it is. So does every path if the prefix would lead to another
    origin: a proxy may take the prefix from a header that clients can send.

    >>> path_below("/api", "/login"), path_below("/api", "/api/login"), path_below("//evil.example", "/login")
    ('/api/login', '/api/login', '/login')
    """
    prefix = prefix.rstrip("/")
    if not prefix or path == prefix or path.startswith((f"{prefix}/", f"{prefix}?")):
        return path
    return own_path(prefix + path) or path
