"""A circuit breaker: after repeated failures a dependency rests for a while, then one call tries it again."""

from dataclasses import dataclass


@dataclass(slots=True)
class CircuitBreaker:
    """Opens for `rest_s` after `limit` failures in a row; then one call passes, and its result decides.

    Times are monotonic seconds given by the caller.

    >>> breaker = CircuitBreaker(limit=1, rest_s=5)
    >>> breaker.failed(now_s=100); breaker.closed(104), breaker.closed(105), breaker.closed(105)
    (False, True, False)
    >>> breaker.succeeded(); breaker.closed(105)
    True
    """

    limit: int = 5
    rest_s: float = 5.0
    failures: int = 0
    until_s: float = 0.0

    def closed(self, now_s: float) -> bool:
        """Whether a call may be made now; after a rest, only the first caller may."""
        if self.failures < self.limit:
            return True
        if now_s < self.until_s:
            return False
        self.until_s = now_s + self.rest_s  # later callers wait for the result of this call
        return True

    def failed(self, now_s: float) -> None:
        """Count a failed call."""
        self.failures += 1
        self.until_s = now_s + self.rest_s

    def succeeded(self) -> None:
        """Forget all failures."""
        self.failures = 0
