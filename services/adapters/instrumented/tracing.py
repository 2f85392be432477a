"""OpenTelemetry traces through HTTP and Kafka (needs `pip install ringside[tracing]`).

The W3C `traceparent` of a request continues as server span → producer span → (header of the record) →
consumer span of each worker. This module is imported only if RINGSIDE_TRACE_TO names a collector.
"""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from concurrent.futures import Future

from opentelemetry import trace
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import SpanProcessor, TracerProvider
from opentelemetry.sdk.trace.export import BatchSpanProcessor
from opentelemetry.sdk.trace.sampling import ParentBased, TraceIdRatioBased
from opentelemetry.trace import Span, SpanKind, Status, StatusCode
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.requests import Request
from starlette.responses import Response

from services.adapters.instrumented.wrapper import PortWrapper
from services.ports.event_log import EventConsumer, EventProducer, Record
from services.runtime.log_context import RECOMMENDATION
from services.settings import Settings

_W3C = TraceContextTextMapPropagator()
TRACEPARENT = "traceparent"
Endpoint = Callable[[Request], Awaitable[Response]]


class Tracing:
    """The spans of one process. `processor` receives them when they end."""

    def __init__(self, process: str, replica: str, processor: SpanProcessor, share: float = 1.0):
        """share: fraction of the requests without a traceparent that begin a trace."""
        resource = {"service.name": f"ringside-{process}", "service.instance.id": replica}
        sampler = ParentBased(TraceIdRatioBased(share))
        self._provider = TracerProvider(sampler=sampler, resource=Resource.create(resource))
        self._provider.add_span_processor(processor)
        self._tracer = self._provider.get_tracer("ringside")
        self._process = process

    def endpoint(self, name: str, endpoint: Endpoint) -> Endpoint:
        """Wrap an endpoint in a server span that continues the caller's trace."""

        async def traced(request: Request) -> Response:
            parent = _W3C.extract(request.headers)
            with self._tracer.start_as_current_span(
                f"{request.method} {name}", context=parent, kind=SpanKind.SERVER
            ) as span:
                response = await endpoint(request)
                span.set_attribute("http.route", name)
                span.set_attribute("http.response.status_code", response.status_code)
                if slate := RECOMMENDATION.get():
                    span.set_attribute("ringside.recommendation_id", slate)
                if response.status_code >= 500:
                    span.set_status(Status(StatusCode.ERROR))
                return response

        traced.__name__, traced.__doc__ = endpoint.__name__, endpoint.__doc__
        return traced

    def producer(self, inner: EventProducer) -> EventProducer:
        """Trace a producer: records carry the trace of the request that sends them."""
        return TracedProducer(inner, self._tracer)

    def consumer(self, inner: EventConsumer) -> EventConsumer:
        """Trace a consumer: records that carry a trace continue it."""
        return TracedConsumer(inner, self._tracer, self._process)

    def close(self) -> None:
        """Send the ended spans."""
        self._provider.shutdown()


class TracedProducer(PortWrapper[EventProducer]):
    """An EventProducer with a span from `send` to the acknowledgement, whose id is in the record's headers.

    A record sent outside of a trace begins none.
    """

    def __init__(self, inner: EventProducer, tracer: trace.Tracer):
        super().__init__(inner)
        self._tracer = tracer

    def send(
        self, topic: str, key: str | bytes | None, value: bytes, headers: Sequence[tuple[str, bytes]] = ()
    ) -> "Future[Record]":
        """See EventProducer."""
        if not trace.get_current_span().get_span_context().is_valid:
            return self._inner.send(topic, key, value, headers)
        span = self._tracer.start_span(f"send {topic}", kind=SpanKind.PRODUCER, attributes=_attributes(topic))
        carrier: dict[str, str] = {}
        _W3C.inject(carrier, trace.set_span_in_context(span))
        trace_headers = [(name, text.encode()) for name, text in carrier.items()]
        future = self._inner.send(topic, key, value, [*headers, *trace_headers])
        future.add_done_callback(lambda done: _settled(span, done))
        return future


class TracedConsumer(PortWrapper[EventConsumer]):
    """An EventConsumer that starts a span for each record with a trace.

    The span ends at the next poll, because the worker is then done with the batch.
    """

    def __init__(self, inner: EventConsumer, tracer: trace.Tracer, process: str):
        super().__init__(inner)
        self._tracer, self._process = tracer, process
        self._open: list[Span] = []

    def poll(self, timeout_s: float, max_records: int = 1_000) -> list[Record]:
        """See EventConsumer."""
        self._end()
        records = self._inner.poll(timeout_s, max_records)
        self._open = [self._start(record) for record in records if _trace_headers(record)]
        return records

    def close(self) -> None:
        """See EventConsumer."""
        self._end()
        self._inner.close()

    def _start(self, record: Record) -> Span:
        return self._tracer.start_span(
            f"{self._process} {record.topic}",
            context=_W3C.extract(_trace_headers(record)),
            kind=SpanKind.CONSUMER,
            attributes={
                **_attributes(record.topic),
                "messaging.destination.partition.id": str(record.partition),
                "messaging.kafka.offset": record.offset,
            },
        )

    def _end(self) -> None:
        for span in self._open:
            span.end()
        self._open = []


def ids() -> Mapping[str, str]:
    """Ids of the current trace and span, for a log line."""
    at = trace.get_current_span().get_span_context()
    if not at.is_valid:
        return {}
    return {"trace_id": trace.format_trace_id(at.trace_id), "span_id": trace.format_span_id(at.span_id)}


def to_collector(settings: Settings, process: str, replica: str) -> Tracing:
    """Tracing that sends spans to `trace_to` in batches, on a thread of its own."""
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter

    exporter = OTLPSpanExporter(endpoint=f"{settings.trace_to.rstrip('/')}/v1/traces")
    return Tracing(process, replica, BatchSpanProcessor(exporter), settings.trace_share)


def _attributes(topic: str) -> dict[str, str]:
    return {"messaging.system": "kafka", "messaging.destination.name": topic}


def _trace_headers(record: Record) -> dict[str, str]:
    return {name: value.decode("ascii", "replace") for name, value in record.headers if name == TRACEPARENT}


def _settled(span: Span, done: "Future[Record]") -> None:
    if done.cancelled() or done.exception() is not None:
        span.set_status(Status(StatusCode.ERROR))
    span.end()
