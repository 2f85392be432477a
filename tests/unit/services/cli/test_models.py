"""Parameters of models on the command line."""

import pytest

from services.cli.models import parse_params
from services.errors import BadInputError


@pytest.mark.parametrize("pair", ["factors", "=3"])
def test_a_parameter_without_value_is_named(pair):
    with pytest.raises(BadInputError, match="name=value"):
        parse_params([pair])
    assert parse_params(["a=1", "b=x"]) == {"a": 1, "b": "x"}
