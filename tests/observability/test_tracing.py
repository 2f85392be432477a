"""One click's trace, from the browser's header through HTTP and Kafka to the workers; and no trace at all
where none is wanted."""

import json
import logging
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from support.breakable import BreakableActivityStore
from support.small_shop import Caller, SmallShop

from services import bootstrap
from services.adapters.instrumented import tracing
from services.adapters.instrumented.meters import Meters
from services.adapters.instrumented.tracing import Tracing
from services.adapters.memory.event_log import MemoryEventConsumer, MemoryEventProducer
from services.errors import ConfigurationError
from services.messages.events import EVENTS, EXPOSURES
from services.recommend.http_app import create_app, fast_path
from services.runtime import log_format
from services.settings import Settings

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
TRACEPARENT = {"traceparent": f"00-{TRACE}-{PARENT}-01"}


@pytest.fixture
def spans() -> InMemorySpanExporter:
    return InMemorySpanExporter()


def traced(process: str, spans: InMemorySpanExporter, share: float = 1.0) -> Tracing:
    return Tracing(process, "r1", SimpleSpanProcessor(spans), share)


@pytest.fixture
def caller(tmp_path: Path, spans: InMemorySpanExporter) -> Iterator[Caller]:
    """The HTTP application with its spans kept; `caller.shop` is behind it."""
    shop = SmallShop(tmp_path)
    shop.start()
    told = traced("recommend", spans)
    producer = told.producer(MemoryEventProducer(shop.broker))
    app = create_app(replace(shop.deps(), producer=producer, traced=told.endpoint))
    with TestClient(fast_path(app), raise_server_exceptions=False) as client:
        found = Caller(client, app)
        found.shop = shop  # type: ignore[attr-defined]
        found.refresh()
        yield found


def by_name(spans: InMemorySpanExporter) -> dict[str, Any]:
    return {span.name: span for span in spans.get_finished_spans()}


def click(slate: dict[str, Any]) -> dict[str, Any]:
    item = slate["items"][0]["item_id"]
    said = {"event_id": "e1", "type": "click", "item_id": item, "user_id": "anna", "session_id": "s1"}
    return {**said, "recommendation_id": slate["recommendation_id"]}


def test_one_click_is_one_trace_up_to_the_worker(
    caller: Caller, spans: InMemorySpanExporter, tmp_path: Path
) -> None:
    slate = caller.slate()
    spans.clear()
    assert caller.post("/events", [click(slate)], headers=TRACEPARENT).status_code == 202
    from services.activity.worker import ActivityWorker, Deps
    from services.adapters.memory.event_log import MemoryLogAdmin

    shop: SmallShop = caller.shop  # type: ignore[attr-defined]
    meters = Meters(Settings(home=tmp_path), "activity", "r1", traced("activity", spans))
    consumer = meters.consumer(MemoryEventConsumer(shop.broker))  # type: ignore[arg-type]
    pairs = frozenset((EVENTS, partition) for partition in range(4))
    given = {
        "consumer": consumer,
        "producer": meters.producer(MemoryEventProducer(shop.broker)),
        "admin": MemoryLogAdmin(shop.broker),
        "store": BreakableActivityStore(),
        "owned": lambda: pairs,
    }
    more = {"features": MemoryFeatures(), "ttl_ms": 10**12}
    fields = Deps.__dataclass_fields__
    deps = Deps(**{name: value for name, value in {**given, **more}.items() if name in fields})
    worker = ActivityWorker(deps, lambda: shop.now_ms, most=50, horizon_ms=0)
    while worker.step(0):
        pass
    found = by_name(spans)
    http, sent, read = found["POST /events"], found["send events"], found["activity events"]
    assert {span.context.trace_id for span in (http, sent, read)} == {int(TRACE, 16)}
    assert http.parent.span_id == int(PARENT, 16)
    assert sent.parent.span_id == http.context.span_id
    assert read.parent.span_id == sent.context.span_id
    assert [span.kind for span in (http, sent, read)] == [
        SpanKind.SERVER,
        SpanKind.PRODUCER,
        SpanKind.CONSUMER,
    ]
    assert read.resource.attributes["service.name"] == "ringside-activity"
    assert read.attributes["messaging.destination.name"] == EVENTS


class MemoryFeatures:
    """What the activity worker asks of Feast when it starts: nothing was forgotten."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_, **__: []


def test_an_exposure_carries_the_trace_and_the_span_its_slate(
    caller: Caller, spans: InMemorySpanExporter
) -> None:
    caller.get("/recommend", params={"user_id": "anna", "session_id": "s1"}, headers=TRACEPARENT)
    found = by_name(spans)
    [record] = caller.shop.broker.records(EXPOSURES)  # type: ignore[attr-defined]
    sent = found["send exposures"]
    assert dict(record.headers)["traceparent"].decode() == f"00-{TRACE}-{sent.context.span_id:016x}-01"
    [exposure] = caller.shop.exposures()  # type: ignore[attr-defined]
    attributes = found["GET /recommend"].attributes
    assert attributes["ringside.recommendation_id"] == exposure.recommendation_id
    assert attributes["http.response.status_code"] == 200


def test_a_failed_send_is_an_error_of_its_span(caller: Caller, spans: InMemorySpanExporter) -> None:
    slate = caller.slate()
    spans.clear()
    caller.shop.broker.down = True  # type: ignore[attr-defined]
    assert caller.post("/events", [click(slate)], headers=TRACEPARENT).status_code == 503
    assert {span.status.status_code for span in spans.get_finished_spans()} == {StatusCode.ERROR}


def test_an_unsampled_trace_is_propagated_but_not_recorded(
    caller: Caller, spans: InMemorySpanExporter
) -> None:
    unsampled = {"traceparent": f"00-{TRACE}-{PARENT}-00"}
    caller.get("/recommend", params={"user_id": "anna"}, headers=unsampled)
    assert spans.get_finished_spans() == ()
    [record] = caller.shop.broker.records(EXPOSURES)  # type: ignore[attr-defined]
    assert dict(record.headers)["traceparent"].decode().endswith("-00")


def test_records_and_sends_without_a_trace_start_none(
    spans: InMemorySpanExporter, memory_broker: Any
) -> None:
    told = traced("attribution", spans)
    told.producer(MemoryEventProducer(memory_broker)).send(EVENTS, "ada", b"1")
    memory_broker.append(EVENTS, b"ada", b"2", [("traceparent", b"\xffrubbish")])
    consumer = told.consumer(MemoryEventConsumer(memory_broker))  # type: ignore[arg-type]
    consumer.assign({(EVENTS, partition): 0 for partition in range(4)})
    plain, rubbish = consumer.poll(0)
    consumer.close()
    assert plain.headers == ()
    for span in spans.get_finished_spans():
        assert span.parent is None
        assert span.attributes["messaging.kafka.offset"] == rubbish.offset


def test_a_line_of_log_says_its_trace(tmp_path: Path, spans: InMemorySpanExporter) -> None:
    lines = log_format.JsonFormatter(Settings(home=tmp_path), "lake", "r1", tracing.ids)
    record = logging.makeLogRecord({"msg": "written", "levelname": "INFO"})
    with traced("lake", spans)._tracer.start_as_current_span("turn") as span:
        told = json.loads(lines.format(record))
    assert told["trace_id"] == f"{span.get_span_context().trace_id:032x}"
    assert told["span_id"] == f"{span.get_span_context().span_id:016x}"
    assert "trace_id" not in json.loads(lines.format(record))


def test_by_default_tracing_is_neither_imported_nor_wrapped(tmp_path: Path) -> None:
    assert bootstrap.tracing(Settings(home=tmp_path), "recommend") is None
    shop = SmallShop(tmp_path)
    shop.start()
    with shop.client() as caller:
        caller.get("/recommend", params={"user_id": "anna"}, headers=TRACEPARENT)
    [record] = shop.broker.records(EXPOSURES)
    assert record.headers == ()
    program = (
        "import sys; from services.recommend.app import compose;"
        "from services.settings import Settings;"
        "compose(Settings(log_level='ERROR'));"
        # redis-py itself imports OpenTelemetry
        "sys.exit('services.adapters.instrumented.tracing' in sys.modules)"
    )
    assert (
        subprocess.run([sys.executable, "-c", program], cwd=tmp_path, env=_plain(), timeout=120).returncode
        == 0
    )


def _plain() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}


def test_traces_without_their_packages_are_refused_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "opentelemetry.exporter.otlp.proto.http.trace_exporter", None)
    with pytest.raises(ConfigurationError, match=r"ringside\[tracing\]"):
        bootstrap.tracing(Settings(home=tmp_path, trace_to="http://127.0.0.1:1"), "lake")


def test_spans_go_to_the_collector_that_is_named(tmp_path: Path) -> None:
    import http.server
    import threading

    paths: list[str] = []

    class Collector(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            paths.append(self.path)
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            """Quiet."""

    with http.server.HTTPServer(("127.0.0.1", 0), Collector) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        settings = Settings(home=tmp_path, trace_to=f"http://127.0.0.1:{server.server_port}/", trace_share=1)
        told = bootstrap.tracing(settings, "lake")
        assert told is not None
        told._tracer.start_span("turn").end()
        told.close()
        server.shutdown()
    assert paths == ["/v1/traces"]
