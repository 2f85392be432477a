"""Which data the demo plays on."""

import pytest

from services.demo.app import real_file, source
from services.errors import ConfigurationError
from services.settings import Settings


@pytest.mark.parametrize(
    "name", ["online_retail_ii.parquet", "online_retail_II.xlsx", "online+retail+ii.zip"]
)
def test_the_real_file_is_found_under_any_of_its_names(tmp_path, name):
    (tmp_path / name).touch()
    (tmp_path / "README.md").touch()
    assert real_file(tmp_path).name == name
    assert source(Settings(data_dir=tmp_path))[:2] == [str(tmp_path / name), "--split"]


def test_no_folder_means_synthetic_an_empty_one_fails(tmp_path):
    assert source(Settings(data_dir=None)) == ["synthetic"]
    with pytest.raises(ConfigurationError, match="RINGSIDE_DATA_DIR"):
        real_file(tmp_path)
