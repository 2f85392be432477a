"""The offline report: every algorithm on one time split, as a table for people and JSON for programs."""

import textwrap
import time
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np
from numpy.typing import NDArray
from threadpoolctl import threadpool_limits

from models.algorithms import ALGORITHM_NAMES, algorithm_class
from models.algorithms.content import texts
from models.algorithms.time_decay import DAY_S
from models.evaluation.offline import Case, cases
from models.evaluation.splits import TimeSplit, interactions_between, split_last
from models.recommender import ProgressCallback, Recommender
from services.errors import BadInputError
from services.ports.training import Dataset
from services.training.model_spec import EncoderFactory, ModelSpec, model_spec
from services.training.offline_gate import metrics_of

COLUMNS = ("recall@10", "recall@20", "ndcg@10", "ndcg@20", "coverage@20")
TIMED_RANKS = 1_000


@dataclass(frozen=True, slots=True)
class Entry:
    """A model to report. `learn_days`: learn only from the last days before the cut (0: from everything)."""

    name: str
    spec: ModelSpec
    learn_days: float = 0.0


def report_entries(algorithms: Collection[str] = ALGORITHM_NAMES) -> list[Entry]:
    """Entries of these algorithms in the order of the table: their variants, then their defaults."""
    entries = []
    for name in ALGORITHM_NAMES:
        if name not in algorithms:
            continue
        algorithm = algorithm_class(name)
        entries += [Entry(v.name, model_spec(name, v.params), v.learn_days) for v in algorithm.variants]
        note = " (broken on purpose)" if algorithm.broken_on_purpose else ""
        entries.append(Entry(f"{name}{note}", model_spec(name)))
    return entries


@dataclass(frozen=True, slots=True)
class Row:
    """Measurements of one entry, with times on the machine that made the report.

    metrics: on new items, and with the prefix `all ` on all items; rank_us_…: time of `rank` for 20 new
    items.
    """

    name: str
    algorithm: str
    params: Mapping[str, object]
    metrics: Mapping[str, float]
    fit_s: float
    rank_us_median: float
    rank_us_p99: float

    def cells(self, prefix: str) -> list[str]:
        """Cells of COLUMNS. prefix: of the names of the metrics."""
        return [f"{self.metrics[prefix + name]:.4f}" for name in COLUMNS]


@dataclass(frozen=True, slots=True)
class Report:
    """All rows, and the data they were measured on. Times in s since the epoch; counts are of the split."""

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
    lines: tuple[Row, ...]

    def to_markdown(self) -> str:
        """The protocol, a table on new items and one on all items."""
        cut, until = (
            time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(at)) for at in (self.cut_s, self.until_s)
        )
        protocol = PROTOCOL.format(**asdict(self), cut=cut, until=until)
        new = table(
            ["new items", *COLUMNS, "fit, s", "rank, µs"],
            [
                [row.name, *row.cells(""), f"{row.fit_s:.1f}", f"{row.rank_us_median:.0f}"]
                for row in self.lines
            ],
        )
        overall = table(["all items", *COLUMNS], [[row.name, *row.cells("all ")] for row in self.lines])
        return "\n\n".join([textwrap.fill(protocol, 110), new, overall]) + "\n"


PROTOCOL = (
    "Split by time: models learn from the {train_rows:,} interactions up to {cut} and are evaluated on the "
    "{test_rows:,} up to {until} ({test_days:g} days), over {items:,} items. Evaluated are the "
    "{users_judged:,} users with interactions on both sides of the cut; a model gets each user's last 50 "
    "interactions before it, however old. New items: only items that the user had not bought before are "
    "recommended and count ({users_judged_new:,} users bought one). All items: everything may be recommended "
    "and counts. recall@k = hits / min(k, items bought); ndcg@k with binary gain; coverage@k = share of the "
    "catalogue in any list."
)


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table with numbers in all columns but the first."""
    first, *others = ["| " + " | ".join(cells) + " |" for cells in (head, *rows)]
    return "\n".join([first, "|---|" + "---:|" * (len(head) - 1), *others])


def make_report(
    dataset: Dataset,
    encoder: EncoderFactory,
    progress: ProgressCallback,
    *,
    entries: Sequence[Entry],
    test_days: float = 28.0,
    skip: int = 0,
) -> Report:
    """Fit and evaluate every entry.

    `skip` = 1 evaluates on the test window before the last (for tuning). Raises BadInputError if the data are
    too short for the split.
    """
    try:
        split = split_last(dataset.interactions, test_days * DAY_S, skip)
    except ValueError as error:
        raise BadInputError("test_days", str(error)) from error
    users = cases(split)
    embed_s = _embed_catalogue(dataset, encoder, entries, progress)
    with threadpool_limits(1, "blas"):  # as in serving
        rows = tuple(_measure(entry, dataset, split, users, encoder, progress) for entry in entries)
    return Report(
        data_version=dataset.version,
        source=dataset.source,
        test_days=test_days,
        cut_s=split.cut_s,
        until_s=split.until_s,
        train_rows=len(split.train.at),
        test_rows=len(split.test.at),
        items=len(dataset.catalogue),
        users_judged=len(users),
        users_judged_new=int(rows[0].metrics["users"]),
        embed_s=embed_s,
        lines=rows,
    )


def _measure(
    entry: Entry,
    dataset: Dataset,
    split: TimeSplit,
    users: list[Case],
    encoder: EncoderFactory,
    progress: ProgressCallback,
) -> Row:
    after_s = split.cut_s - entry.learn_days * DAY_S if entry.learn_days else -np.inf
    train = interactions_between(split.train, after_s, split.cut_s)
    start = time.perf_counter()
    model = entry.spec.fit(train, dataset.catalogue, now_s=split.cut_s, encoder=encoder, progress=progress)
    fit_s = time.perf_counter() - start
    metrics = metrics_of(model, users, progress)
    median, p99 = np.percentile(rank_times_us(model, users), [50, 99]).tolist()
    return Row(entry.name, model.algorithm, model.to_arrays()[1], metrics, fit_s, median, p99)


def _embed_catalogue(
    dataset: Dataset, encoder: EncoderFactory, entries: Sequence[Entry], progress: ProgressCallback
) -> float:
    """Fill the cache of embeddings, so that fit times are those of the models. Returns the seconds it
    took."""
    start = time.perf_counter()
    if any(algorithm_class(entry.spec.algorithm).needs_embeddings for entry in entries):
        encoder().encode(texts(dataset.catalogue), progress)
    return time.perf_counter() - start


def rank_times_us(model: Recommender, users: Sequence[Case]) -> NDArray[np.float64]:
    """Time of `rank` (20 items the user has not seen) for up to TIMED_RANKS users, float64 [n], µs."""
    times = []
    for case in users[:TIMED_RANKS]:
        allowed = np.ones(len(model.items), bool)
        allowed[case.seen] = False
        start = time.perf_counter_ns()
        model.rank(case.query, 20, allowed=allowed)
        times.append((time.perf_counter_ns() - start) / 1_000)
    return np.array(times)
