"""Types of settings whose text has a format: parsed once, when settings are read.

Each parser takes the text of an environment variable and raises a ValueError that says what is wrong and
does not repeat the text, because a secret may have been put there by mistake.
"""

from collections.abc import Callable, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_network
from pathlib import Path
from typing import Annotated, Literal, TypeAlias, TypeVar, get_args
from urllib.parse import urlsplit

from pydantic import AfterValidator, BeforeValidator
from pydantic_settings import NoDecode

Role = Literal["storefront", "analyst", "admin"]
ROLES: tuple[Role, ...] = get_args(Role)
CLIENT = "client"  # a rate of addresses outside of `own_networks`, whatever their key
MOST_PER_S = 1e9
Network: TypeAlias = IPv4Network | IPv6Network
T = TypeVar("T")


def parse_names(text: str) -> tuple[str, ...]:
    """Names in a comma-separated list.

    >>> parse_names("home, cart,")
    ('home', 'cart')
    """
    return tuple(name for part in text.split(",") if (name := part.strip()))


def parse_urls(text: str) -> tuple[str, ...]:
    """Base URLs in a comma-separated list, without the slash at their ends."""
    return tuple(url.rstrip("/") for url in parse_names(text))


def parse_rates(text: str) -> Mapping[str, float]:
    """Requests a second by role, and for `client`.

    >>> parse_rates("analyst=20, client=0.5")
    {'analyst': 20.0, 'client': 0.5}
    """
    rates = {}
    for entry, pair in enumerate(parse_names(text), start=1):
        name, _, number = pair.partition("=")
        try:
            rates[name] = float(number)
        except ValueError:
            rates[name] = 0.0
        if name not in (*ROLES, CLIENT) or not 0 < rates[name] < MOST_PER_S:
            known = ", ".join((*ROLES, CLIENT))
            raise ValueError(f"entry {entry} is not NAME=REQUESTS_PER_SECOND with a NAME of {known}")
    return rates


def parse_networks(text: str) -> tuple[Network, ...]:
    """IP networks in a comma-separated list.

    >>> parse_networks("10.0.0.0/8,::1/128")
    (IPv4Network('10.0.0.0/8'), IPv6Network('::1/128'))
    """
    networks = []
    for entry, name in enumerate(parse_names(text), start=1):
        try:
            networks.append(ip_network(name))
        except ValueError:
            raise ValueError(f"entry {entry} is not a network like 10.0.0.0/8 or fc00::/7") from None
    return tuple(networks)


def parse_partitions(text: str) -> frozenset[int]:
    """Partition numbers in a list of ranges; empty for no text.

    >>> sorted(parse_partitions("0-2,5"))
    [0, 1, 2, 5]
    """
    try:
        ends = [(int(part.split("-")[0]), int(part.split("-")[-1])) for part in parse_names(text)]
    except ValueError as error:
        raise ValueError("this is not like 0-3,7") from error
    if backwards := [f"{low}-{high}" for low, high in ends if low > high]:
        raise ValueError(f"{backwards[0]} names no partition; write the lower number first")
    return frozenset(index for low, high in ends for index in range(low, high + 1))


def check_redis_url(url: str) -> str:
    """Raise ValueError unless redis-py takes the URL."""
    try:
        parts = urlsplit(url)
        known = parts.scheme in ("redis", "rediss", "unix") and (parts.port is None or parts.port > 0)
    except ValueError:
        known = False
    database = parts.path.strip("/") if known else ""
    if not known or (parts.scheme != "unix" and database and not database.isdecimal()):
        raise ValueError(
            "this is not the URL of a Redis; set it like redis://127.0.0.1:6379/0, or "
            "rediss://user:password@host:6379/0"
        )
    return url


def _from_text(parse: Callable[[str], T]) -> BeforeValidator:
    """A validator that parses text and leaves a value alone that was parsed before."""
    return BeforeValidator(lambda value: parse(value) if isinstance(value, str) else value)


Names = Annotated[tuple[str, ...], NoDecode, _from_text(parse_names)]
Urls = Annotated[tuple[str, ...], NoDecode, _from_text(parse_urls)]
Rates = Annotated[Mapping[str, float], NoDecode, _from_text(parse_rates)]
Networks = Annotated[tuple[Network, ...], NoDecode, _from_text(parse_networks)]
Partitions = Annotated[frozenset[int], NoDecode, _from_text(parse_partitions)]
PathOrNone = Annotated[Path | None, BeforeValidator(lambda value: value or None)]
RedisUrl = Annotated[str, AfterValidator(check_redis_url)]
