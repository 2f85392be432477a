"""Data of an experiment's page, from its state, its decisions and the heartbeats. Pure; times in ms."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from experiments.lifecycle.decisions import ArmEvidence, Decision, RaceEvidence
from experiments.lifecycle.state import Experiment
from services.console import series, wording
from services.ports.state import Heartbeat

LOOKS_OVERDUE = 3  # looks that may be missed before the page warns
STYLES = 7  # colours, dashes and markers an arm can have, by order of entry

WRONG_SUMS = "broken-identity"  # rule of a hold that only a recount resolves
ROLE_ORDER = {"champion": 0, "challenger": 1, "holdback": 2, "retired": 3}
ACCOUNTED = ("counted", "late", "duplicate", "unmatched")


@dataclass(frozen=True, slots=True)
class PageWarning:
    """A warning at the top of the page. `level`: "bad" (an error) or "note"."""

    level: str
    text: str


@dataclass(frozen=True, slots=True)
class Sources:
    """State of the inputs: when the log was last read to its end, and the errors of log and cache (None: no
    error)."""

    read_at_ms: int = 0
    log_error: str | None = None
    cache_error: str | None = None
    champion_only: bool = False


def last_look(history: Sequence[Decision]) -> Decision | None:
    """The newest decision with counts."""
    return next((d for d in reversed(history) if series.is_look(d)), None)


def styles(state: Experiment) -> dict[str, int]:
    """A style number for each arm, by order of entry, so that it never changes."""
    ordered = sorted(state.arms.values(), key=lambda arm: (arm.entered_revision, arm.name))
    return {arm.name: index % STYLES for index, arm in enumerate(ordered)}


def latest_evidence(history: Sequence[Decision], names: Iterable[str]) -> dict[str, tuple[int, ArmEvidence]]:
    """For each arm, retired ones included: revision and numbers of the newest look that contains it."""
    missing, evidence = set(names), {}
    for decision in reversed(history):
        for name in missing & decision.evidence.arms.keys():
            evidence[name] = (decision.revision, decision.evidence.arms[name])
            missing.discard(name)
        if not missing:
            break
    return evidence


def latest_race(history: Sequence[Decision], arm: str) -> RaceEvidence | None:
    """The newest race of an arm, from a look or from the decision that ended it."""
    for decision in reversed(history):
        races = [race for race in decision.evidence.races if race.arm == arm]
        if races:
            return max(races, key=lambda race: race.index or 0)
    return None


def arm_rows(
    state: Experiment, history: Sequence[Decision], realised: Mapping[str, float], beats: Sequence[Heartbeat]
) -> list[dict[str, Any]]:
    """A row for each arm, the champion first and retired arms last, with the numbers of its newest look."""
    evidence = latest_evidence(history, state.arms)
    counted = {name for name, (_, numbers) in evidence.items() if wording.is_counted(numbers)}
    compared = sum(arm.name in counted for arm in state.live_arms()) > 1
    style = styles(state)
    rows = []
    for arm in sorted(state.arms.values(), key=lambda arm: (ROLE_ORDER[arm.role], arm.entered_revision)):
        revision, numbers = evidence.get(arm.name, (None, None))
        retired, share = arm.role == "retired", state.weights.shares.get(arm.name, 0.0)
        if state.status == "paused":
            share = float(arm.name == state.champion)
        elif retired:
            share = 0.0
        rows.append(
            {
                "name": arm.name,
                "model_version": arm.model_version,
                "role": arm.role,
                "entered_revision": arm.entered_revision,
                "weight": share,
                "loaded_on": sum(arm.model_version in beat.loaded for beat in beats),
                "seen_at_revision": revision,
                "numbers": series.numbers_of(numbers) if numbers is not None else {},
                "counted": arm.name in counted,
                "style": style[arm.name],
                "realised": None if retired else realised.get(arm.name),
                "compared": compared and not retired,
                "race": latest_race(history, arm.name) if arm.role != "champion" else None,
            }
        )
    return rows


def densities(rows: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Posterior density, mean and 95 % interval of each counted arm that is not retired."""
    curves = {}
    for row in rows:
        numbers = row["numbers"]
        if row["role"] == "retired" or not row["counted"] or numbers["low"] is None:
            continue
        curve = series.density(numbers["posterior_mean"], numbers["low"], numbers["high"])
        if curve is not None:
            bounds = {"mean": numbers["posterior_mean"], "low": numbers["low"], "high": numbers["high"]}
            curves[row["name"]] = curve | bounds
    return curves


def replica_rows(state: Experiment, beats: Iterable[Heartbeat]) -> list[dict[str, Any]]:
    """What each replica serves by its heartbeat, and whether that agrees with the log."""
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
) -> list[PageWarning]:
    """Warnings about stale, missing or wrong data, the worst first."""
    result = [
        *_source_warnings(sources, now_ms),
        *_state_warnings(state),
        *_look_warnings(state, look, now_ms),
    ]
    if not beats and sources.cache_error is None:
        result.append(PageWarning("bad", "No replica of the recommend service reports. Check that it runs."))
    broken = [row["arm"] for row in accounting_rows(look) if row["gap"]]
    if broken:
        result.append(
            PageWarning(
                "bad", f"The events of {', '.join(broken)} do not add up; see the accounting of outcomes."
            )
        )
    return sorted(result, key=lambda warning: warning.level != "bad")


def _source_warnings(sources: Sources, now_ms: int) -> Iterable[PageWarning]:
    if sources.log_error is not None:
        age = wording.seconds((now_ms - sources.read_at_ms) / 1_000) if sources.read_at_ms else None
        since = f"so this page is {age} old" if age else "so there are no data yet"
        yield PageWarning("bad", f"The decision log can't be read, {since}. {sources.log_error}")
    if sources.cache_error is not None:
        yield PageWarning(
            "bad", f"Redis can't be reached, so the state of the replicas is unknown. {sources.cache_error}"
        )
    if sources.champion_only:
        yield PageWarning(
            "bad", "The kill switch is on: the champion serves all traffic, whatever the weights."
        )


def _state_warnings(state: Experiment) -> Iterable[PageWarning]:
    if state.status == "held":
        causes = "; ".join(state.causes) or "the counts can't be trusted"
        advice = (
            " Recount before resuming: resuming would base decisions on these counts."
            if state.held_by == WRONG_SUMS
            else ""
        )
        yield PageWarning("bad", f"On hold, so the weights stay as they are: {causes}.{advice}")
    if state.unconfirmed:
        revisions = ", ".join(str(revision) for revision in state.unconfirmed)
        yield PageWarning("note", f"Not every replica serves revision {revisions} yet.")
    if state.retrain_pending:
        yield PageWarning("note", "A model is being retrained; it will enter as a challenger.")


def _look_warnings(state: Experiment, look: Decision | None, now_ms: int) -> Iterable[PageWarning]:
    if state.status != "running" or len(state.live_arms()) < 2:
        return
    rules = state.rules
    since_s = (now_ms - max(state.updated_ms, state.started_ms)) / 1_000
    if look is None:
        matures = wording.seconds(rules.window_s + rules.lateness_s)
        yield PageWarning("note", f"No look yet: a unit is counted {matures} after it begins.")
    if since_s > LOOKS_OVERDUE * rules.look_every_s:
        due = wording.seconds(rules.look_every_s)
        yield PageWarning(
            "bad", f"The decider has been silent for {wording.seconds(since_s)}; a look is due every {due}."
        )
    counted_ms = None if look is None else look.evidence.watermark_ms
    lag_s = (look.received_at - counted_ms) / 1_000 if look and counted_ms else 0.0
    if lag_s > rules.stall_s:
        yield PageWarning("bad", f"Counting is {wording.seconds(lag_s)} behind, and decisions wait for it.")
