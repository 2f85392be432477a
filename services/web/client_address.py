"""The client at the other end of a connection, named by its address."""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from services.setting_types import Network

_PORT = re.compile(r"^(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::[0-9]+)?$")  # some proxies send address:port
_REMEMBERED = 10_000


def strangers(networks: Sequence[Network]) -> Callable[[str], str | None]:
    """A function from an address to its client's name: None in `networks` and for text that is no address.

    A host with one IPv6 address has 2^64 of them, so the name is that of its /64 network.

    >>> from ipaddress import ip_network
    >>> name = strangers([ip_network("10.0.0.0/8")])
    >>> name("10.1.2.3"), name("1.2.3.4:99"), name("2001:db8::7")
    (None, '1.2.3.4', '2001:db8::/64')
    """
    return lru_cache(_REMEMBERED)(lambda address: _outside(address, networks))


def parse_address(text: str) -> IPv4Address | IPv6Address | None:
    """An address, with or without a port; None for any other text.

    >>> parse_address("[::ffff:1.2.3.4]:80")
    IPv4Address('1.2.3.4')
    """
    try:
        known = ip_address(_PORT.sub(r"\1\2", text.strip()))
    except ValueError:
        return None
    return getattr(known, "ipv4_mapped", None) or known


def _outside(address: str, networks: Sequence[Network]) -> str | None:
    known = parse_address(address)
    if known is None or any(known in network for network in networks):
        return None
    return str(known) if known.version == 4 else str(ip_network((int(known), 64), strict=False))
