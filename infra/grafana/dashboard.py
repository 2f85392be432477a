"""Generates infra/grafana/ringside.json: run `python infra/grafana/dashboard.py`. A test compares the two.

A panel is a title, a unit and its queries; the rest of Grafana's format is the same for all panels.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

TARGET = Path(__file__).with_name("ringside.json")
SOURCE = {"type": "prometheus", "uid": "ringside"}
WIDTH, HEIGHT = 8, 7  # three panels a line

Query = tuple[str, str]  # PromQL, legend
Panel = tuple[str, str, Sequence[Query]]  # title, unit, queries


def quantile(q: float, metric: str, by: str = "", where: str = "") -> str:
    """PromQL for a quantile of a histogram."""
    labels = f"le, {by}" if by else "le"
    return f"histogram_quantile({q}, sum by ({labels}) (rate({metric}_bucket{where}[$__rate_interval])))"


def rate(metric: str, by: str, where: str = "") -> str:
    """PromQL for the rate of a counter, per second."""
    return f"sum by ({by}) (rate({metric}{where}[$__rate_interval]))"


RECOMMEND = '{process="recommend"}'
ROWS: dict[str, Sequence[Panel]] = {
    "Traffic and latency": (
        ("Requests", "reqps", [(rate("ringside_http_responses_total", "route", RECOMMEND), "{{route}}")]),
        ("Answers by status", "reqps", [(rate("ringside_http_responses_total", "status"), "{{status}}")]),
        (
            "Latency of /recommend",
            "s",
            [
                (quantile(q, "ringside_http_request_seconds", where='{route="/recommend"}'), f"p{q * 100:g}")
                for q in (0.5, 0.95, 0.99)
            ],
        ),
        (
            "p99 by process and route",
            "s",
            [(quantile(0.99, "ringside_http_request_seconds", "process, route"), "{{process}} {{route}}")],
        ),
        ("Shed requests", "reqps", [(rate("ringside_requests_shed_total", "reason"), "{{reason}}")]),
        (
            "Calls from the shop to the API",
            "reqps",
            [
                (rate("ringside_calls_total", "result"), "{{result}}"),
                (quantile(0.99, "ringside_call_seconds"), "p99, s"),
            ],
        ),
    ),
    "Degradation": (
        ("Slates by arm", "reqps", [(rate("ringside_slates_total", "arm"), "{{arm}}")]),
        (
            "Degraded slates by step",
            "reqps",
            [
                (rate("ringside_slates_degraded_total", "step"), "{{step}}"),
                ("sum(rate(ringside_slates_lacking_total[$__rate_interval]))", "degraded slates"),
            ],
        ),
        (
            "Slates from the fallback arm",
            "percentunit",
            [
                (
                    f"{rate('ringside_slate_fallbacks_total', 'arm')} "
                    f"/ {rate('ringside_slates_total', 'arm')}",
                    "{{arm}}",
                )
            ],
        ),
        ("Pins", "reqps", [(rate("ringside_pins_total", "result"), "{{result}}")]),
        (
            "Slates excluded from the counts",
            "reqps",
            [(rate("ringside_slates_excluded_total", "reason"), "{{reason}}")],
        ),
        (
            "Age of the experiment state",
            "s",
            [
                ("ringside_state_age_seconds", "{{replica}}"),
                ("max(ringside_champion_only)", "champion only"),
            ],
        ),
    ),
    "Event pipeline": (
        ("Events", "eps", [(rate("ringside_events_total", "result"), "{{result}}")]),
        (
            "Unattributed events",
            "eps",
            [(rate("ringside_events_unattributed_total", "reason"), "{{reason}}")],
        ),
        (
            "Events and exposures by result",
            "eps",
            [
                (rate("ringside_events_accounted_total", "fate"), "{{fate}}"),
                (rate("ringside_exposures_accounted_total", "fate"), "{{fate}}"),
            ],
        ),
        (
            "Records read",
            "eps",
            [(rate("ringside_records_read_total", "process, topic"), "{{process}} {{topic}}")],
        ),
        (
            "Consumer lag",
            "short",
            [("sum by (process, topic) (ringside_consumer_lag_records)", "{{process}} {{topic}}")],
        ),
        (
            "Age of the watermark",
            "s",
            [("time() - min(ringside_watermark_timestamp_seconds)", "slowest partition")],
        ),
        (
            "Dead letters",
            "short",
            [
                (
                    "sum by (process, topic, reason) "
                    "(increase(ringside_dead_letters_total[$__rate_interval]))",
                    "{{process}} {{topic}} {{reason}}",
                ),
                ("sum(increase(ringside_records_overtaken_total[$__rate_interval]))", "overtaken records"),
            ],
        ),
        (
            "Losses and failures",
            "short",
            [
                ("sum(increase(ringside_exposures_lost_total[$__rate_interval]))", "exposures lost"),
                (
                    "sum by (process, topic) "
                    '(increase(ringside_records_sent_total{result="failed"}[$__rate_interval]))',
                    "{{process}} {{topic}} not sent",
                ),
                ("max(ringside_data_losses)", "data losses"),
                ("sum(ringside_partitions_stopped)", "partitions stopped"),
            ],
        ),
        (
            "Failed steps",
            "eps",
            [(rate("ringside_steps_total", "process, result", '{result!="ok"}'), "{{process}} {{result}}")],
        ),
        (
            "Write latency, p99",
            "s",
            [
                (quantile(0.99, "ringside_activity_push_seconds"), "activity push"),
                (quantile(0.99, "ringside_tally_apply_seconds"), "sums"),
                (quantile(0.99, "ringside_lake_write_seconds"), "lake file"),
            ],
        ),
        (
            "Rows written",
            "eps",
            [
                (rate("ringside_activity_rows_total", "process"), "activity"),
                (rate("ringside_lake_rows_total", "topic"), "lake {{topic}}"),
            ],
        ),
        (
            "Age of features and lake",
            "s",
            [
                ("time() - max(ringside_materialized_timestamp_seconds)", "age of profiles"),
                ("max(ringside_materialize_seconds)", "duration of materialization"),
                ("time() - max by (topic) (ringside_lake_file_timestamp_seconds)", "age of lake {{topic}}"),
            ],
        ),
    ),
    "Experiment": (
        ("Weights", "percentunit", [("max by (arm) (ringside_arm_weight_ratio)", "{{arm}}")]),
        (
            "Probability of being best",
            "percentunit",
            [("max by (arm) (ringside_arm_best_probability_ratio)", "{{arm}}")],
        ),
        (
            "Evidence against an arm and its limit (log)",
            "short",
            [
                ("max by (arm) (ringside_race_log_evidence)", "{{arm}}"),
                ("max by (arm) (ringside_race_log_threshold)", "{{arm}} limit"),
            ],
        ),
        (
            "Success rate with its interval",
            "percentunit",
            [
                ("max by (arm) (ringside_arm_posterior_mean_ratio)", "{{arm}}"),
                ("max by (arm) (ringside_arm_posterior_low_ratio)", "{{arm}} low"),
                ("max by (arm) (ringside_arm_posterior_high_ratio)", "{{arm}} high"),
            ],
        ),
        (
            "Counted units",
            "short",
            [
                ("max by (arm) (ringside_arm_units)", "{{arm}}"),
                ("max by (arm) (ringside_arm_successes)", "{{arm}} successes"),
                (rate("ringside_units_matured_total", "arm"), "{{arm}} a second"),
            ],
        ),
        (
            "Decisions",
            "short",
            [
                (
                    'sum by (kind) (increase(ringside_decisions_total{kind!="allocate"}[$__rate_interval]))',
                    "{{kind}}",
                )
            ],
        ),
        (
            "Revision decided and served",
            "short",
            [
                ("max by (experiment) (ringside_experiment_revision)", "{{experiment}} decided"),
                ("ringside_served_revision", "{{replica}} serves"),
            ],
        ),
        (
            "Holds, confirmations, retraining",
            "short",
            [
                ("max by (rule) (ringside_experiment_held)", "held: {{rule}}"),
                ('max by (status) (ringside_experiment_status{status!="running"})', "{{status}}"),
                ("max(ringside_decisions_unconfirmed)", "unconfirmed"),
                ("max(ringside_retrain_pending)", "retraining pending"),
            ],
        ),
        (
            "Model fits",
            "s",
            [
                (quantile(0.5, "ringside_fit_seconds", "algorithm"), "{{algorithm}} p50"),
                ("sum by (algorithm, gate) (ringside_fits_total)", "{{algorithm}} {{gate}}, number"),
            ],
        ),
    ),
    "Resources": (
        (
            "Memory",
            "bytes",
            [
                ("process_resident_memory_bytes", "{{process}} {{instance}}"),
                ("ringside_resident_memory_bytes", "{{replica}}"),
            ],
        ),
        (
            "CPU",
            "percentunit",
            [
                ("rate(process_cpu_seconds_total[$__rate_interval])", "{{process}} {{instance}}"),
                ("deriv(ringside_cpu_used_seconds[5m])", "{{replica}}"),
            ],
        ),
        ("Free disk", "bytes", [("min by (process) (ringside_disk_free_bytes)", "{{process}}")]),
        ("Processes that are up", "short", [('up{job=~"ringside.*"}', "{{process}} {{instance}}")]),
        (
            "Loaded models and items",
            "short",
            [
                ("ringside_models_loaded", "{{replica}} models"),
                ("ringside_catalogue_items", "{{replica}} items"),
            ],
        ),
        (
            "Age of the console's data",
            "s",
            [
                ("time() - max(ringside_console_view_timestamp_seconds)", "age"),
                ("max by (source) (ringside_console_source_failing)", "{{source}} unreadable"),
            ],
        ),
    ),
}


def dashboard() -> dict[str, Any]:
    """The dashboard in Grafana's JSON model."""
    panels: list[dict[str, Any]] = []
    y = 0
    for title, described in ROWS.items():
        panels.append(_row(title, y))
        for number, panel in enumerate(described):
            at = {"x": number % 3 * WIDTH, "y": y + 1 + number // 3 * HEIGHT, "w": WIDTH, "h": HEIGHT}
            panels.append(_panel(panel, at))
        y += 1 + -(-len(described) // 3) * HEIGHT
    for number, panel in enumerate(panels, 1):
        panel["id"] = number
    return {
        "uid": "ringside",
        "title": "Ringside",
        "tags": ["ringside"],
        "schemaVersion": 39,
        "editable": False,
        "refresh": "10s",
        "time": {"from": "now-1h", "to": "now"},
        "timezone": "utc",
        "panels": panels,
    }


def _row(title: str, y: int) -> dict[str, Any]:
    at = {"x": 0, "y": y, "w": 3 * WIDTH, "h": 1}
    return {"type": "row", "title": title, "collapsed": False, "gridPos": at, "panels": []}


def _panel(panel: Panel, at: dict[str, int]) -> dict[str, Any]:
    title, unit, queries = panel
    targets = [
        {"refId": chr(65 + number), "datasource": SOURCE, "expr": expr, "legendFormat": legend}
        for number, (expr, legend) in enumerate(queries)
    ]
    return {
        "type": "timeseries",
        "title": title,
        "datasource": SOURCE,
        "gridPos": at,
        "fieldConfig": {"defaults": {"unit": unit, "min": None}, "overrides": []},
        "options": {"legend": {"showLegend": True, "placement": "bottom"}, "tooltip": {"mode": "multi"}},
        "targets": targets,
    }


def text() -> str:
    """Contents of the file."""
    return json.dumps(dashboard(), indent=1, ensure_ascii=False) + "\n"


if __name__ == "__main__":
    TARGET.write_text(text(), "utf-8")
