"""The address of a client, as servers and proxies report it."""

from collections.abc import Callable
from datetime import timedelta
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.support import SECRET, Clock, FakeConnection, MemoryUsers
from powauth import Event, Limit, RequestAuth, SessionAuth, Throttle, Throttled
from powauth.accounts.addresses import UNKNOWN_SOURCE, client_address, source_network
from powauth.backends.base import drive
from powauth.backends.memory import MemoryBackend
from powauth.http.metadata import default_metadata

WRONG = {"email": "ada@example.com", "password": "wrong"}
PORTS = st.integers(0, 65535)
ZONES = st.from_regex(r"[A-Za-z0-9._-]{1,15}", fullmatch=True)


@pytest.mark.parametrize(
    ("reported", "address", "source"),
    [
        ("203.0.113.9:51234", "203.0.113.9", "203.0.113.9"),
        ("203.0.113.9", "203.0.113.9", "203.0.113.9"),
        (" 203.0.113.9\t", "203.0.113.9", "203.0.113.9"),
        ("[2001:db8::1]:443", "2001:db8::1", "2001:db8::/64"),
        ("[2001:DB8:0::1]", "2001:db8::1", "2001:db8::/64"),
        ("2001:db8::1:443", "2001:db8::1:443", "2001:db8::/64"),  # a whole address: the last group is no port
        ("fe80::1%eth0", "fe80::1", "fe80::/64"),
        ("[fe80::1%25eth0]:443", "fe80::1", "fe80::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1", "192.0.2.1"),
        ("::ffff:c000:201", "192.0.2.1", "192.0.2.1"),
        ("[::ffff:192.0.2.1%eth0]:443", "192.0.2.1", "192.0.2.1"),
    ],
)
def test_rep_48_an_address_is_found_without_port_brackets_and_zone(reported: str, address: str, source: str) -> None:
    assert client_address(reported) == address
    assert source_network(reported) == source


@pytest.mark.parametrize(
    "reported",
    [
        "unknown",
        "_hidden",
        "unix:/run/app.sock",
        "203.0.113.09",
        "203.0.113.256:1",
        "203.0.113.9:",
        "203.0.113.9:http",
        "203.0.113.9:123456",
        "203.0.113.9, 198.51.100.7",
        "[2001:db8::1",
        "[2001:db8::1]443",
        "[]:443",
        "[[2001:db8::1]]",
        "2001:db8::1::2",
        "%eth0",
        "\x00",
        "a" * 100_000,
    ],
)
def test_rep_48_what_is_no_address_is_one_source_together(reported: str) -> None:
    assert client_address(reported) is None
    assert source_network(reported) == UNKNOWN_SOURCE


@pytest.mark.parametrize("reported", [None, ""])
def test_rep_48_a_server_that_reports_nothing_names_no_source(reported: str | None) -> None:
    assert client_address(reported) is None
    assert source_network(reported) is None


@given(st.ip_addresses(v=4), PORTS)
def test_rep_48_every_ipv4_address_is_a_source_with_any_port(address: IPv4Address, port: int) -> None:
    for reported in (f"{address}", f"{address}:{port}", f"::ffff:{address}", f"[::ffff:{address}]:{port}"):
        assert source_network(reported) == str(address)


@given(st.ip_addresses(v=6), PORTS, ZONES)
def test_rep_48_every_ipv6_network_is_a_source_with_any_port_and_zone(
    address: IPv6Address, port: int, zone: str
) -> None:
    if address.ipv4_mapped is not None:
        return
    network = str(ip_network((int(address), 64), strict=False))
    spellings: list[Callable[[IPv6Address], str]] = [str, lambda a: a.exploded, lambda a: a.exploded.upper()]
    for spell in spellings:
        text = spell(address)
        for reported in (text, f"{text}%{zone}", f"[{text}]:{port}", f"[{text}%{zone}]:{port}"):
            assert source_network(reported) == network
            assert client_address(reported) == str(address)


@given(st.text(max_size=40))
def test_rep_48_no_text_makes_anything_but_a_network_or_the_unknown_source(reported: str) -> None:
    source = source_network(reported)
    if source not in (None, UNKNOWN_SOURCE):
        ip_network(str(source))
        ip_address(str(client_address(reported)))


def connection_from(reported: str) -> FakeConnection:
    connection = FakeConnection()
    connection.ip = reported
    return connection


def test_rep_48_each_connection_of_a_client_counts_for_one_source() -> None:
    events: list[Event] = []
    auth = SessionAuth(
        secret_key=SECRET,
        users=MemoryUsers(),
        backend=MemoryBackend(),
        throttle=Throttle(per_account=None, per_source=Limit(3, timedelta(minutes=15))),
        clock=Clock(),
        on_event=events.append,
    )
    for port in (50_001, 50_002, 50_003):
        assert drive(RequestAuth(auth, connection_from(f"203.0.113.9:{port}")).sign_in(WRONG)) is None
    with pytest.raises(Throttled):
        drive(RequestAuth(auth, connection_from("203.0.113.9:50004")).sign_in(WRONG))
    assert drive(RequestAuth(auth, connection_from("203.0.113.10:50005")).sign_in(WRONG)) is None
    assert {event.ip for event in events} == {"203.0.113.9", "203.0.113.10"}


def test_rep_48_sessions_and_events_show_the_address_without_the_port() -> None:
    assert default_metadata(connection_from("[2001:DB8::1]:443"))["ip"] == "2001:db8::1"
    assert default_metadata(connection_from("unknown"))["ip"] == "unknown"
    assert default_metadata(connection_from("x" * 1_000))["ip"] == "x" * 64
