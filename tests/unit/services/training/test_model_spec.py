"""A model spec is checked, fitted, and recovered from an artifact."""

import pytest

from services.cli.models import algorithm_name
from services.errors import BadInputError
from services.training.model_spec import model_spec, spec_of


def test_a_spec_is_recovered_from_the_manifest(shop):
    trained_model = model_spec("popularity", {"fast_days": 3.0})
    assert spec_of(shop.pipeline.train(trained_model).manifest).params["fast_days"] == 3.0


@pytest.mark.parametrize(
    ("algorithm", "params", "named"), [("magic", {}, "magic"), ("als", {"wide": 1}, "wide")]
)
def test_an_unknown_algorithm_or_parameter_is_named(algorithm, params, named):
    with pytest.raises(BadInputError, match=named):
        model_spec(algorithm, params)


def test_a_parameter_of_a_wrong_type_is_bad_input(shop):
    with pytest.raises(BadInputError, match="params"):
        shop.pipeline.train(model_spec("als", {"factors": "many"}))


def test_content_is_trained_through_the_encoder(shop):
    trained = shop.pipeline.train(model_spec("content", {"dimensions": 8}))
    model, _ = shop.models.load(trained.manifest.model_version)
    assert model.vectors.shape == (60, 8)


@pytest.mark.parametrize(("former", "present"), [("linear", "ease"), ("inverted", "reversed_popularity")])
def test_former_names_of_algorithms_are_accepted(former, present):
    assert model_spec(former).algorithm == algorithm_name(former) == present
