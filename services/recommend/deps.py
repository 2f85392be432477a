"""What the recommend process is composed of: ports, a clock and ids."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from services.control.recount import RecountService
from services.ports.catalogue import ItemOverlay
from services.ports.event_log import EventConsumer, EventProducer, LogAdmin
from services.ports.features import OnlineReader
from services.ports.state import DecisionLog, StateCache
from services.ports.training import DataStore, ModelStore
from services.settings import Settings

Endpoint = Callable[[Request], Awaitable[Response]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Deps:
    """`clock_ms`: ms since the epoch, the time that rules use; `new_id`: makes an id for each slate;
    `replica`: name of this process; `traced`: wraps an endpoint in a trace, None for no traces."""

    settings: Settings
    reader: OnlineReader
    producer: EventProducer
    state: StateCache
    decisions: DecisionLog
    recounting: RecountService
    overlay: ItemOverlay
    consumer: EventConsumer  # of topic `items`; belongs to the thread that writes the overlay
    admin: LogAdmin
    data: DataStore
    models: ModelStore
    clock_ms: Callable[[], int]
    new_id: Callable[[], str]
    replica: str = "replica"
    traced: Callable[[str, Endpoint], Endpoint] | None = None
