"""Breached passwords without a network."""

import hashlib
from collections.abc import Mapping
from typing import Final

BREACHED: Final = ("correct horse battery staple", "let me in please now")
"""The passwords that `SmallRanges` knows."""

PADDING: Final = b"0" * 35 + b":0"
"""A line that names no password, as the real service pads its responses."""


class SmallRanges:
    """Answers as the service of Have I Been Pwned would if the passwords of `BREACHED` were all that it knew."""

    def get(self, url: str, headers: Mapping[str, str], timeout: float) -> bytes:
        """Return the lines of the passwords whose SHA-1 begins with the digits at the end of the address."""
        del headers, timeout
        digests = [hashlib.sha1(each.encode(), usedforsecurity=False).hexdigest().upper() for each in BREACHED]
        prefix = url.rpartition("/")[2]
        return b"\n".join([PADDING, *(f"{each[5:]}:1".encode() for each in digests if each.startswith(prefix))])
