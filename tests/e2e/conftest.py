"""The demo is played once, on the real data if there is some, and judged by several tests."""

import pytest
from support.played_demo import DemoResult, play_demo


@pytest.fixture(scope="session")
def demo(tmp_path_factory: pytest.TempPathFactory) -> DemoResult:
    """`ringside demo --headless`, once for all tests."""
    return play_demo(tmp_path_factory.mktemp("demo"))
