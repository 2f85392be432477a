"""The console's pages and their live data. Each route translates a `View` into HTML or JSON."""

import json
from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import quote

import msgspec
from fastapi import APIRouter, Depends, HTTPException, Query, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response, StreamingResponse

from experiments.lifecycle.decisions import Decision
from services.console import exports, queries, series, wording
from services.console.deps import ConsoleDeps, Selected, deps_of, reader
from services.console.log_follower import FollowedExperiment
from services.console.sessions import Person

router = APIRouter()
MAX_POINTS = 1_200  # on the first load; later responses contain only new points
PAGE_SIZE = 100  # decisions
LISTED_MARKS, LISTED_LOOKS = 30, 4


@dataclass(frozen=True, slots=True)
class Page:
    """A page request: its dependencies and the person who reads."""

    request: Request
    deps: ConsoleDeps
    person: Person

    def render(self, template: str, status_code: int = 200, **values: Any) -> HTMLResponse:
        """A whole page."""
        values |= {
            "person": self.person,
            "now_ms": self.deps.now_ms(),
            "experiments": sorted(self.deps.view.experiments),
        }
        return self.deps.templates.TemplateResponse(self.request, template, values, status_code=status_code)

    def fragment(self, template: str, **values: Any) -> str:
        """A part of a page as HTML."""
        return self.deps.templates.get_template(template).render(**values, person=self.person)


def page(request: Request, person: Annotated[Person, Depends(reader)]) -> Page:
    """Dependency: a page request of a person who is logged in."""
    return Page(request, deps_of(request), person)


ReadPage = Annotated[Page, Depends(page)]


@router.get("/")
def home(page: ReadPage) -> RedirectResponse:
    """The experiment of the settings, or the list of experiments if it does not exist yet."""
    name = page.deps.settings.experiments.default
    known = name in page.deps.view.experiments
    return RedirectResponse(f"/experiments/{quote(name)}" if known else "/experiments", 303)


@router.get("/experiments")
def experiments(page: ReadPage) -> HTMLResponse:
    """All experiments, newest first."""
    view = page.deps.view
    listed = sorted(view.experiments.values(), key=lambda f: -f.state.started_ms)
    rows = [(f, wording.sentence(f.state, queries.last_look(f.history))) for f in listed]
    return page.render(
        "experiments.html", rows=rows, sources=view.sources, wanted=page.deps.settings.experiments.default
    )


@router.get("/experiments/{name}")
def experiment(page: ReadPage, selected: Selected) -> HTMLResponse:
    """The page of an experiment; its script loads the plots from /live."""
    return page.render("experiment.html", **_values(page.deps, selected))


@router.get("/experiments/{name}/live")
def live(page: ReadPage, selected: Selected, after_revision: Annotated[int, Query(ge=0)] = 0) -> Response:
    """Changes since `after_revision`: points, posterior densities, and the parts of the page as HTML."""
    values = _values(page.deps, selected)
    state, points = selected.state, selected.axis.points
    fresh = [point for point in points if point["revision"] > after_revision]
    parts = ("headline", "arms", "decisions", "replicas", "accounting")
    body = {
        "now_ms": page.deps.now_ms(),
        "read_at_ms": page.deps.view.sources.read_at_ms,
        "revision": state.revision,
        "log": state.started_ms,
        "points": series.thin(fresh, MAX_POINTS),
        "styles": queries.styles(state),
        "roles": {arm.name: arm.role for arm in state.arms.values()},
        "densities": queries.densities(values["arms"]) if fresh else None,
        "status": state.status,
        "parts": {name: page.fragment(f"part_{name}.html", **values) for name in parts},
    }
    return Response(msgspec.json.encode(body), media_type="application/json")


@router.get("/experiments/{name}/decisions")
def decisions(
    page: ReadPage,
    selected: Selected,
    before: Annotated[int | None, Query(ge=1)] = None,
    looks: bool = True,
) -> HTMLResponse:
    """One page of all decisions, newest first."""
    history = selected.history
    kept = [
        d
        for d in reversed(history)
        if (before is None or d.revision < before) and (looks or d.kind != "allocate")
    ]
    older = kept[PAGE_SIZE - 1].revision if len(kept) > PAGE_SIZE else None
    return page.render(
        "decisions.html",
        experiment=selected.state.name,
        rows=kept[:PAGE_SIZE],
        older=older,
        looks=looks,
        total=len(history),
    )


@router.get("/experiments/{name}/decisions/{revision}")
def decision(page: ReadPage, selected: Selected, revision: int, part: bool = False) -> HTMLResponse:
    """One decision with all its numbers; `part`: without the page around it, for the drawer."""
    history, at = selected.history, _position(selected, revision)
    values = _record(history, at) | {"experiment": selected.state.name, "part": part}
    if part:
        return HTMLResponse(page.fragment("part_record.html", **values))
    return page.render("decision.html", **values)


@router.get("/experiments/{name}/decisions/{revision}/record.json")
def record(page: ReadPage, selected: Selected, revision: int) -> Response:
    """One decision exactly as in the log."""
    stored = selected.history[_position(selected, revision)]
    return Response(msgspec.json.encode(stored), media_type="application/json")


def _position(selected: FollowedExperiment, revision: int) -> int:
    """Index of a decision in the history. Raises 404 if there is none."""
    for index, candidate in enumerate(selected.history):
        if candidate.revision == revision:
            return index
    raise HTTPException(404, f"Experiment {selected.state.name} has no decision with revision {revision}.")


@router.get("/experiments/{name}/log.jsonl")
def log_jsonl(page: ReadPage, selected: Selected) -> StreamingResponse:
    """All decisions as JSON lines."""
    return _download(
        exports.jsonl(list(selected.history)), f"{selected.state.name}.jsonl", "application/x-ndjson"
    )


@router.get("/experiments/{name}/log.csv")
def log_csv(page: ReadPage, selected: Selected) -> StreamingResponse:
    """All decisions as CSV."""
    return _download(
        exports.csv_lines(list(selected.history)), f"{selected.state.name}.csv", "text/csv; charset=utf-8"
    )


def _download(lines: Any, filename: str, media_type: str) -> StreamingResponse:
    disposition = f"attachment; filename*=UTF-8''{quote(filename)}"
    return StreamingResponse(lines, media_type=media_type, headers={"Content-Disposition": disposition})


def _values(deps: ConsoleDeps, selected: FollowedExperiment) -> dict[str, Any]:
    """Values of all parts of an experiment's page."""
    state, history, view = selected.state, selected.history, deps.view
    look = queries.last_look(history)
    arms = queries.arm_rows(state, history, selected.realised(), view.heartbeats)
    highest = max((row["numbers"].get("high") or 0.0 for row in arms if row["counted"]), default=0.0)
    return {
        "sentence": wording.sentence(state, look),
        "warnings": queries.warnings(state, look, view.heartbeats, view.sources, deps.now_ms()),
        "look": look,
        "arms": arms,
        "replicas": queries.replica_rows(state, view.heartbeats),
        "accounting": queries.accounting_rows(look),
        "units": sum(series.counts(look).values()) if look else 0,
        "experiment": state.name,
        "state": state,
        "scale": highest * 1.05 or 1.0,
        "listed": listed(history),
        "total": len(history),
        "undoable": max(state.reversals, default=None),  # the newest rollback or promotion
    }


def listed(history: list[Decision]) -> list[Decision]:
    """Decisions on the page: the newest marked ones and a few of the newest looks, newest first."""
    marks = [d for d in reversed(history) if d.kind not in series.UNMARKED_KINDS][:LISTED_MARKS]
    looks = [d for d in reversed(history) if d.kind in series.UNMARKED_KINDS][:LISTED_LOOKS]
    return sorted(marks + looks, key=lambda d: -d.revision)


def _record(history: list[Decision], at: int) -> dict[str, Any]:
    decision = history[at]
    before = history[at - 1].weights if at else {}
    return {
        "decision": decision,
        "weights_before": before,
        "earlier": history[at - 1].revision if at else None,
        "later": history[at + 1].revision if at + 1 < len(history) else None,
        "accounting": queries.accounting_rows(decision),
        "as_json": json.dumps(json.loads(msgspec.json.encode(decision)), indent=2, ensure_ascii=False),
    }
