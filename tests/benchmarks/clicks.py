"""How often one click leaves ALS's slate as it was, by how well the shopper knew the item: `python -m
tests.benchmarks.clicks`, with RINGSIDE_DATA_DIR. What infra/adr/0010 is based on."""

import tempfile
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pandas as pd
from threadpoolctl import threadpool_limits

from models.algorithms.als import Als
from models.evaluation.offline import Case, cases
from models.evaluation.splits import split_at
from models.recommender import KINDS, Query
from models.slate import Assortment, category_codes, select
from services.adapters.files.data_store import ParquetDataStore
from services.data_import.app import ImportRequest, import_data
from services.ports.training import Dataset
from services.recommend.snapshot.catalogue_index import popularity_of
from services.settings import Settings

CUT = datetime(2011, 11, 11, 12, 50, tzinfo=UTC)
N, CAP = 10, 5  # items of a slate; of one category


class Bench:
    """A fitted model and the slates that serving would make of it."""

    def __init__(self, dataset: Dataset):
        self.split = split_at(dataset.interactions, CUT.timestamp(), float(dataset.interactions.at[-1]))
        self.model = Als.fit(self.split.train, dataset.catalogue, now_s=self.split.cut_s)
        counts = popularity_of(dataset.interactions, len(dataset.catalogue))
        order = np.argsort(-counts, kind="stable").astype(np.int32)
        self._assortment = Assortment(category_codes(dataset.catalogue), order, counts)

    def slate(self, query: Query, allowed: np.ndarray) -> list[int]:
        """Items, best first."""
        ranking = self.model.rank(query, 3 * N, allowed=allowed)
        selection = select(ranking, N, eligible=allowed, assortment=self._assortment, cap=CAP)
        return [item for item, _, _ in selection.picks]

    def unchanged(self, case: Case, allowed: np.ndarray, item: int, kind: str) -> bool:
        """Whether the other items stay, in order, after `item` was clicked (or bought) just now."""
        query, before = case.query, self.slate(case.query, allowed)
        after = self.slate(
            replace(
                query,
                recent=np.concatenate([[item], query.recent[:49]]).astype(np.int32),
                recent_at=np.concatenate([[query.now_s], query.recent_at[:49]]),
                recent_kind=np.concatenate([[KINDS.index(kind)], query.recent_kind[:49]]).astype(np.uint8),
            ),
            allowed,
        )
        others = [other for other in before if other != item]
        return [other for other in after if other != item][: len(others)] == others

    def rows(self) -> Iterator[dict[str, object]]:
        """One row a slate, clicked item and weight of the click."""
        rng = np.random.default_rng(0)
        train = self.split.train
        for case in cases(self.split):
            bought, chosen = train.item[train.user == case.user], set(case.later.tolist())
            for placement in ("buy_again", "discover"):
                allowed = np.ones(len(self.model.items), bool)
                allowed[bought] = placement == "buy_again"
                shown = self.slate(case.query, allowed)
                clicks = [("true", item) for item in shown if item in chosen][:1]
                for click, item in [*clicks, ("any", int(rng.choice(shown)))]:
                    known = min(int((bought == item).sum()), 2)
                    row = {"placement": placement, "which": click, "bought": known, "n": 1}
                    for kind in ("click", "purchase"):
                        row[kind] = self.unchanged(case, allowed, item, kind)
                    yield row


def main() -> None:
    """Print the share of slates that stayed, counted as a click and as a purchase."""
    with tempfile.TemporaryDirectory() as home, threadpool_limits(1, "blas"):
        settings = Settings(home=Path(home))
        import_data(
            settings, ImportRequest(str(settings.data_dir / "online_retail_ii.parquet")), datetime.now(UTC)
        )
        rows = pd.DataFrame(Bench(ParquetDataStore(settings.data_path).load()).rows())
    shares = {"n": "sum", "click": "mean", "purchase": "mean"}
    print(rows.groupby(["placement", "which"]).agg(shares).round(3).to_string())
    print(rows.groupby(["placement", "which", "bought"]).agg(shares).round(3).to_string())


if __name__ == "__main__":
    main()
