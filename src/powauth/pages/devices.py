"""Device names from the ``User-Agent``, precise enough for users to recognise their devices."""

import re

from powauth.pages.messages import Messages

MAX_NAME_CHARS = 80
"""The most characters of a ``User-Agent`` that are shown if the browser is unknown."""

# The order matters: Edge and Opera also send "Chrome", and most browsers send "Safari".
_BROWSERS = (
    (re.compile(r"Edg(?:e|A|iOS)?/"), "Edge"),
    (re.compile(r"OPR/|Opera"), "Opera"),
    (re.compile(r"SamsungBrowser/"), "Samsung Internet"),
    (re.compile(r"Firefox/|FxiOS/"), "Firefox"),
    (re.compile(r"Chrom(?:e|ium)/|CriOS/"), "Chrome"),
    (re.compile(r"Safari/"), "Safari"),
)
_SYSTEMS = (
    (re.compile(r"iPhone"), "iPhone"),
    (re.compile(r"iPad"), "iPad"),
    (re.compile(r"Android"), "Android"),
    (re.compile(r"Windows"), "Windows"),
    (re.compile(r"CrOS"), "ChromeOS"),
    (re.compile(r"Mac OS X|Macintosh"), "macOS"),
    (re.compile(r"Linux|X11"), "Linux"),
)


def device_name(user_agent: object, messages: Messages) -> str:
    """Return the names of the browser and its system. If the browser is unknown, return the ``User-Agent``, shortened.

    >>> device_name("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0", Messages())
    'Firefox on Linux'
    >>> device_name("curl/8.14", Messages())
    'curl/8.14'
    """
    if not isinstance(user_agent, str) or not user_agent.strip():
        return messages.unknown_device
    browser = next((name for pattern, name in _BROWSERS if pattern.search(user_agent)), None)
    system = next((name for pattern, name in _SYSTEMS if pattern.search(user_agent)), None)
    if browser and system:
        return messages.device.format(browser=browser, system=system)
    return browser or user_agent[:MAX_NAME_CHARS]
