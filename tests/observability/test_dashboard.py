"""Dashboard, alerts and runbook, held against each other and against the code they talk about."""

import contextlib
import json
import re
import runpy
import shlex
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml

from experiments.decision_rules import HOLDS
from services.cli.main import app
from services.settings import Settings

ROOT = Path(__file__).parents[2]
INFRA = ROOT / "infra"
DASHBOARD = json.loads((INFRA / "grafana" / "ringside.json").read_text("utf-8"))
ALERTS = yaml.safe_load((INFRA / "prometheus" / "alerts.yml").read_text("utf-8"))
RULES: list[dict[str, Any]] = [rule for group in ALERTS["groups"] for rule in group["rules"]]
RUNBOOK = (INFRA / "runbook.md").read_text("utf-8")
PARAGRAPHS = dict(re.findall(r"^## (\w+)\n\n(.*?)(?=^## |\Z)", RUNBOOK, flags=re.MULTILINE | re.DOTALL))
PANELS = [panel for panel in DASHBOARD["panels"] if panel["type"] != "row"]
QUERIES = [target["expr"] for panel in PANELS for target in panel["targets"]]
UsageError = typer.BadParameter.__mro__[1]  # typer brings its own click
DURATION = r"\d+(ms|s|m|h|d)"


def parse(words: list[str]) -> None:
    """Parse words as `ringside …` would, without running anything; UsageError if it would refuse."""
    command: Any = typer.main.get_command(app)
    context = command.make_context("ringside", list(words))
    while hasattr(command, "resolve_command"):
        name, command, words = command.resolve_command(context, list(words))
        with contextlib.suppress(SystemExit, typer.Exit):  # of --help
            context = command.make_context(name, list(words), parent=context)


def metrics_in(promql: str) -> set[str]:
    """Names of metrics in a query."""
    bare = re.sub(r'"[^"]*"', '""', promql)
    return set(re.findall(r"\b(?:ringside_\w+|process_\w+|up(?=\{))", bare))


def test_the_metrics_of_a_query_are_found() -> None:
    query = 'sum by (process, le) (rate(ringside_a_bucket{route="/up{"}[5m])) / up{job=~"ringside.*"}'
    assert metrics_in(query) == {"ringside_a_bucket", "up"}


def test_the_dashboard_is_what_its_program_writes() -> None:
    assert runpy.run_path(str(INFRA / "grafana" / "dashboard.py"))["text"]() == (
        INFRA / "grafana" / "ringside.json"
    ).read_text("utf-8")


def test_the_dashboard_has_its_rows_and_no_overlapping_panels() -> None:
    rows = [panel["title"] for panel in DASHBOARD["panels"] if panel["type"] == "row"]
    assert rows == ["Traffic and latency", "Degradation", "Event pipeline", "Experiment", "Resources"]
    covered = [
        (x, y)
        for panel in DASHBOARD["panels"]
        for at in [panel["gridPos"]]
        for x in range(at["x"], at["x"] + at["w"])
        for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(covered) == len(set(covered))
    assert max(x for x, _ in covered) < 24
    assert len({panel["id"] for panel in DASHBOARD["panels"]}) == len(DASHBOARD["panels"])


@pytest.mark.parametrize("query", [*QUERIES, *(rule["expr"] for rule in RULES)])
def test_every_query_has_a_metric_and_closes_what_it_opens(query: str) -> None:
    assert metrics_in(query)
    for opened, closed in ("()", "{}", "[]"):
        assert query.count(opened) == query.count(closed), query
    for window in re.findall(r"\[([^\]]*)\]", re.sub(r'"[^"]*"', "", query)):
        assert window == "$__rate_interval" or re.fullmatch(DURATION, window), query


def test_every_rate_is_of_a_counter_and_vice_versa() -> None:
    for query in [*QUERIES, *(rule["expr"] for rule in RULES)]:
        rated = set(re.findall(r"(?:rate|increase)\((\w+)", query))
        counters = {name for name in metrics_in(query) if name.endswith(("_total", "_bucket", "_count"))}
        assert rated >= counters - {"ringside_fits_total"}, query
        assert rated <= counters, query


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: rule["alert"])
def test_an_alert_has_a_severity_and_a_runbook_link(rule: dict[str, Any]) -> None:
    assert set(rule) <= {"alert", "expr", "for", "labels", "annotations"}
    assert rule["labels"]["severity"] in {"critical", "warning", "info"}
    assert re.fullmatch(DURATION, rule.get("for", "1m"))
    assert rule["annotations"]["summary"]
    file, _, anchor = rule["annotations"]["runbook_url"].partition("#")
    assert file.endswith("/infra/runbook.md")
    assert anchor == rule["alert"].lower()
    paragraph = PARAGRAPHS[rule["alert"]]
    for part in ("**Look:** ", "**Do:** "):
        assert part in paragraph


def test_features_without_a_timestamp_count_as_old() -> None:
    """`max` of no series is no number, and no alert: the process may be gone, or never have been started."""
    [rule] = [rule for rule in RULES if rule["alert"] == "RingsideFeaturesOld"]
    made = "ringside_materialized_timestamp_seconds"
    assert f"time() - (max({made}) or 0 * absent({made})) > 3 * 3600" == rule["expr"]


def test_an_alert_has_one_paragraph_and_a_paragraph_one_alert() -> None:
    assert sorted(PARAGRAPHS) == sorted(rule["alert"] for rule in RULES)


def test_the_runbook_names_panels_and_settings_that_exist() -> None:
    titles = {panel["title"] for panel in PANELS}
    named = re.findall(r"[Pp]anels? ((?:\*[^*]+\*(?:, | beside | and )?)+)", RUNBOOK)
    panels = {title for group in named for title in re.findall(r"\*([^*]+)\*", group)}
    assert len(panels) > 10
    assert panels <= titles
    fields = {f"RINGSIDE_{name.upper()}" for name in Settings.model_fields}
    assert set(re.findall(r"RINGSIDE_[A-Z_]+", RUNBOOK)) <= fields


def test_the_runbook_knows_every_reason_to_hold() -> None:
    assert {rule for rule in HOLDS if f"`{rule}`" not in PARAGRAPHS["RingsideHeld"]} == set()


def test_every_command_of_the_runbook_exists() -> None:
    lines = set(re.findall(r"`ringside ([^`]+)`", RUNBOOK))
    assert len(lines) > 15
    for line in lines:
        parse(["7" if word.isupper() else word for word in shlex.split(line)])
    with pytest.raises(UsageError):
        parse(["no-such-command"])


def test_prometheus_scrapes_every_process_of_compose() -> None:
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))["services"]
    ours = {name for name, service in services.items() if service["image"].startswith("ringside:")}
    prometheus = yaml.safe_load((INFRA / "prometheus" / "prometheus.yml").read_text("utf-8"))
    [job] = prometheus["scrape_configs"]
    port_of = {name: config["port"] for config in job["dns_sd_configs"] for name in config["names"]}
    assert set(port_of) == ours - {"setup", "tools"}
    for name, port in port_of.items():
        assert port == int(services[name]["environment"]["RINGSIDE_METRICS_PORT"])
        published = {int(pair.rpartition(":")[2]) for pair in services[name].get("ports", ())}
        assert port not in published  # it takes no key
    mounted = {volume.split(":")[1] for volume in services["prometheus"]["volumes"]}
    assert set(prometheus["rule_files"]) <= mounted


def test_prometheus_on_a_host_reads_what_processes_leave_there() -> None:
    file = INFRA / "prometheus" / "host.yml"
    told = yaml.safe_load(file.read_text("utf-8"))
    [job] = told["scrape_configs"]
    [pattern] = job["file_sd_configs"][0]["files"]
    assert (file.parent / pattern).resolve() == (ROOT / Settings().home / "metrics" / "*.json").resolve()
    assert all((file.parent / rules).exists() for rules in told["rule_files"])


def test_grafana_is_given_its_source_and_its_dashboard() -> None:
    provisioned = INFRA / "grafana" / "provisioning"
    [source] = yaml.safe_load((provisioned / "datasources" / "ringside.yml").read_text())["datasources"]
    used = {panel["datasource"]["uid"] for panel in PANELS}
    assert used == {source["uid"]}
    services = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))["services"]
    assert source["url"] == "http://prometheus:9090"
    assert "prometheus" in services
    [provider] = yaml.safe_load((provisioned / "dashboards" / "ringside.yml").read_text())["providers"]
    mounted = [volume.split(":")[1] for volume in services["grafana"]["volumes"]]
    assert f"{provider['options']['path']}/ringside.json" in mounted
