"""Base class of the doubles of Redis, which a test may take down."""

from services.errors import UnavailableError


class Failing:
    """Raises UnavailableError while `down`, as a dead Redis does."""

    down = False

    def _check(self) -> None:
        if self.down:
            raise UnavailableError("redis", "it is down")
