"""How often somebody may do something."""

import os
import struct
from array import array
from collections.abc import MutableSequence
from dataclasses import dataclass, field
from functools import lru_cache, partial
from hashlib import blake2b

ROWS, WIDTH = 4, 32_768
CELLS = ROWS * WIDTH
REMEMBERED = 10_000  # names whose cells are not computed anew: a hash takes as long as all the rest


@dataclass(frozen=True, slots=True)
class Moments:
    """A moment by name in constant memory (1 MiB), which several processes may share: a count-min sketch
    (Cormode, Muthukrishnan 2005) with conservative update (Estan, Varghese 2002).

    A name has a cell in each row, by a hash with a secret `salt`, and its moment is the earliest in its
    cells: names that share a cell only make it later. Somebody innocent is slowed down only if all four of
    their cells are shared with somebody who sends too much: with n of those a chance of
    (1 - exp(-n / WIDTH))^4, 5e-8 at n = 500. To fill the cells by many names takes WIDTH times the rate.
    """

    salt: bytes = field(default_factory=partial(os.urandom, 16), repr=False)
    cells: MutableSequence[float] = field(default_factory=lambda: array("d", bytes(8 * CELLS)), repr=False)

    def places(self, name: str) -> tuple[int, int, int, int]:
        """Where its cells are."""
        digest = blake2b(name.encode("utf-8", "surrogateescape"), key=self.salt, digest_size=16).digest()
        a, b, c, d = struct.unpack("4I", digest)
        return a % WIDTH, b % WIDTH + WIDTH, c % WIDTH + 2 * WIDTH, d % WIDTH + 3 * WIDTH


class RateLimiter:
    """Token buckets of one rate, by name: `per_s` requests a second, and `burst_s` seconds' worth at once.

    Each is one number, the moment at which its bucket is full again (GCRA). Processes that share `moments`
    share the buckets. They take no lock, which a killed process would keep: of two that take from one bucket
    within the same microsecond one may not be counted. So requests more may pass (0.6 % measured, while one
    name takes all that two processes can answer), never one less, and never more than if each process counted
    by itself: a moment is never replaced by an earlier one.
    """

    def __init__(self, per_s: float, burst_s: float, moments: Moments | None = None):
        moments = moments or Moments()
        self._step_s = 1.0 / per_s
        self._room_s = max(burst_s, self._step_s)
        self._cells = moments.cells
        self._places = lru_cache(REMEMBERED)(moments.places)

    def spend(self, name: str, tokens: int, now_s: float) -> None:
        """Take one or more tokens for what was let in already: who owes them waits the longer."""
        self._raise(name, self._full_at(name, now_s) + (tokens - 1) * self._step_s)

    def wait_s(self, name: str, now_s: float) -> float:
        """Take a token: 0.0; or the seconds until there is one."""
        full_at = self._full_at(name, now_s)
        over_s = full_at - now_s - self._room_s
        if over_s > 1e-9:
            return over_s
        self._raise(name, full_at)
        return 0.0

    def due_s(self, name: str, now_s: float) -> float:
        """Seconds until there is a token; none is taken."""
        over_s = self._full_at(name, now_s) - now_s - self._room_s
        return over_s if over_s > 1e-9 else 0.0

    def _raise(self, name: str, full_at: float) -> None:
        cells = self._cells
        for place in self._places(name):
            if cells[place] < full_at:
                cells[place] = full_at

    def _full_at(self, name: str, now_s: float) -> float:
        """When its bucket would be full again if a token were taken now."""
        a, b, c, d = self._places(name)
        cells = self._cells
        full_at = min(cells[a], cells[b], cells[c], cells[d])
        return (full_at if full_at > now_s else now_s) + self._step_s
