"""One question for a slate, from visitor to signed answer: read once, settle the arm, make the slate,
report it."""

import asyncio
import logging
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass

from cachetools import LRUCache

from services.errors import UnavailableError
from services.messages.events import EXPOSURES, Exposure, encode
from services.ports.event_log import Record
from services.ports.features import UserRow
from services.ports.pins import Pin
from services.recommend.assignment import NOBODY, Assigned, Proposal, propose, settle, unreachable
from services.recommend.deps import Deps
from services.recommend.metrics import Metrics
from services.recommend.recommendation_id import Tokens
from services.recommend.schemas import Answer
from services.recommend.slate_builder import Made, Slates
from services.recommend.slate_request import Ask, check
from services.recommend.snapshot.circuit_breaker import Breaker
from services.recommend.snapshot.snapshot import Serving
from services.runtime.log_context import RECOMMENDATION

log = logging.getLogger(__name__)

LOST = "exposure_lost"  # the slate won't count, nor what is clicked in it


@dataclass(frozen=True, slots=True)
class Question:
    """An ask at its moment. `slate_id`: short id of the slate to be; `routing_key`: made up for anonymous
    visitors."""

    ask: Ask
    routing_key: str
    now_ms: int
    slate_id: str


class Answering:
    """Answers /recommend, /similar and /rerank. `serving()` gives the view of the moment."""

    def __init__(
        self, deps: Deps, serving: Callable[[], Serving], slates: Slates, tokens: Tokens, metrics: Metrics
    ):
        self._deps = deps
        self._placements = frozenset(deps.settings.placements)
        self._serving = serving
        self._slates = slates
        self._tokens = tokens
        self._metrics = metrics
        self._breaker = Breaker(limit=5, rest_s=1.0)
        self._rows: LRUCache[str, UserRow] = LRUCache(10_000)
        self._replacing: set[asyncio.Task[None]] = set()

    async def answer(self, ask: Ask) -> Answer:
        """The slate with its recommendation id; its exposure is on its way. Raises BadInputError only."""
        serving = self._serving()
        check(ask, serving.shelf, self._placements)
        now_ms, slate_id = self._deps.clock_ms(), self._deps.new_id()
        RECOMMENDATION.set(slate_id)  # what is logged from here on is about it
        asked = Question(ask, ask.visitor.key or f"anonymous:{slate_id}", now_ms, slate_id)
        proposal = propose(serving, ask.visitor, asked.routing_key, now_ms, slate_id)
        row, assigned, notes = await self._read(serving, ask, proposal)
        made = await self._slates.make(serving, assigned.arm, ask, row)
        made.notes[:0] = notes if serving.alone is None else [serving.alone, *notes]
        exposure = self._exposure(asked, assigned, made, row.activity_at)
        degraded = self._report(exposure)
        return Answer(
            recommendation_id=self._tokens.sign(exposure),
            items=made.items,
            experiment=serving.state.name if serving.state is not None else None,
            arm=assigned.arm if assigned.arm != NOBODY else None,
            model_version=made.model_version,
            degraded=degraded,
        )

    def popular(self, ask: Ask) -> Answer:
        """What is popular now; nobody's slate, so nothing is counted."""
        serving = self._serving()
        check(ask, serving.shelf, self._placements)
        made = self._slates.popular(serving.shelf, ask)
        return Answer(
            recommendation_id=None,
            items=made.items,
            experiment=None,
            arm=None,
            model_version=None,
            degraded=",".join(made.notes) or None,
        )

    async def _read(
        self, serving: Serving, ask: Ask, proposal: Proposal
    ) -> tuple[UserRow, Assigned, list[str]]:
        """Features and pin in one round trip; without them the row remembered here, and no pin."""
        key = ask.visitor.key
        if key is None:  # nobody we could recognise: nothing to read, and no pin would ever be found again
            return UserRow(), settle(serving, proposal, None, written=False), []
        if self._breaker.closed(time.monotonic()):
            try:
                pin = proposal.pin if proposal.pin_key is not None else None
                row, stored, written = await self._deps.reader.read(
                    key, proposal.pin_key, pin, proposal.ttl_s
                )
            except UnavailableError:
                self._breaker.failed(time.monotonic())
            else:
                self._breaker.succeeded()
                self._rows[key] = row
                if stored is None and pin is not None:  # pins were lost, and are being put back
                    return row, unreachable(serving, proposal), ["no_pins"]
                assigned = settle(serving, proposal, stored, written)
                self._override(proposal, assigned)
                return row, assigned, []
        return self._rows.get(key) or UserRow(), unreachable(serving, proposal), ["no_fresh_features"]

    def _override(self, proposal: Proposal, assigned: Assigned) -> None:
        """Replace a retired pin behind the answer: the next request would settle the same way without it."""
        if assigned.overrides is None or proposal.pin_key is None:
            return
        task = asyncio.ensure_future(self._replace(proposal.pin_key, assigned.overrides, proposal.ttl_s))
        self._replacing.add(task)
        task.add_done_callback(self._replacing.discard)

    async def _replace(self, pin_key: str, pin: Pin, ttl_s: float) -> None:
        try:
            await self._deps.reader.replace_pin(pin_key, pin, ttl_s)
        except UnavailableError as error:
            log.warning("a retired pin stays for now: %s", error)

    def _exposure(self, asked: Question, assigned: Assigned, made: Made, features_at: int) -> Exposure:
        visitor = asked.ask.visitor
        return Exposure(
            received_at=asked.now_ms,
            recommendation_id=asked.slate_id,
            experiment=self._deps.settings.experiments.default,
            routing_key=asked.routing_key,
            unit=assigned.unit,
            unit_at=assigned.unit_at,
            first=assigned.first,
            arm=assigned.arm,
            answered_by=made.answered_by,
            model_version=made.model_version,
            weights_version=assigned.weights_version,
            propensity=assigned.propensity,
            placement=asked.ask.placement,
            items=[item.item_id for item in made.items],
            user_id=visitor.user_id,
            session_id=visitor.session_id,
            degraded=",".join(made.notes) or None,
            excluded=assigned.excluded,
            features_at=features_at or None,
        )

    def _report(self, exposure: Exposure) -> str | None:
        """Queue the exposure; what the answer lacks, also that its exposure is lost already (the queue is
        full). One that the producer gives up later is counted, never waited for."""
        future = self._deps.producer.send(EXPOSURES, exposure.routing_key, encode(exposure))
        future.add_done_callback(self._acknowledged)
        lost = future.done() and future.exception() is not None
        degraded = ",".join(filter(None, (exposure.degraded, LOST))) if lost else exposure.degraded
        self._metrics.slate(exposure, degraded)
        return degraded

    def _acknowledged(self, future: "Future[Record]") -> None:
        if future.cancelled() or future.exception() is not None:
            self._metrics.exposures_lost.inc()
