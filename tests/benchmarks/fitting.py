"""What models lose when they are fitted on the rows of `user_activity` as of the cut (what point-in-time
retrieval gives: each user's last 50 events) instead of on the interactions: `python -m
tests.benchmarks.fitting`, with RINGSIDE_DATA_DIR. What infra/adr/0011 is based on."""

import tempfile
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from threadpoolctl import threadpool_limits

from models.algorithms import algorithm_class
from models.algorithms.time_decay import DAY_S
from models.evaluation.offline import cases, evaluate
from models.evaluation.splits import split_last
from models.recommender import Interactions
from services.adapters.files.data_store import ParquetDataStore
from services.data_import.app import ImportRequest, import_data
from services.settings import Settings

ALGORITHMS_FITTED = ("popularity", "als", "ease")
TEST_S = 28 * DAY_S


def rows_as_of_the_end(interactions: Interactions, most: int) -> Interactions:
    """The last `most` interactions of each user: all that their rows hold at the end."""
    back = np.arange(len(interactions.at))[::-1]
    order = back[np.argsort(interactions.user[back], kind="stable")]  # by user, latest first
    user = interactions.user[order]
    starts = np.searchsorted(user, user)  # where each one's rows begin
    kept = np.sort(order[np.arange(len(order)) - starts < most])
    names = ("user", "item", "at", "quantity", "price", "kind")
    return replace(interactions, **{name: getattr(interactions, name)[kept] for name in names})


def main() -> None:
    """Print recall@20 of each model, new items and all items, fitted on either."""
    with tempfile.TemporaryDirectory() as home, threadpool_limits(1, "blas"):
        settings = Settings(home=Path(home))
        import_data(
            settings, ImportRequest(str(settings.data_dir / "online_retail_ii.parquet")), datetime.now(UTC)
        )
        dataset = ParquetDataStore(settings.data_path).load()
    split = split_last(dataset.interactions, TEST_S)
    judged = cases(split)
    for name, learnt in (
        ("interactions", split.train),
        ("activity rows", rows_as_of_the_end(split.train, settings.recent_items)),
    ):
        for algorithm in ALGORITHMS_FITTED:
            model = algorithm_class(algorithm).fit(learnt, dataset.catalogue, now_s=split.cut_s, seed=0)
            new, every = (evaluate(model, judged, new_only=only) for only in (True, False))
            shares = ", ".join(
                f"{which} {found['recall@20']:.4f} ± {found['recall@20_se']:.4f}"
                for which, found in (("new", new), ("all", every))
            )
            print(f"{name:14} {len(learnt.at):8,} {algorithm:11} {shares}", flush=True)


if __name__ == "__main__":
    main()
