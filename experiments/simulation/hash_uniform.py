"""Stateless randomness: uniform numbers that are a hash of integer keys, independent of the order of calls.

The mixer is the finaliser of SplitMix64 (Steele, Lea and Flood 2014, doi 10.1145/2660193.2660195).
"""

import hashlib

import numpy as np
from numpy.typing import ArrayLike, NDArray

_GOLDEN = np.uint64(0x9E3779B97F4A7C15)
_MIX_1 = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2 = np.uint64(0x94D049BB133111EB)


def mix(word: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """A bijection of 64-bit words in which every input bit flips about half of the output bits."""
    with np.errstate(over="ignore"):
        word = word + _GOLDEN
        word = (word ^ (word >> np.uint64(30))) * _MIX_1
        word = (word ^ (word >> np.uint64(27))) * _MIX_2
    return word ^ (word >> np.uint64(31))


def uniform(*keys: ArrayLike) -> NDArray[np.float64]:
    """Uniform numbers in [0, 1), float64 of the broadcast shape of `keys` (integers; their order matters)."""
    state: NDArray[np.uint64] = np.zeros((), np.uint64)
    for key in keys:
        state = mix(state ^ np.asarray(key).astype(np.uint64))
    return (state >> np.uint64(11)).astype(np.float64) * 2.0**-53


def text_key(text: str) -> np.uint64:
    """A 64-bit key of a string (BLAKE2b), the same in every process and on every machine."""
    return np.uint64(int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little"))
