"""A training worker on in-memory adapters."""

import pytest
from support.training_shop import TrainingShop


@pytest.fixture
def shop(tmp_path) -> TrainingShop:
    return TrainingShop(tmp_path)
