"""Demo profile: the settings that differ from the product's defaults, so that the loop takes minutes.

Only clocks, deadlines and traffic differ. The rules of deciding (alpha, margin, floor, cap, ramp, burn-in,
units needed for a look) are the defaults of `experiments.lifecycle.state.Rules`."""

from dataclasses import dataclass, fields

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
        """Environment variables for every process."""
        names = (field.name for field in fields(self) if field.name not in ("sessions_per_s", "replicas"))
        values = {f"RINGSIDE_{name.upper()}": str(getattr(self, name)) for name in names}
        return values | {"RINGSIDE_KAFKA_MODE": "embedded"}

    def differences(self, product: Settings) -> list[str]:
        """The differences from the product, one line each."""
        return [
            f"attribution window {self.window_s:g} s (product: {product.window_s / 60:g} min), "
            f"lateness {self.lateness_s:g} s ({product.lateness_s / 60:g} min)",
            f"one look every {self.look_every_s:g} s (product: {product.look_every_s / 60:g} min)",
            f"a slate waits {self.redis_deadline_ms} ms for Redis (product: {product.redis_deadline_ms}) and "
            f"{self.rank_deadline_ms} ms for a model ({product.rank_deadline_ms})",
            f"{self.sessions_per_s:g} simulated sessions a second, each about two seconds long",
            "alpha, margin, floor, cap, ramp and burn-in as in the product",
        ]
