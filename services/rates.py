"""How often somebody may do something."""

MOST_NAMES = 50_000


class Buckets:
    """Token buckets of one rate, by name: `per_s` requests a second, and `burst_s` seconds' worth at once.

    Each is one number, the moment at which its bucket is full again (GCRA).
    """

    def __init__(self, per_s: float, burst_s: float):
        self._step_s = 1.0 / per_s
        self._room_s = max(burst_s, self._step_s)
        self._full_at: dict[str, float] = {}

    def wait_s(self, name: str, now_s: float) -> float:
        """Take a token: 0.0; or the seconds until there is one."""
        full_at = max(self._full_at.get(name, 0.0), now_s) + self._step_s
        over_s = full_at - now_s - self._room_s
        if over_s > 1e-9:
            return over_s
        if len(self._full_at) >= MOST_NAMES and name not in self._full_at:
            self._forget(now_s)
        self._full_at[name] = full_at
        return 0.0

    def due_s(self, name: str, now_s: float) -> float:
        """Seconds until there is a token; none is taken."""
        over_s = max(self._full_at.get(name, 0.0), now_s) + self._step_s - now_s - self._room_s
        return over_s if over_s > 1e-9 else 0.0

    def _forget(self, now_s: float) -> None:
        """Drop full buckets, which is no loss; if all are in use, all: memory stays bounded."""
        self._full_at = {name: at for name, at in self._full_at.items() if at > now_s}
        if len(self._full_at) >= MOST_NAMES:
            self._full_at.clear()
