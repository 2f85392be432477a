"""Which experiment a placement belongs to."""

from services.experiment_table import ExperimentTable
from services.settings import Settings


def test_default_serves_placements_without_an_entry() -> None:
    table = ExperimentTable("storefront", {"email": "newsletter", "cart": "storefront"})
    assert [table.of(placement) for placement in ("home", "email", "cart")] == [
        "storefront",
        "newsletter",
        "storefront",
    ]
    assert table.names() == ("storefront", "newsletter")


def test_settings_fill_the_table_with_one_experiment() -> None:
    table = Settings(experiment="checkout").experiments
    assert table.names() == ("checkout",)
    assert table.of("anywhere") == table.default == "checkout"
