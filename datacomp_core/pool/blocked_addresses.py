"""Decides which addresses a download must not contact: one dated table, and the IPv6 forms that represent IPv4.

`special_addresses.csv` has the 26 + 25 networks of IANA's IPv4 and IPv6 Special-Purpose Address Registries as last updated on
2025-10-09 (iana-ipv4-special-registry-1.csv, iana-ipv6-special-registry-1.csv; compared row by row with a copy of 2026-07-18),
and six more: multicast, IPv4-compatible, IPv4-translated, site-local, and a cloud's service in public space. No web server has
such an address, so all are refused, including those that are globally reachable; a form that represents an IPv4 address is
judged by that address. Python's own `is_global` changes with its version and is not used.
"""

from __future__ import annotations

import csv
import ipaddress
import re
import socket
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple
from urllib.parse import unquote

Address = ipaddress.IPv4Address | ipaddress.IPv6Address
Network = ipaddress.IPv4Network | ipaddress.IPv6Network

TABLE = Path(__file__).with_name("special_addresses.csv")
AS_OF = "2025-10-09"
"""Last update of both registries when the table was compared with them."""
UNICAST = ipaddress.IPv6Network("2000::/3")
"""Networks that IANA has assigned for global unicast: other addresses are unassigned."""
MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")
NAT64 = ipaddress.IPv6Network("64:ff9b::/96")
SIX_TO_FOUR = ipaddress.IPv6Network("2002::/16")
NUMBER = re.compile(r"[0-9]+|0x[0-9a-f]*")
PRIVATE_NAMES = (".localhost", ".localdomain", ".local", ".internal", ".home.arpa")
ISATAP = (0x0000_5EFE, 0x0200_5EFE)
"""The high half of an interface identifier of ISATAP (RFC 5214); the low half is an IPv4 address."""


class AddressRange(NamedTuple):
    """A row of the table. `judged`: `refused`, or `inside` if an IPv4 address in it is judged."""

    network: Network
    name: str
    defined_by: str
    judged: str


@cache
def table() -> tuple[AddressRange, ...]:
    with TABLE.open(encoding="utf-8", newline="") as file:
        return tuple(
            AddressRange(ipaddress.ip_network(row["network"]), row["name"], row["defined_by"], row["judged"])
            for row in csv.DictReader(file)
        )


def is_blocked(address: str, open_networks: Sequence[Network] = ()) -> bool:
    """Return whether an address is special in any way: private, loopback, link-local, reserved, multicast, a cloud's metadata
    service.

    An IPv6 address that represents an IPv4 address is judged by that (mapped, NAT64, 6to4), and refused if its form is for
    local use or obsolete (compatible, translated, Teredo, ISATAP). ValueError if it is not an address.
    """
    given = ipaddress.ip_address(address.partition("%")[0])
    if any(given.version == network.version and given in network for network in open_networks):
        return False
    if isinstance(given, ipaddress.IPv4Address):
        return _is_special(given)
    inside = _inside(given)
    if inside is not None:
        return is_blocked(str(inside), open_networks)
    return given not in UNICAST or _is_special(given) or _is_isatap(given)


def is_blocked_host(host: str, open_networks: Sequence[Network] = ()) -> bool:
    """Whether a url's host must not even be named to a proxy: a special address in any spelling, or a name of no public net.

    Resolvers and proxies read octal, hexadecimal, short and single numbers as IPv4 addresses, escapes and a final dot as nothing.
    A name is for the proxy to resolve, but for those that never are of the public net (RFC 6761, 6762, 8375; ICANN's `internal`),
    unless private networks are open.
    """
    text = unquote(host).strip("[]").rstrip(".").lower()
    try:
        return is_blocked(text, open_networks)
    except ValueError:  # in no form of today
        last = text.rpartition(".")[2]
    if not NUMBER.fullmatch(last):
        return not open_networks and (last == text or text.endswith(PRIVATE_NAMES))
    try:
        return is_blocked(socket.inet_ntoa(socket.inet_aton(text)), open_networks)
    except OSError:  # a host that ends in a number is an address or nothing
        return True


def _is_special(address: Address) -> bool:
    return any(address.version == row.network.version and address in row.network for row in table() if row.judged == "refused")


def _inside(address: ipaddress.IPv6Address) -> ipaddress.IPv4Address | None:
    """Return the IPv4 address that traffic to this one reaches."""
    if address in MAPPED or address in NAT64:
        return ipaddress.IPv4Address(int(address) & 0xFFFF_FFFF)
    if address in SIX_TO_FOUR:
        return ipaddress.IPv4Address(int(address) >> 80 & 0xFFFF_FFFF)
    return None


def _is_isatap(address: ipaddress.IPv6Address) -> bool:
    return int(address) >> 32 & 0xFFFF_FFFF in ISATAP
