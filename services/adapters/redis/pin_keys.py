"""Where pins lie in Redis, and what says that none are missing.

`/recommend` trusts an absent pin only while the experiment's pins are vouched for by a key beside them: a
Redis that was emptied lost that key too, so from that very moment no unit is taken for a new one. Whoever
puts the pins back (services.bandit.attribution.pin_recovery) vouches again.
"""

import msgspec

from services.ports.pins import Pin

_encode = msgspec.json.Encoder().encode


def pin_key(unit_key: str) -> str:
    """Key of a unit's pin; `unit_key` is "<experiment>|<unit>"."""
    return f"pin:{unit_key}"


def complete_key(unit_key: str) -> str:
    """Key that is there while no pin of the unit's experiment is missing."""
    return f"{{pins}}:whole:{unit_key.partition('|')[0]}"


def encoded(pin: Pin) -> bytes:
    """A pin as it is stored."""
    return _encode((pin.weights_version, pin.arm, pin.propensity, pin.unit_at))
