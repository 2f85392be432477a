"""Rates by name, per process: each worker counts the requests that it answers itself."""

from threading import Lock

from cachetools import LRUCache

NAMES = 50_000  # the least recently seen name beyond is forgotten, as if it had not sent anything
_ROUNDING_S = 1e-9


class RateLimiter:
    """Token buckets of one rate: `per_s` tokens a second, and at most `burst_s` seconds' worth at once.

    A bucket is one number, the time at which it is full again (GCRA, the generic cell rate algorithm of ATM).
    Safe to use from several threads.
    """

    def __init__(self, per_s: float, burst_s: float):
        self._token_s = 1.0 / per_s
        self._burst_s = max(burst_s, self._token_s)
        self._full_at: LRUCache[str, float] = LRUCache(NAMES)
        self._lock = Lock()

    def take(self, name: str, now_s: float) -> float:
        """Take a token and return 0.0, or return the seconds until there is one."""
        with self._lock:
            full_at = max(now_s, self._full_at.get(name, now_s)) + self._token_s
            wait_s = full_at - now_s - self._burst_s
            if wait_s > _ROUNDING_S:
                return wait_s
            self._full_at[name] = full_at
            return 0.0

    def charge(self, name: str, tokens: int, now_s: float) -> None:
        """Take `tokens` even if there are none, for admitted work; a debt lengthens the next wait."""
        with self._lock:
            full_at = max(now_s, self._full_at.get(name, now_s))
            self._full_at[name] = full_at + tokens * self._token_s

    def wait_s(self, name: str, now_s: float) -> float:
        """Return the seconds until there is a token; take none."""
        with self._lock:
            wait_s = self._full_at.get(name, now_s) + self._token_s - now_s - self._burst_s
        return wait_s if wait_s > _ROUNDING_S else 0.0
