"""`ringside …`: what makes no sense is refused by the name of its option or setting, before anything."""

from pathlib import Path

import pytest
from pydantic import ValidationError
from typer.testing import CliRunner

from services.cli import main
from services.errors import BadInputError
from services.runtime.liveness import StopEvent, liveness_file
from services.settings import Settings


@pytest.mark.parametrize(
    ("words", "option"),
    [
        ("redis --port -1", "--port"),
        ("redis --port 99999999", "--port"),
        ("kafka --port 0", "--port"),
        ("kafka --partitions -4", "--partitions"),
        ("kafka --partitions 0", "--partitions"),
        ("broker --partitions 0", "--partitions"),
        ("health lake --within nan", "--within"),
        ("health lake --within inf", "--within"),
        ("health lake --within -1", "--within"),
        ("recommend --reload --within nan", "--within"),
        ("simulate --sessions nan", "--sessions"),
        ("experiment show --last 0", "--last"),
        ("simulate --for 0", "--for"),
        ("demo --headless --for nan", "--for"),
    ],
)
def test_an_invalid_number_is_refused_by_its_option(words: str, option: str) -> None:
    told = CliRunner().invoke(main.app, words.split())
    assert isinstance(told.exception, SystemExit)
    assert told.exit_code == 2
    assert f"Invalid value for '{option}'" in told.output


def test_a_number_beyond_the_log_is_refused_by_its_field() -> None:
    result = CliRunner().invoke(main.app, ["experiment", "undo", "9223372036854775808"])
    assert isinstance(result.exception, BadInputError)
    assert result.exception.field == "revision"


def test_an_invalid_setting_is_named_and_never_repeated(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("RINGSIDE_RECOMMEND_PORT", "s3cret")
    monkeypatch.setattr("sys.argv", ["ringside", "health", "lake"])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 2
    told = capsys.readouterr().err
    assert "ringside: RINGSIDE_RECOMMEND_PORT: " in told
    assert "s3cret" not in told


@pytest.mark.parametrize("name", ["a/b", "", "x" * 65, "shop\n", "a b"])
def test_an_experiment_that_http_can_not_reach_is_no_setting(name: str) -> None:
    with pytest.raises(ValidationError, match="experiment"):
        Settings(experiment=name)


@pytest.mark.parametrize(("old", "new"), [("bandit", "attribution"), ("trainer", "training")])
def test_a_process_still_answers_to_its_old_name(
    old: str, new: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RINGSIDE_HOME", str(tmp_path))
    StopEvent(liveness_file(Settings(), new)).is_set()
    assert CliRunner().invoke(main.app, ["health", old]).output == "healthy\n"
    assert CliRunner().invoke(main.app, [old, "--help"]).exit_code == 0
    commands = CliRunner().invoke(main.app, ["--help"]).output
    assert f" {new} " in commands
    assert f" {old} " not in commands
