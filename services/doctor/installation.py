"""The installation that the checks examine: its settings and access to its servers and files."""

from collections.abc import Callable
from dataclasses import dataclass

from services.ports.diagnostics import Diagnostics
from services.ports.state import DecisionLog, StateCache
from services.ports.training import DataStore, ModelStore
from services.settings import Settings


@dataclass(frozen=True, slots=True)
class Installation:
    """Clients are created by the check that uses them, so that one that can't be created fails that check
    only. `check_window` raises ConfigurationError if the broker forgets exposures before they mature."""

    settings: Settings
    diagnostics: Diagnostics
    check_window: Callable[[Settings], None]
    decision_log: Callable[[Settings], DecisionLog]
    state_cache: Callable[[Settings], StateCache]
    data_store: Callable[[Settings], DataStore]
    model_store: Callable[[Settings], ModelStore]
