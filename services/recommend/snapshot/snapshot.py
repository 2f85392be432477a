"""What a replica serves at one moment: an immutable snapshot that every request takes once and keeps to its
end."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from experiments.lifecycle.state import Arm, Experiment
from services.experiment_table import ExperimentTable
from services.ports.pins import Pin
from services.recommend.snapshot.catalogue_index import CatalogueIndex
from services.recommend.snapshot.model_runner import BoundModel

# champion_only: the kill switch is on; cut_off: no experiment state for too long
ChampionOnly = Literal["champion_only", "cut_off"]


@dataclass(frozen=True, slots=True)
class Champion:
    """Arm and model version that serve when no other may."""

    arm: str
    model_version: str


@dataclass(frozen=True, slots=True)
class ServedExperiment:
    """One experiment as this replica knows it.

    state: None before it was started or read; remembered: the last champion that this machine served;
    champion_only: why only the champion may serve, None if the experiment decides.
    """

    name: str
    state: Experiment | None = None
    remembered: Champion | None = None
    champion_only: ChampionOnly | None = None

    @property
    def counting(self) -> bool:
        """Whether slates are assigned by weights, so that they count."""
        running = self.state is not None and self.state.status in ("running", "held")
        return running and self.champion_only is None

    @property
    def champion(self) -> Champion | None:
        """Champion of the known state, else the remembered one."""
        if self.state is None:
            return self.remembered
        return Champion(self.state.champion, self.state.arms[self.state.champion].model_version)

    @property
    def wanted_versions(self) -> list[str]:
        """Model versions that a replica must hold, most needed first: the champion, then other live arms."""
        arms: list[Arm] = self.state.live_arms() if self.state is not None else []
        remembered = [self.remembered.model_version] if self.remembered is not None else []
        return [arm.model_version for arm in arms] or remembered

    def keeps(self, pin: Pin) -> bool:
        """Whether a unit may stay with its pin: its arm is not retired, or the pin is newer than the known
        state (a replica ahead of this one knows an arm that entered, or came back by undo)."""
        if self.state is None:
            return False
        arm = self.state.arms.get(pin.arm)
        live = arm is not None and arm.role != "retired"
        return live or pin.weights_version > self.state.weights.version

    def version_of(self, arm: str) -> str | None:
        """Model version deployed as `arm`; None if the arm is unknown."""
        if self.state is not None and arm in self.state.arms:
            return self.state.arms[arm].model_version
        champion = self.champion
        return champion.model_version if champion is not None and champion.arm == arm else None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Catalogue, models by model version, and every experiment of `table` by name."""

    catalogue: CatalogueIndex
    table: ExperimentTable
    experiments: Mapping[str, ServedExperiment]
    models: Mapping[str, BoundModel] = field(default_factory=dict)

    def experiment(self, placement: str) -> ServedExperiment:
        """The experiment that decides the slates of this placement."""
        return self.experiments[self.table.of(placement)]

    def model_of(self, experiment: ServedExperiment, arm: str) -> BoundModel | None:
        """The loaded model of an arm; None if the arm is unknown or its model is not loaded."""
        return self.models.get(experiment.version_of(arm) or "")

    @property
    def default_experiment(self) -> ServedExperiment:
        """The experiment that health, metrics and heartbeats report."""
        return self.experiments[self.table.default]

    def wanted_versions(self) -> list[str]:
        """Model versions that a replica must hold, the champions first."""
        return by_need(experiment.wanted_versions for experiment in self.experiments.values())


def by_need(lists: Iterable[list[str]]) -> list[str]:
    """Merge lists that begin with the most needed: all first ones, all second ones, and so on, each once.

    >>> by_need([["champion", "challenger"], ["other champion", "challenger"]])
    ['champion', 'other champion', 'challenger']
    """
    rows = [list(versions) for versions in lists]
    longest = max(map(len, rows), default=0)
    return list(dict.fromkeys(row[rank] for rank in range(longest) for row in rows if rank < len(row)))
