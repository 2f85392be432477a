"""Metrics of the decision log: decisions, the state in force, and the evidence of the newest look."""

import logging
from collections.abc import Mapping
from typing import get_args

from prometheus_client import CollectorRegistry, Counter, Gauge

from experiments.lifecycle.decisions import ArmEvidence, Decision, Evidence, RaceEvidence
from experiments.lifecycle.state import Experiment, Kind, Status
from services.adapters.instrumented.wrapper import PortWrapper
from services.ports.state import DecisionLog

logger = logging.getLogger(__name__)

# field of an arm's evidence (experiments.decision_rules) -> name and help of its metric
EVIDENCE = {
    "n": ("ringside_arm_units", "Matured units of an arm, as of the newest look."),
    "s": ("ringside_arm_successes", "Matured units of an arm with a success."),
    "posterior_mean": ("ringside_arm_posterior_mean_ratio", "Posterior mean of an arm's rate."),
    "low": ("ringside_arm_posterior_low_ratio", "Lower end of the posterior interval."),
    "high": ("ringside_arm_posterior_high_ratio", "Upper end of the posterior interval."),
    "p_best": ("ringside_arm_best_probability_ratio", "Probability that an arm is the best."),
    "fallback": ("ringside_arm_fallback_ratio", "Share of an arm's units that another arm answered."),
}
RACE = {
    "log_e": ("ringside_race_log_evidence", "Natural logarithm of E of an arm's click race."),
    "log_threshold": (
        "ringside_race_log_threshold",
        "Natural logarithm of 1/α, at which the arm is rolled back.",
    ),
}
ARM = ["experiment", "arm"]


class MeteredDecisionLog(PortWrapper[DecisionLog]):
    """A DecisionLog that measures the decisions it reads, whichever process made them.

    After a restart all of them are read again, so the counters continue where they were. A decision that
    cannot be measured is logged once and stops neither reading nor deciding.
    """

    def __init__(self, inner: DecisionLog, registry: CollectorRegistry):
        super().__init__(inner)
        self._seen: dict[str, int] = {}

        def gauge(name: str, text: str, labels: list[str]) -> Gauge:
            return Gauge(name, text, labels, registry=registry)

        self._decisions = Counter(
            "ringside_decisions", "Decisions that count.", ["experiment", "kind"], registry=registry
        )
        self._revision = gauge("ringside_experiment_revision", "Newest revision.", ["experiment"])
        self._status = gauge(
            "ringside_experiment_status", "1 for the current status.", ["experiment", "status"]
        )
        self._held = gauge("ringside_experiment_held", "1 while a rule holds it.", ["experiment", "rule"])
        self._decided = gauge(
            "ringside_decision_timestamp_seconds", "When the newest decision was made.", ["experiment"]
        )
        self._unconfirmed = gauge(
            "ringside_decisions_unconfirmed", "Decisions that not all replicas serve yet.", ["experiment"]
        )
        self._retraining = gauge(
            "ringside_retrain_pending", "1 while a retraining request waits.", ["experiment"]
        )
        self._weight = gauge(
            "ringside_arm_weight_ratio", "Share of traffic in force; 0 when retired.", [*ARM, "role"]
        )
        self._of_arm = {key: gauge(*named, ARM) for key, named in EVIDENCE.items()}
        self._of_race = {key: gauge(*named, ARM) for key, named in RACE.items()}

    def catch_up(self) -> Mapping[str, Experiment]:
        """See DecisionLog."""
        states = self._inner.catch_up()
        for state in states.values():
            self._update(state)
        return states

    def append(self, decision: Decision) -> Experiment:
        """See DecisionLog."""
        state = self._inner.append(decision)
        self._update(state)
        return state

    def _update(self, state: Experiment) -> None:
        seen = self._seen.get(state.name)
        if seen == state.revision:
            return
        before = seen if seen is not None and seen < state.revision else 0  # 0: it is another log
        self._seen[state.name] = state.revision  # also if it fails below, so that nothing is counted twice
        try:
            self._measure(state, self._inner.history(state.name, before))
        except Exception:
            logger.exception("%s: revision %d could not be measured", state.name, state.revision)

    def _measure(self, state: Experiment, new: list[Decision]) -> None:
        for kind in get_args(Kind):  # start at 0, so that the first rollback is an increase
            self._decisions.labels(state.name, kind)
        for decision in new:
            self._decisions.labels(state.name, decision.kind).inc()
        self._set_state(state)
        for decision in reversed(new):
            if decision.evidence.arms:
                self._set_evidence(state, decision.evidence)
                break

    def _set_state(self, state: Experiment) -> None:
        name = state.name
        self._revision.labels(name).set(state.revision)
        self._decided.labels(name).set(state.updated_ms / 1_000)
        self._unconfirmed.labels(name).set(len(state.unconfirmed))
        self._retraining.labels(name).set(state.retrain_pending)
        for status in get_args(Status):
            self._status.labels(name, status).set(status == state.status)
        self._held.remove_by_labels({"experiment": name})
        self._held.labels(name, state.held_by or "nothing").set(bool(state.held_by))
        self._weight.remove_by_labels({"experiment": name})
        for arm in state.arms.values():
            share = state.weights.shares.get(arm.name, 0.0)
            self._weight.labels(name, arm.name, arm.role).set(share)

    def _set_evidence(self, state: Experiment, evidence: Evidence) -> None:
        for gauge in (*self._of_arm.values(), *self._of_race.values()):
            gauge.remove_by_labels({"experiment": state.name})
        for arm, numbers in evidence.arms.items():
            _set(self._of_arm, numbers, state.name, arm)
        for race in evidence.races:
            _set(self._of_race, race, state.name, race.arm)


def _set(gauges: Mapping[str, Gauge], numbers: ArmEvidence | RaceEvidence, *labels: str) -> None:
    """Set the gauges whose number the record holds."""
    for name, gauge in gauges.items():
        number = getattr(numbers, name)
        if number is not None:
            gauge.labels(*labels).set(number)
