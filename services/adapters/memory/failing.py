"""What the doubles of Redis have in common: a test may take it down."""

from services.errors import UnavailableError


class Failing:
    """Something that can be down: while `down` it raises UnavailableError, as a dead Redis does."""

    down = False

    def _check(self) -> None:
        if self.down:
            raise UnavailableError("redis", "it is down")
