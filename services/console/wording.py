"""Sentences, titles and number formats of the console. Pure."""

import math
from collections.abc import Mapping

from experiments.lifecycle.decisions import ArmEvidence, Decision, RaceEvidence, RollbackDetail
from experiments.lifecycle.state import Experiment, Kind

TITLES: Mapping[Kind, str] = {  # {0}: detail, {1}: whether the weights changed, {2}: the decision
    "start": "Experiment started",
    "enter": "{0.arm} entered",
    "allocate": "Weights {1}, version {2.weights_version}",
    "rollback": "{0.arm} rolled back",
    "promote": "{0.arm} promoted",
    "retrain": "Retraining requested",
    "attempt": "Retraining, attempt {0.number}",
    "answer": "Retraining {0.outcome}",
    "hold": "On hold",
    "pause": "Paused",
    "resume": "Resumed",
    "recount": "Counting restarted",
    "undo": "Revision {0.reverts} undone",
    "confirm": "Revision {0.confirms} served everywhere",
    "end": "Experiment ended",
}


def percent(share: float, digits: int = 0) -> str:
    """0.784 → "78 %"."""
    return f"{100 * share:.{digits}f}\u00a0%"


def seconds(span_s: float) -> str:
    """A duration as text: 42 s, 3 min 20 s, 2 h 5 min, 3 d 4 h."""
    span = max(0, round(span_s))
    for unit, size, lower, lower_size in (
        ("d", 86_400, "h", 3_600),
        ("h", 3_600, "min", 60),
        ("min", 60, "s", 1),
    ):
        if span >= size:
            rest = span % size // lower_size
            return f"{span // size} {unit}" + (f" {rest} {lower}" if rest else "")
    return f"{span} s"


def evidence(log_e: float | None) -> str:
    """e^log_e with three digits, also where a float overflows: "31.4", "1.2e+05", "10^480"; an en dash when
    there is none."""
    if log_e is None:
        return "–"
    if log_e > 690:
        return f"10^{log_e / math.log(10):.0f}"
    value = math.exp(log_e)
    return f"{value:.3g}" if value >= 0.001 else "< 0.001"


def sentence(state: Experiment, last_look: Decision | None) -> str:
    """Two or three sentences at the top of the page: traffic, the best arm, the evidence."""
    if state.status == "ended":
        return f"The experiment has ended; {state.champion} was the last champion."
    return " ".join(filter(None, (_traffic(state), _best(state, last_look), _against(state, last_look))))


def _traffic(state: Experiment) -> str:
    if state.status == "paused":
        return f"Paused: {state.champion} serves all traffic."
    shares = sorted(state.weights.shares.items(), key=lambda pair: -pair[1])
    text = ", ".join(f"{percent(share)} {arm}" for arm, share in shares if share > 0)
    if len(shares) <= 1:
        return f"{state.champion} serves all traffic."
    prefix = "On hold, traffic stays at " if state.status == "held" else "Traffic: "
    return f"{prefix}{text}."


def _best(state: Experiment, last_look: Decision | None) -> str:
    challengers = [arm for arm in state.live_arms() if arm.role != "champion"]
    if not challengers:
        return "There is no challenger."
    if last_look is None:
        return "No look yet: nothing has been counted."
    numbers = last_look.evidence.arms
    live = [arm.name for arm in state.live_arms()]
    known = {arm: numbers[arm].p_best or 0.0 for arm in live if arm in numbers and is_counted(numbers[arm])}
    if not known:
        matures = seconds(state.rules.window_s + state.rules.lateness_s)
        return f"Nothing has been counted yet: a unit is counted {matures} after it begins."
    waiting = [arm for arm in live if arm not in known]
    note = f"{', '.join(waiting)} {'have' if len(waiting) > 1 else 'has'} not been counted yet."
    if len(known) < 2:  # P(best) of an arm without units comes from the prior
        return note
    best = max(known, key=lambda arm: known[arm])
    claim = f"{best} is best with probability {_probability(known[best])}."
    return f"{claim} {note}" if waiting else claim


def is_counted(numbers: ArmEvidence) -> bool:
    """True if an arm has counted units; without any, its numbers are those of the prior."""
    return bool(numbers.n) and numbers.p_best is not None


def chance(p: float | None) -> str:
    """A probability in a table: "0.423", "< 0.001", "> 0.999"."""
    if p is None:
        return "–"
    return "> 0.999" if p > 0.999 else "< 0.001" if p < 0.001 else f"{p:.3f}"


def _probability(p: float) -> str:
    return "above 0.999" if p > 0.999 else f"{p:.2f}" if p < 0.995 else f"{p:.3f}"


def _against(state: Experiment, last_look: Decision | None) -> str:
    live = {arm.name for arm in state.live_arms()}
    races = [] if last_look is None else [r for r in last_look.evidence.races if r.arm in live]
    known = [(near, race) for race in races if (near := nearness(race)) is not None]
    if not known:
        return ""
    progress, worst = max(known, key=lambda pair: pair[0])
    if progress < 0.25:
        return "No evidence against any arm."
    needed = f"E = {evidence(worst.log_e)}, and a rollback needs {evidence(worst.log_threshold)}"
    if progress >= 1:
        return f"{worst.arm} has lost its race: {needed}."
    word = "Strong" if progress > 0.75 else "Some"
    return f"{word} evidence against {worst.arm}: {needed}."


def nearness(race: RaceEvidence) -> float | None:
    """Progress of a race: log E over its limit, so 1 at the limit; None if the decision lacks the numbers."""
    if race.log_e is None or race.log_threshold is None:
        return None
    return race.log_e / race.log_threshold


def title(decision: Decision) -> str:
    """Title of a decision, for lists and plots."""
    detail = decision.detail
    retrains = isinstance(detail, RollbackDetail) and detail.retrain
    text = TITLES[decision.kind].format(detail, "changed" if _moved(decision) else "kept", decision)
    return f"{text}, retraining requested" if retrains else text


def _moved(look: Decision) -> bool:
    """True if a look changed the weights; its evidence contains the previous ones."""
    return any(look.weights.get(name) != arm.weight for name, arm in look.evidence.arms.items())
