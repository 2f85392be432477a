"""The training window continues the data version with recorded events."""

import numpy as np
from support.fitted_models import NOW_S
from support.training_shop import dataset

from models.recommender import KINDS
from services.adapters.memory.stores import MemoryDataStore
from services.ports.lake import PastEvents
from services.training.training_window import extend_dataset, indices, training_window


def past(rows: list[tuple[str, str, float, str]]) -> PastEvents:
    user, item, at, kind = (list(column) for column in zip(*rows, strict=True))
    return PastEvents(
        np.array(user), np.array(item), np.array(at), np.array([KINDS.index(k) for k in kind], np.uint8)
    )


def test_the_window_continues_with_later_events():
    later = past(
        [
            ("new", "item-003", NOW_S + 1, "click"),
            ("u7", "item-000", NOW_S + 2, "purchase"),
            ("u7", "gone", NOW_S + 3, "click"),
        ]
    )
    longer = extend_dataset(dataset(), later).interactions
    before = dataset().interactions
    assert len(longer.at) == len(before.at) + 2
    assert longer.users[longer.user[-2:]].tolist() == ["new", "u7"]
    assert longer.item[-2:].tolist() == [3, 0]
    assert longer.kind[-2:].tolist() == [KINDS.index("click"), KINDS.index("purchase")]
    np.testing.assert_array_equal(longer.user[:-2], before.user)
    assert (np.diff(longer.at) >= 0).all()


def test_only_events_after_the_import_are_read():
    reads = []

    class History:
        def since(self, after_ms):
            reads.append(after_ms)
            return PastEvents.none()

    data = dataset()
    assert len(training_window(MemoryDataStore(data), History()).interactions.at) == len(data.interactions.at)
    assert reads == [int(data.interactions.at[-1] * 1_000)]


def test_indices_do_not_depend_on_the_order():
    names = np.array(["b", "zz", "a", "", "c"])
    assert indices(np.array(["c", "a", "b"]), names).tolist() == [2, -1, 1, -1, 0]
    assert indices(np.empty(0, "<U1"), names).tolist() == [-1] * 5
