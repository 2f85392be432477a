"""The offline report: every algorithm on one time split, as a table for people and JSON for machines."""

import textwrap
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from threadpoolctl import threadpool_limits

from models.algorithms.time_decay import DAY_S
from models.evaluation.offline import Case, cases
from models.evaluation.splits import TimeSplit, between, last
from models.recommender import Progress, Recommender
from services.errors import BadInputError
from services.ports.training import Dataset
from services.training.model_spec import EncoderFactory, Recipe, recipe
from services.training.offline_gate import metrics_of

COLUMNS = ("recall@10", "recall@20", "ndcg@10", "ndcg@20", "coverage@20")
TIMED_RANKS = 1_000


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of the report. `learn_days`: learn from the last days before the cut only (0: from
    everything)."""

    name: str
    algorithm: str
    params: Mapping[str, Any] = field(default_factory=dict)
    learn_days: float = 0.0


FOREVER = 1e6  # days: no decay
LINE_UP = (
    Entry("popularity, all time", "popularity", {"fast_days": FOREVER, "slow_days": FOREVER}),
    Entry("popularity, last ten days", "popularity", {"fast_days": FOREVER, "slow_days": FOREVER}, 10.0),
    Entry("popularity", "popularity"),
    Entry("als, no decay, no trend", "als", {"half_life_days": FOREVER, "trend": 0.0}),
    Entry("als", "als"),
    Entry("content", "content"),
    Entry("linear", "linear"),
    Entry("inverted (broken on purpose)", "inverted"),
)


@dataclass(frozen=True, slots=True)
class Line:
    """What was measured of one entry. Times on the machine that made the report; rank: 20 of the new
    items."""

    name: str
    algorithm: str
    params: Mapping[str, Any]
    metrics: Mapping[str, float]  # on new items; `all …` on all items
    fit_s: float
    rank_us_median: float
    rank_us_p99: float

    def costs(self) -> list[str]:
        """Times as table cells."""
        return [f"{self.fit_s:.1f}", f"{self.rank_us_median:.0f}"]


@dataclass(frozen=True, slots=True)
class Report:
    """All lines with what they were measured on. Times in s since the epoch; counts are of the split."""

    data_version: str
    source: str
    test_days: float
    cut_s: float
    until_s: float
    train_rows: int
    test_rows: int
    items: int
    users_judged: int
    users_judged_new: int
    embed_s: float  # spent on embedding texts that were not cached
    lines: tuple[Line, ...]

    def to_json(self) -> dict[str, Any]:
        """Everything, as JSON types."""
        return asdict(self)

    def to_markdown(self) -> str:
        """Protocol, a table on new items and one on all items."""
        cut, until = (
            time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(at)) for at in (self.cut_s, self.until_s)
        )
        protocol = PROTOCOL.format(**asdict(self), cut=cut, until=until)
        new = table(
            "new items", [(line, line.metrics, line.costs()) for line in self.lines], ("fit, s", "rank, µs")
        )
        overall = table("all items", [(line, _overall(line.metrics), []) for line in self.lines])
        return "\n\n".join([textwrap.fill(protocol, 110), new, overall]) + "\n"


PROTOCOL = (
    "Split by time: models learn from the {train_rows:,} interactions up to {cut} and are judged on the "
    "{test_rows:,} up to {until} ({test_days:g} days), over {items:,} items. Judged are the {users_judged:,} "
    "users with interactions on both sides of the cut; a model knows each by the last 50 interactions before "
    "it, however old. New items: only items that the user had not bought before are shown and count "
    "({users_judged_new:,} users bought one). All items: everything may be shown and counts. recall@k = hits "
    "/ min(k, items bought); ndcg@k with binary gain; coverage@k = share of the catalogue in any list."
)


def table(
    title: str, rows: Sequence[tuple[Line, Mapping[str, float], list[str]]], more: Sequence[str] = ()
) -> str:
    """A Markdown table of COLUMNS and what `more` names."""
    head = "| " + " | ".join([title, *COLUMNS, *more]) + " |"
    lines = [head, "|---|" + "---:|" * (len(COLUMNS) + len(more))]
    for line, metrics, costs in rows:
        cells = [f"{metrics[name]:.4f}" for name in COLUMNS] + costs
        lines.append("| " + " | ".join([line.name, *cells]) + " |")
    return "\n".join(lines)


def _overall(metrics: Mapping[str, float]) -> dict[str, float]:
    return {name.removeprefix("all "): value for name, value in metrics.items() if name.startswith("all ")}


def make_report(
    dataset: Dataset,
    encoder: EncoderFactory,
    progress: Progress,
    *,
    test_days: float = 28.0,
    skip: int = 0,
    line_up: Sequence[Entry] = LINE_UP,
) -> Report:
    """Fit and judge every entry of `line_up`. `skip` = 1 uses the test window before the last (for tuning).

    Raises BadInputError if the data are too short for the split.
    """
    try:
        split = last(dataset.interactions, test_days * DAY_S, skip)
    except ValueError as error:
        raise BadInputError("test_days", str(error)) from error
    judged = cases(split)
    embed_s = _warm(dataset, encoder, line_up, progress)
    with threadpool_limits(1, "blas"):  # as when serving
        lines = tuple(_line(entry, dataset, split, judged, encoder, progress) for entry in line_up)
    return Report(
        data_version=dataset.version,
        source=dataset.source,
        test_days=test_days,
        cut_s=split.cut_s,
        until_s=split.until_s,
        train_rows=len(split.train.at),
        test_rows=len(split.test.at),
        items=len(dataset.catalogue),
        users_judged=len(judged),
        users_judged_new=int(lines[0].metrics["users"]) if lines else 0,
        embed_s=embed_s,
        lines=lines,
    )


def _line(
    entry: Entry,
    dataset: Dataset,
    split: TimeSplit,
    judged: list[Case],
    encoder: EncoderFactory,
    progress: Progress,
) -> Line:
    made = recipe(entry.algorithm, entry.params)
    model, fit_s = _fitted(made, entry, dataset, split, encoder, progress)
    metrics = metrics_of(model, judged, progress)
    took_us = rank_times_us(model, judged)
    params = model.to_arrays()[1]
    median, p99 = np.percentile(took_us, [50, 99]).tolist()
    return Line(entry.name, entry.algorithm, params, metrics, fit_s, median, p99)


def _fitted(
    made: Recipe,
    entry: Entry,
    dataset: Dataset,
    split: TimeSplit,
    encoder: EncoderFactory,
    progress: Progress,
) -> tuple[Recommender, float]:
    after_s = split.cut_s - entry.learn_days * DAY_S if entry.learn_days else -np.inf
    learnt = between(split.train, after_s, split.cut_s)
    start = time.perf_counter()
    model = made.fit(learnt, dataset.catalogue, now_s=split.cut_s, encoder=encoder, progress=progress)
    return model, time.perf_counter() - start


def _warm(dataset: Dataset, encoder: EncoderFactory, line_up: Sequence[Entry], progress: Progress) -> float:
    """Embed what is not cached, so that fit times are those of the models; returns the seconds it took."""
    from models.algorithms.content import texts

    start = time.perf_counter()
    if any(entry.algorithm == "content" for entry in line_up):
        encoder().encode(texts(dataset.catalogue), progress)
    return time.perf_counter() - start


def rank_times_us(model: Recommender, judged: Sequence[Case]) -> np.ndarray:
    """Time of `rank` (20 items, what the user knows left out) for up to TIMED_RANKS users, float64 [n],
    µs."""
    took = []
    for case in judged[:TIMED_RANKS]:
        allowed = np.ones(len(model.items), bool)
        allowed[case.known] = False
        start = time.perf_counter_ns()
        model.rank(case.query, 20, allowed=allowed)
        took.append((time.perf_counter_ns() - start) / 1_000)
    return np.array(took)
