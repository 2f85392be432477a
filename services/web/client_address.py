"""Who is at the other end of a connection: one of ours, or a client with a name."""

import re
from collections.abc import Callable, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network

from services.errors import ConfigurationError

_PORT = re.compile(r"^(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?::[0-9]+)?$")  # some proxies say address:port
_REMEMBERED = 10_000


def strangers(networks: str) -> Callable[[str], str | None]:
    """From an address to its name, None for one of `networks` (comma separated) and for what is no address.

    Whoever has one IPv6 address has 2^64 of them: the name is the network's. Raises ConfigurationError.

    >>> name = strangers("10.0.0.0/8")
    >>> name("10.1.2.3"), name("1.2.3.4:99"), name("2001:db8::7")
    (None, '1.2.3.4', '2001:db8::/64')
    """
    try:
        ours = [ip_network(part.strip()) for part in networks.split(",") if part.strip()]
    except ValueError as error:
        raise ConfigurationError(f"RINGSIDE_OWN_NETWORKS: {error}") from error
    return lru_cache(_REMEMBERED)(lambda address: _outside(address, ours))


def parse_address(text: str) -> IPv4Address | IPv6Address | None:
    """An address, with or without a port; None if it is none.

    >>> parse_address("[::ffff:1.2.3.4]:80")
    IPv4Address('1.2.3.4')
    """
    try:
        known = ip_address(_PORT.sub(r"\1\2", text.strip()))
    except ValueError:
        return None
    return getattr(known, "ipv4_mapped", None) or known


def _outside(address: str, ours: Sequence[IPv4Network | IPv6Network]) -> str | None:
    known = parse_address(address)
    if known is None or any(known in network for network in ours):
        return None
    return str(known) if known.version == 4 else str(ip_network((int(known), 64), strict=False))
