"""What a replica serves at one moment: an immutable view that every request takes once and keeps to its
end."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from experiments.lifecycle.fold import Arm, Experiment
from services.ports.pins import Pin
from services.recommend.snapshot.catalogue_index import Shelf
from services.recommend.snapshot.model_runner import Placed

Alone = Literal["champion_only", "cut_off"]  # the kill switch is on; no experiment state for too long


@dataclass(frozen=True, slots=True)
class Champion:
    """Arm and model version that serve when nothing else may."""

    arm: str
    model_version: str


@dataclass(frozen=True, slots=True)
class Serving:
    """`models` by model version; `remembered`: the last champion this machine knew; `alone`: why only the
    champion may serve, None when the experiment decides."""

    shelf: Shelf
    models: Mapping[str, Placed] = field(default_factory=dict)
    state: Experiment | None = None
    remembered: Champion | None = None
    alone: Alone | None = None

    @property
    def counting(self) -> bool:
        """Whether slates are assigned by weights, so that they count."""
        return self.alone is None and self.state is not None and self.state.status in ("running", "held")

    @property
    def champion(self) -> Champion | None:
        """Of the state we have, else the remembered one."""
        if self.state is None:
            return self.remembered
        return Champion(self.state.champion, self.state.arms[self.state.champion].model_version)

    def keeps(self, pin: Pin) -> bool:
        """Whether a unit may stay with its pin: its arm is not retired, or the pin is newer than the state we
        know (a replica ahead of us knows an arm that entered, or came back by undo)."""
        if self.state is None:
            return False
        known = self.state.arms.get(pin.arm)
        live = known is not None and known.role != "retired"
        return live or pin.weights_version > self.state.weights.version

    def version_of(self, arm: str) -> str | None:
        """Model version deployed as `arm`."""
        if self.state is not None and arm in self.state.arms:
            return self.state.arms[arm].model_version
        champion = self.champion
        return champion.model_version if champion is not None and champion.arm == arm else None

    def model_of(self, arm: str) -> Placed | None:
        """The loaded model of `arm`, None when it is not loaded."""
        return self.models.get(self.version_of(arm) or "")


def wanted_versions(state: Experiment | None, remembered: Champion | None) -> list[str]:
    """Model versions that a replica must hold, most needed first: the champion, then the other live arms."""
    arms: list[Arm] = state.live_arms() if state is not None else []
    versions = [arm.model_version for arm in arms] or ([remembered.model_version] if remembered else [])
    return list(dict.fromkeys(versions))
