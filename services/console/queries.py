"""What the console shows about an experiment, from its state, its log and the heartbeats. Pure; times in
ms."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.lifecycle.decisions import ArmEvidence, RaceEvidence
from experiments.lifecycle.fold import Arm, Decision, Experiment
from services.console import series, wording
from services.ports.state import Heartbeat

LOOKS_OVERDUE = 3  # looks that may be missed before the page says that the decider is silent
STYLES = 7  # colours, dashes and markers an arm can have, by order of entry

WRONG_SUMS = "broken-identity"  # the rule that holds for what only a recount mends
ROLE_ORDER = {"champion": 0, "challenger": 1, "holdback": 2, "retired": 3}
ACCOUNTED = ("counted", "late", "duplicate", "unmatched")


@dataclass(frozen=True, slots=True)
class Warning:
    """Something a reader must know before trusting the page. `level`: "bad" (wrong now) or "note"."""

    level: str
    text: str


@dataclass(frozen=True, slots=True)
class Sources:
    """How fresh the inputs are: when the log was last read to its end, and what could not be reached
    (None: fine)."""

    read_at_ms: int = 0
    log_error: str | None = None
    cache_error: str | None = None
    champion_only: bool = False


def last_look(history: Sequence[Decision]) -> Decision | None:
    """The newest record with counts."""
    return next((d for d in reversed(history) if series.is_look(d)), None)


def styles(state: Experiment) -> dict[str, int]:
    """A style number for each arm, by order of entry: it never changes while the experiment lives."""
    ordered = sorted(state.arms.values(), key=lambda arm: (arm.entered_revision, arm.name))
    return {arm.name: index % STYLES for index, arm in enumerate(ordered)}


def latest_evidence(history: Sequence[Decision], names: Iterable[str]) -> dict[str, tuple[int, ArmEvidence]]:
    """For each arm: (revision, its numbers) of the newest look that had it, retired arms included."""
    wanted, found = set(names), {}
    for decision in reversed(history):
        for name in wanted & decision.evidence.arms.keys():
            found[name] = (decision.revision, decision.evidence.arms[name])
            wanted.discard(name)
        if not wanted:
            break
    return found


def latest_race(history: Sequence[Decision], arm: str) -> RaceEvidence | None:
    """The newest race of an arm, from a look or from the record that ended it."""
    for decision in reversed(history):
        races = [race for race in decision.evidence.races if race.arm == arm]
        if races:
            return max(races, key=lambda race: race.index or 0)
    return None


def arm_rows(
    state: Experiment, history: Sequence[Decision], realised: Mapping[str, float], beats: Sequence[Heartbeat]
) -> list[dict[str, Any]]:
    """One row an arm: champion first, retired last, each with what the newest look knew of it."""
    numbers = latest_evidence(history, state.arms)
    live = [numbers[arm.name][1] for arm in state.live_arms() if arm.name in numbers]
    known = sum(map(wording.is_counted, live))
    style = styles(state)
    ordered = sorted(state.arms.values(), key=lambda arm: (ROLE_ORDER[arm.role], arm.entered_revision))
    return [
        _arm_row(state, arm, numbers.get(arm.name), beats)
        | {
            "style": style[arm.name],
            "realised": realised.get(arm.name) if arm.role != "retired" else None,
            "compared": known > 1 and arm.role != "retired",
            "race": latest_race(history, arm.name) if arm.role != "champion" else None,
        }
        for arm in ordered
    ]


def _arm_row(
    state: Experiment, arm: Arm, evidence: tuple[int, ArmEvidence] | None, beats: Sequence[Heartbeat]
) -> dict[str, Any]:
    revision, numbers = evidence or (None, None)
    share = 0.0 if arm.role == "retired" else state.weights.shares.get(arm.name, 0.0)
    return {
        "name": arm.name,
        "model_version": arm.model_version,
        "role": arm.role,
        "entered_revision": arm.entered_revision,
        "weight": float(arm.name == state.champion) if state.status == "paused" else share,
        "loaded_on": sum(arm.model_version in beat.loaded for beat in beats),
        "seen_at_revision": revision,
        "numbers": series.numbers_of(numbers) if numbers is not None else {},
        "counted": numbers is not None and wording.is_counted(numbers),
    }


def densities(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Posterior density, mean and 95 % interval of each arm that may serve and has been counted."""
    found = {}
    for row in rows:
        numbers = row["numbers"]
        if row["role"] == "retired" or not row["counted"] or numbers["low"] is None:
            continue
        curve = series.density(numbers["posterior_mean"], numbers["low"], numbers["high"])
        if curve is not None:
            bounds = {"mean": numbers["posterior_mean"], "low": numbers["low"], "high": numbers["high"]}
            found[row["name"]] = curve | bounds
    return found


def replica_rows(state: Experiment, beats: Iterable[Heartbeat]) -> list[dict[str, Any]]:
    """What each live replica says it serves, and whether that is what the log says."""
    needed = {arm.model_version: arm.name for arm in state.live_arms()}
    kept = {arm.model_version: f"{arm.name} (kept for undo)" for arm in state.arms.values()}
    names = kept | needed
    return [
        {
            "replica": beat.replica,
            "revision": beat.revision,
            "behind": max(0, state.revision - beat.revision),
            "champion": beat.champion,
            "agrees": beat.champion == state.champion,
            "missing": sorted(name for version, name in needed.items() if version not in beat.loaded),
            "loaded_names": [names.get(version, version) for version in beat.loaded],
            "loaded": list(beat.loaded),
            "at": beat.at_ms,
        }
        for beat in sorted(beats, key=lambda beat: beat.replica)
    ]


def accounting_rows(look: Decision | None) -> list[dict[str, Any]]:
    """The accounting identity of each arm: acknowledged = counted + late + duplicate + unmatched."""
    accounts = {} if look is None else look.evidence.accounting
    rows = []
    for arm, account in sorted(accounts.items()):
        parts = {name: account.get(name, 0) for name in ACCOUNTED}
        acknowledged = account.get("acknowledged", 0)
        rows.append(
            {"arm": arm, "acknowledged": acknowledged, **parts, "gap": acknowledged - sum(parts.values())}
        )
    return rows


def warnings(
    state: Experiment, look: Decision | None, beats: Sequence[Heartbeat], sources: Sources, now_ms: int
) -> list[Warning]:
    """Everything that makes the page less than live and true, worst first."""
    found = [
        *_source_warnings(sources, now_ms),
        *_state_warnings(state),
        *_look_warnings(state, look, now_ms),
    ]
    if not beats and sources.cache_error is None:
        found.append(Warning("bad", "No replica of the recommend service reports. Is it running?"))
    broken = [row["arm"] for row in accounting_rows(look) if row["gap"]]
    if broken:
        found.append(Warning("bad", f"The accounting identity is broken for {', '.join(broken)}."))
    return sorted(found, key=lambda warning: warning.level != "bad")


def _source_warnings(sources: Sources, now_ms: int) -> Iterable[Warning]:
    if sources.log_error is not None:
        age = wording.seconds((now_ms - sources.read_at_ms) / 1_000) if sources.read_at_ms else None
        since = f"what you see is {age} old" if age else "nothing has been read yet"
        yield Warning("bad", f"The decision log can't be read, {since}. {sources.log_error}")
    if sources.cache_error is not None:
        yield Warning("bad", f"Redis can't be reached, so replicas are unknown. {sources.cache_error}")
    if sources.champion_only:
        yield Warning("bad", "Champion only: the kill switch is on, so weights are not in force.")


def _state_warnings(state: Experiment) -> Iterable[Warning]:
    if state.status == "held":
        causes = "; ".join(state.causes) or "counting can't be trusted"
        advice = " Recount the sums: to resume is to decide by them." if state.held_by == WRONG_SUMS else ""
        yield Warning("bad", f"On hold, the last weights stay: {causes}.{advice}")
    if state.unconfirmed:
        revisions = ", ".join(str(revision) for revision in state.unconfirmed)
        yield Warning("note", f"Revision {revisions} is not served by every replica yet.")
    if state.retrain_pending:
        yield Warning("note", "Retraining is under way; its model will enter as a challenger.")


def _look_warnings(state: Experiment, look: Decision | None, now_ms: int) -> Iterable[Warning]:
    if state.status != "running" or len(state.live_arms()) < 2:
        return
    rules = state.rules
    since_s = (now_ms - max(state.updated_ms, state.started_ms)) / 1_000
    if look is None:
        matures = wording.seconds(rules.window_s + rules.lateness_s)
        yield Warning("note", f"No look yet: units mature {matures} after they are served.")
    if since_s > LOOKS_OVERDUE * rules.look_every_s:
        due = wording.seconds(rules.look_every_s)
        yield Warning(
            "bad", f"The decider has been silent for {wording.seconds(since_s)}; a look is due every {due}."
        )
    counted_ms = None if look is None else look.evidence.watermark_ms
    lag_s = (look.received_at - counted_ms) / 1_000 if look and counted_ms else 0.0
    if lag_s > rules.stall_s:
        yield Warning("bad", f"Counting lags {wording.seconds(lag_s)} behind; decisions wait for it.")


def summary(
    state: Experiment,
    history: Sequence[Decision],
    beats: Sequence[Heartbeat],
    realised: Mapping[str, float],
    sources: Sources,
    now_ms: int,
) -> dict[str, Any]:
    """Everything above the fold, as plain values for a template or JSON."""
    look = last_look(history)
    return {
        "sentence": wording.sentence(state, look),
        "warnings": warnings(state, look, beats, sources, now_ms),
        "look": look,
        "arms": arm_rows(state, history, realised, beats),
        "replicas": replica_rows(state, beats),
        "accounting": accounting_rows(look),
        "units": sum(series.counts(look).values()) if look else 0,
    }
