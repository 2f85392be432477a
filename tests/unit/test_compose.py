"""docker-compose.yml and the Dockerfile, held against what they talk about: schema, command line, settings,
Makefile."""

import json
import re
import shlex
import subprocess
import tomllib
from importlib.resources import files
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import typer
import yaml

from services.cli.main import app
from services.settings import Settings

ROOT = Path(__file__).parents[2]
PROCESSES = {"recommend", "attribution", "decider", "activity", "lake", "training", "console", "shop"}
UsageError = typer.BadParameter.__mro__[1]  # typer brings its own click
ONE_OFF = {"setup", "tools"}


def compose() -> dict[str, Any]:
    return yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))


SERVICES: dict[str, dict[str, Any]] = compose()["services"]
OURS = {name: service for name, service in SERVICES.items() if service["image"].startswith("ringside:")}


def dockerfile() -> list[tuple[str, str]]:
    """(instruction, arguments), continuation lines joined, comments left out."""
    text = (ROOT / "infra" / "docker" / "Dockerfile").read_text("utf-8")
    text = re.sub(r"^#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    pairs = (line.split(None, 1) for line in text.splitlines() if line.strip())
    return [(instruction, arguments.strip()) for instruction, arguments in pairs]


def interpolated(value: object) -> str:
    """What compose makes of a value when the variables are not set."""
    return re.sub(r"\$\{\w+:-([^}]*)\}", r"\1", str(value))


def parse(words: list[str]) -> None:
    """Parse words as `ringside …` would, without running anything; UsageError if it would refuse."""
    command: Any = typer.main.get_command(app)
    context = command.make_context("ringside", list(words))
    while hasattr(command, "resolve_command"):
        name, command, words = command.resolve_command(context, list(words))
        context = command.make_context(name, list(words), parent=context)


def ringside_lines(service: dict[str, Any]) -> list[list[str]]:
    """The `ringside …` of a service."""
    return [service["command"]] if service["command"] != ["--help"] else []


def test_compose_file_fits_the_published_schema() -> None:
    schema = files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    jsonschema.validate(compose(), json.loads(schema.read_text("utf-8")))


def test_every_process_is_a_service_with_a_health_check() -> None:
    assert set(OURS) >= PROCESSES
    for name in PROCESSES:
        assert OURS[name]["command"][0] == name
    for name, service in SERVICES.items():
        assert ("healthcheck" in service) == (name not in ONE_OFF), name
    for name in set(OURS) - ONE_OFF:
        assert OURS[name]["healthcheck"]["test"][:4] == ["CMD", "ringside", "health", name]


@pytest.mark.parametrize("name", sorted(OURS))
def test_every_command_is_one_that_the_command_line_understands(name: str) -> None:
    lines = ringside_lines(OURS[name])
    assert lines or name == "tools"
    for words in lines:
        parse(words)
    if name not in ONE_OFF:
        parse(OURS[name]["healthcheck"]["test"][2:])


def test_this_tests_parser_refuses_like_the_command_line() -> None:
    for words in (["no-such-process"], ["attribution", "--no-such-option"], ["health"]):
        with pytest.raises(UsageError):
            parse(words)


@pytest.mark.parametrize("name", sorted(OURS))
def test_every_variable_is_a_setting_and_its_value_is_valid(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    environment = {**OURS[name]["environment"], **image_environment()}
    fields = {f"RINGSIDE_{field.upper()}" for field in Settings.model_fields}
    assert set(environment) <= fields
    for variable, value in environment.items():
        monkeypatch.setenv(variable, interpolated(value))
    settings = Settings()
    assert settings.kafka_mode == "kafka"
    host, port = settings.kafka_bootstrap.split(":")
    assert SERVICES[host]["environment"]["KAFKA_ADVERTISED_LISTENERS"] == f"PLAINTEXT://{host}:{port}"


def test_published_ports_are_those_of_the_settings() -> None:
    settings = Settings()
    published = {name: service["ports"] for name, service in OURS.items() if "ports" in service}
    ports = {name: getattr(settings, f"{name}_port") for name in ("recommend", "console", "shop")}
    assert published == {name: [f"{port}:{port}"] for name, port in ports.items()}
    exposed = [arguments for instruction, arguments in dockerfile() if instruction == "EXPOSE"]
    assert sorted(map(int, exposed[0].split())) == sorted(ports.values())


def test_names_that_services_use_exist() -> None:
    volumes = set(compose()["volumes"])
    for name, service in SERVICES.items():
        assert set(service.get("depends_on", {})) <= set(SERVICES), name
        sources = {volume.split(":")[0] for volume in service.get("volumes", [])}
        assert {source for source in sources if not source.startswith("./")} <= volumes, name
        assert [
            source for source in sources if source.startswith("./") and not (ROOT / source).exists()
        ] == []
        conditions = {other["condition"] for other in service.get("depends_on", {}).values()}
        assert conditions <= {"service_healthy", "service_completed_successfully"}, name


def test_foreign_images_have_exact_versions() -> None:
    for name in set(SERVICES) - set(OURS):
        assert re.fullmatch(r"[\w/]+:v?\d+\.\d+(\.\d+)?", SERVICES[name]["image"]), name


def image_environment() -> dict[str, str]:
    """RINGSIDE_* variables that the image sets."""
    lines = [arguments for instruction, arguments in dockerfile() if instruction == "ENV"]
    pairs = dict(word.split("=", 1) for line in lines for word in shlex.split(line))
    return {name: value for name, value in pairs.items() if name.startswith("RINGSIDE_")}


def installs(text: str) -> list[list[str]]:
    """Words of every `pip install`, without extras and what only changes what is printed."""
    text = text.replace("$(PIP)", "python -m pip").replace("$(TORCH_INDEX)", "$TORCH_INDEX")
    found = re.findall(r"python -m pip install ([^;\n]+)", text)
    quiet = re.compile(r"-q |--progress-bar on |\[\w+\]")
    return [[word.strip("'") for word in shlex.split(quiet.sub("", line))] for line in found]


def test_the_image_installs_with_the_same_lines_as_the_makefile() -> None:
    runs = "\n".join(arguments for instruction, arguments in dockerfile() if instruction == "RUN")
    assert installs(runs) == installs((ROOT / "Makefile").read_text("utf-8"))
    assert len(installs(runs)) == 2


def test_the_image_can_send_the_traces_compose_offers() -> None:
    assert all("RINGSIDE_TRACE_TO" in OURS[name]["environment"] for name in PROCESSES)
    [ours] = [arguments for instruction, arguments in dockerfile() if " -e " in arguments]
    assert ours == "python -m pip install -c constraints.txt -e '.[tracing]'"
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]["optional-dependencies"]
    pinned = {line.partition("==")[0] for line in (ROOT / "constraints.txt").read_text("utf-8").splitlines()}
    assert set(extras["tracing"]) <= pinned


def test_the_image_holds_every_package_and_only_files_that_exist() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    copied = {
        source
        for instruction, arguments in dockerfile()
        if instruction == "COPY"
        for source in arguments.split()[:-1]
    }
    packages = {
        pattern.rstrip("*") for pattern in project["tool"]["setuptools"]["packages"]["find"]["include"]
    }
    assert packages <= copied
    assert [source for source in copied if not (ROOT / source).exists()] == []
    kept = {
        line[1:] for line in (ROOT / ".dockerignore").read_text("utf-8").splitlines() if line.startswith("!")
    }
    assert kept == copied, "what .dockerignore lets through is what the image copies"


def test_the_image_starts_our_script_on_a_python_we_support() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))["project"]
    lines = dict(dockerfile())
    assert json.loads(lines["ENTRYPOINT"])[0] in project["scripts"]
    minimum = project["requires-python"].removeprefix(">=")
    assert lines["FROM"] == f"python:{minimum}-slim"
    assert lines["USER"] != "root"


@pytest.mark.parametrize("broken", [None, "lint", "test", "test-all"])
def test_the_ci_script_stops_at_the_first_failure(tmp_path: Path, broken: str | None) -> None:
    """The script itself, between commands that only note how they were called."""
    calls = tmp_path / "calls"
    for command in ("redis-server", "chromium", "java", "mvn", "make"):
        stub = tmp_path / command
        stub.write_text(
            f'#!/bin/sh\necho "{command} $1" >> {shlex.quote(str(calls))}\n'
            f'echo "== 7 passed, 2 warnings in 3.00s =="\n[ "$1" != "{broken}" ]\n'
        )
        stub.chmod(0o755)
    ran = subprocess.run(
        [ROOT / ".ci" / "run"],
        env={"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": str(tmp_path), "TMPDIR": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
    )
    targets = ["lint", "test", "test-all"]
    expected = targets if broken is None else targets[: targets.index(broken) + 1]
    called = [line.split(" ", 1) for line in calls.read_text("utf-8").splitlines()]
    assert [target for command, target in called if command == "make"] == expected
    assert (ran.returncode == 0) == (broken is None), ran.stderr
    if broken is None:
        assert ran.stdout.splitlines()[-2:] == ["== 7 passed, 2 warnings in 3.00s =="] * 2
    makefile = (ROOT / "Makefile").read_text("utf-8")
    assert all(re.search(rf"^{target}:", makefile, flags=re.MULTILINE) for target in targets)
