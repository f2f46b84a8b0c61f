"""The address of a client, in one form, whatever the server or a proxy in front of it wrote."""

import ipaddress
import re

IPV6_PREFIX = 64
"""One customer has a whole network of this length (RFC 6177), and may send from every address in it."""

UNKNOWN_SOURCE = "unknown"
"""The one source of everything that is no address. RFC 7239, section 6.2, has proxies write this word."""

_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = re.compile(rf"(?:{_OCTET}\.){{3}}{_OCTET}")
"""An IPv4 address in its only spelling."""

_IPV4_WITH_PORT = re.compile(r"([0-9.]{7,15}):[0-9]{1,5}")
_IN_BRACKETS = re.compile(r"\[([^\[\]]{2,64})\](?::[0-9]{1,5})?")


def client_address(reported: str | None) -> str | None:
    """Return the client's address in its canonical form, or ``None`` if ``reported`` holds no address.

    Some proxies put the port behind the address (RFC 7239, section 6), and every connection of a client has its own.
    The address comes back without a port, without brackets and without a zone. An IPv4 address that a socket of IPv6
    reports (``::ffff:192.0.2.1``) comes back as IPv4.

    >>> client_address("203.0.113.9:51234"), client_address("[2001:DB8::1]:443"), client_address("fe80::1%eth0")
    ('203.0.113.9', '2001:db8::1', 'fe80::1')
    >>> client_address("unknown") is None
    True
    """
    if not reported:
        return None
    if _IPV4.fullmatch(reported):
        return reported
    text = reported.strip(" \t")
    found = _IPV4_WITH_PORT.fullmatch(text) or _IN_BRACKETS.fullmatch(text)
    if found is not None:
        text = found[1]
    if _IPV4.fullmatch(text):
        return text
    try:
        parsed = ipaddress.IPv6Address(text.partition("%")[0])
    except ValueError:
        return None
    return str(parsed if parsed.ipv4_mapped is None else parsed.ipv4_mapped)


def source_network(reported: str | None) -> str | None:
    """Return what counts as one source of attempts: an IPv4 address, an IPv6 network of 64 bits, or `UNKNOWN_SOURCE`.

    Everything that is no address is one source together. Otherwise a proxy that passes on what clients write would
    give every attempt a counter of its own. ``None`` if the server reports nothing.

    >>> source_network("::ffff:192.0.2.1"), source_network("2001:db8:1:2:a::1"), source_network("_hidden")
    ('192.0.2.1', '2001:db8:1:2::/64', 'unknown')
    """
    if not reported:
        return None
    address = client_address(reported)
    if address is None:
        return UNKNOWN_SOURCE
    if ":" not in address:
        return address
    return str(ipaddress.IPv6Network((address, IPV6_PREFIX), strict=False))
