"""An installation for every test of faults."""

from pathlib import Path

import pytest
from support.real_installation import install

from services.settings import Settings


@pytest.fixture(scope="session")
def installation(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """(home folder, model version)."""
    home = tmp_path_factory.mktemp("installation")
    return home, install(Settings(home=home))
