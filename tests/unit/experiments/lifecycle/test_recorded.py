"""Logs written by earlier releases fold to the state that those releases gave.

`recorded/decisions.jsonl` was written before details and evidence had types, with every kind of decision.
`recorded/older.jsonl` holds what still earlier releases left out (what a `resume` accepts, the answer of an
entry, a retraining request inside a rollback), names and numbers that only other writers write, and records
that are void or illegal.
"""

import json
from pathlib import Path
from typing import get_args

import msgspec
import pytest

from experiments.lifecycle.commands import Dropped
from experiments.lifecycle.decisions import DETAILS, Decision, Kind, kind_of, to_raw_json
from experiments.lifecycle.fold import VoidRevision, apply, fold
from experiments.lifecycle.state import to_dict
from experiments.lifecycle.transitions import IllegalTransition
from services.messages.events import decode, encode

RECORDED = Path(__file__).with_name("recorded")


def lines(name: str) -> list[bytes]:
    return (RECORDED / f"{name}.jsonl").read_bytes().splitlines()


def records(name: str) -> list[Decision]:
    return [decode(Decision, line) for line in lines(name)]


@pytest.mark.parametrize("name", ["decisions", "older"])
def test_a_recorded_log_folds_to_the_state_it_had(name):
    folded = json.loads(json.dumps(to_dict(fold(records(name)))))
    assert folded == json.loads((RECORDED / f"{name}_state.json").read_text())


@pytest.mark.parametrize("name", ["decisions", "older"])
def test_a_record_is_passed_on_as_it_was_written(name):
    for line in lines(name):
        assert json.loads(encode(decode(Decision, line))) == json.loads(line)


def test_the_recorded_log_has_every_kind():
    assert {record.kind for record in records("decisions")} == set(get_args(Kind)) == set(DETAILS)


def test_typed_details_and_evidence_are_written_as_before():
    """Also the order of names, and what is left out."""
    for record in records("decisions"):
        assert kind_of(record.detail) == record.kind
        assert bytes(to_raw_json(record.detail)) == bytes(record.detail_json)
        if record.evidence.arms:
            assert bytes(to_raw_json(record.evidence)) == bytes(record.evidence_json)


def test_older_records_are_refused_for_the_same_reasons():
    state, refused = None, []
    for record in records("older"):
        try:
            state = apply(state, record)
        except IllegalTransition as error:
            refused.append((record.revision, record.kind, isinstance(error, VoidRevision)))
    assert refused == [(9, "pause", True), (10, "enter", False), (12, "resume", False)]


def test_an_older_resume_accepts_every_cause():
    resumed = next(record for record in records("older") if record.kind == "resume")
    assert resumed.detail.accepts is None


def test_what_was_dropped_keeps_its_three_forms():
    dropped = [record.detail.dropped for record in records("decisions") if record.kind == "recount"]
    assert [d.unreadable for d in dropped] == [None, "sums: 'x' is not a key", "sums: 'x'"]
    assert [d.units for d in dropped] == [812, None, None]
    assert msgspec.json.encode(Dropped(unreadable="why")) == b'{"unreadable":"why"}'
