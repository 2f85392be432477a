"""The demo profile: what differs from a production installation so that the loop can be watched in minutes.

Only clocks, deadlines and traffic differ. What decides (alpha, margin, floor, cap, ramp, burn-in, the units
needed for a look) is the product's: `experiments.lifecycle.fold.Rules` and `services.settings.Settings`,
untouched."""

from dataclasses import dataclass

from services.settings import Settings


@dataclass(frozen=True, slots=True)
class Profile:
    """Times in seconds. A simulated session takes about two seconds, so its outcome is final after
    `window_s`."""

    window_s: float = 6.0
    lateness_s: float = 2.0
    look_every_s: float = 3.0
    stall_s: float = 60.0
    refresh_s: float = 0.25
    redis_deadline_ms: int = 250
    rank_deadline_ms: int = 400
    sessions_per_s: float = 60.0
    replicas: int = 2

    def settings(self) -> dict[str, str]:
        """As environment of every process."""
        values = {
            "WINDOW_S": self.window_s,
            "LATENESS_S": self.lateness_s,
            "LOOK_EVERY_S": self.look_every_s,
            "STALL_S": self.stall_s,
            "REFRESH_S": self.refresh_s,
            "REDIS_DEADLINE_MS": self.redis_deadline_ms,
            "RANK_DEADLINE_MS": self.rank_deadline_ms,
            "KAFKA_MODE": "embedded",
        }
        return {f"RINGSIDE_{name}": str(value) for name, value in values.items()}

    def differences(self, product: Settings) -> list[str]:
        """What a viewer must know, one line each."""
        return [
            f"attribution window {self.window_s:g} s (product: {product.window_s / 60:g} min), "
            f"lateness {self.lateness_s:g} s ({product.lateness_s / 60:g} min)",
            f"a look every {self.look_every_s:g} s (product: {product.look_every_s / 60:g} min)",
            f"serving waits {self.redis_deadline_ms} ms for Redis (product: {product.redis_deadline_ms}), "
            f"{self.rank_deadline_ms} ms for a model ({product.rank_deadline_ms}): all share this machine",
            f"{self.sessions_per_s:g} simulated sessions a second, each hurried to about two seconds",
            "alpha, margin, floor, cap, ramp and burn-in are the product's own",
        ]
