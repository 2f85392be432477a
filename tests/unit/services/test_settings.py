"""Settings are parsed once, from the text of environment variables, and refused by the variable's name."""

from dataclasses import fields
from ipaddress import ip_network
from pathlib import Path

import pytest
from pydantic import ValidationError

from experiments.lifecycle.state import Rules
from services.settings import PREFIX, RULE_SETTINGS, Settings, problems


def problem(**values: object) -> str:
    with pytest.raises(ValidationError) as refused:
        Settings(**values)
    [line] = problems(refused.value)
    return line


@pytest.mark.parametrize(
    ("name", "text", "value"),
    [
        ("placements", "home, cart,", ("home", "cart")),
        ("cors_origins", "*", ("*",)),
        ("signing_key", "new,old", ("new", "old")),
        ("signing_key", "", ()),
        ("recommend_url", "http://a/, http://b", ("http://a", "http://b")),
        ("rates", " analyst=20, client=0.5", {"analyst": 20.0, "client": 0.5}),
        ("rates", "", {}),
        ("own_networks", "10.0.0.0/8,::1/128", (ip_network("10.0.0.0/8"), ip_network("::1/128"))),
        ("own_networks", "", ()),
        ("bandit_partitions", "0-2,3", frozenset({0, 1, 2, 3})),
        ("bandit_partitions", "3", frozenset({3})),
        ("bandit_partitions", "", frozenset()),
        ("keys_file", "", None),
        ("keys_file", "/run/keys", Path("/run/keys")),
        ("window_s", "60", 60.0),
    ],
)
def test_a_variable_and_a_keyword_are_parsed_alike(
    name: str, text: str, value: object, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert getattr(Settings(**{name: text}), name) == value
    assert getattr(Settings(**{name: value}), name) == value
    monkeypatch.setenv(PREFIX + name.upper(), text)
    assert getattr(Settings(), name) == value


@pytest.mark.parametrize("text", ["4", "0-9", "a-b", "2-1", "-1"])
def test_partitions_that_do_not_exist_are_refused(text: str) -> None:
    assert problem(bandit_partitions=text).startswith("RINGSIDE_BANDIT_PARTITIONS: ")


@pytest.mark.parametrize("text", ["boss=3", "client", "client=0", "client=-1", "client=nan", "admin=inf"])
def test_invalid_rates_are_refused_without_being_repeated(text: str) -> None:
    assert problem(rates=f"analyst=1,{text}").startswith("RINGSIDE_RATES: entry 2 is not NAME=")
    assert "s3cret" not in problem(rates="s3cret")


@pytest.mark.parametrize("text", ["10.0.0.0/33", "10.0.0.1/8", "s3cret"])
def test_invalid_networks_are_refused_without_being_repeated(text: str) -> None:
    line = problem(own_networks=f"10.0.0.0/8, {text}")
    assert line == "RINGSIDE_OWN_NETWORKS: entry 2 is not a network like 10.0.0.0/8 or fc00::/7"


def test_secrets_appear_in_no_representation_or_error() -> None:
    values = {"redis_url": "redis://:s3cret@h/zero", "recommend_port": "s3cret"}
    with pytest.raises(ValidationError) as refused:
        Settings(**values)
    assert "s3cret" not in str(refused.value)
    secrets = dict.fromkeys(("keys", "signing_key", "storefront_key"), "s3cret")
    assert "s3cret" not in repr(Settings(redis_url="redis://:s3cret@h/0", **secrets))


def test_rules_are_the_experiments_defaults_unless_set() -> None:
    assert Settings().rules == Rules()
    assert Settings(window_s=5.0, unit="request").rules == Rules(window_s=5.0, unit="request")
    names = {field.name for field in fields(Rules)}
    assert names & set(Settings.model_fields) == set(RULE_SETTINGS)


@pytest.mark.parametrize(
    ("name", "value"), [("window_s", -3.0), ("min_new_units", -1), ("half_life_s", float("nan"))]
)
def test_a_rule_that_makes_no_sense_is_refused(name: str, value: float) -> None:
    assert problem(**{name: value}).startswith(f"RINGSIDE_{name.upper()}: ")
    assert "rules." not in problem(**{name: value})
