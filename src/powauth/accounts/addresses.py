"""Client addresses in canonical form, from the different forms that servers and proxies report."""

import ipaddress
import re

IPV6_PREFIX = 64
"""Prefix length of the network that one customer has (RFC 6177). The customer may send from any address in it."""

UNKNOWN_SOURCE = "unknown"
"""The source that stands for every value that is no address. Proxies write this word (RFC 7239, section 6.2)."""

_OCTET = "(?:25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])"
_IPV4 = re.compile(rf"(?:{_OCTET}\.){{3}}{_OCTET}")
"""An IPv4 address in its only spelling."""

_IPV4_WITH_PORT = re.compile(r"([0-9.]{7,15}):[0-9]{1,5}")
_IN_BRACKETS = re.compile(r"\[([^\[\]]{2,64})\](?::[0-9]{1,5})?")


def client_address(reported: str | None) -> str | None:
    """Return the client's address in its canonical form, or ``None`` if ``reported`` holds no address.

    The result has no port, no brackets and no zone. Some proxies append the port (RFC 7239, section 6), which differs
    for each connection of a client. An IPv4 address that an IPv6 socket reports (``::ffff:192.0.2.1``) becomes IPv4.

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
    """Return the source of attempts: an IPv4 address, an IPv6 network of 64 bits, `UNKNOWN_SOURCE` or ``None``.

    All values that are no address share `UNKNOWN_SOURCE`. Otherwise, behind a proxy that passes on the clients' text,
    each attempt could have a new counter. ``None`` means that the server reports no address.

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
