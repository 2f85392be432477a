"""A user's row as a set that grows: the latest events, whatever order or how often they arrive.

The row is the `most` latest of all events seen, by (received_at, event_id). That makes adding an event
idempotent and order irrelevant, so a replay after a crash changes nothing.
"""

from collections.abc import Iterable
from typing import get_args

from services.messages.events import ActedType, ActivityRow, Event

COUNTED = frozenset(get_args(ActedType))


def owner(event: Event) -> str | None:
    """Key of the row that an event belongs to: the routing key of its own request; None: it leaves no
    trace."""
    if event.type not in COUNTED:
        return None
    return event.user_id or event.session_id


def merge(row: ActivityRow | None, user: str, events: Iterable[Event], most: int) -> ActivityRow:
    """`row` (None: there was none) with `events`. `received_at` stays: stamping is `stamp`'s.

    Events that stand in the row already are ignored.
    """
    entries = set(_entries(row)) if row else set()
    known = {event_id for _, event_id, _, _ in entries}
    for event in events:
        if event.event_id not in known:
            known.add(event.event_id)
            entries.add((event.received_at, event.event_id, event.item_id, event.type))
    return _latest(entries, user, row.received_at if row else 0, most)


def joined(row: ActivityRow, other: ActivityRow, most: int) -> ActivityRow:
    """`row` with the entries of `other`, a row of the same user; `received_at` stays."""
    entries = {entry[1]: entry for entry in (*_entries(other), *_entries(row))}
    return _latest(entries.values(), row.user_id, row.received_at, most)


def _latest(entries: Iterable[tuple[int, str, str, str]], user: str, at_ms: int, most: int) -> ActivityRow:
    latest = sorted(entries, reverse=True)[:most]
    return ActivityRow(
        received_at=at_ms,
        user_id=user,
        item_ids=[item_id for _, _, item_id, _ in latest],
        item_at=[at for at, _, _, _ in latest],
        item_types=[kind for _, _, _, kind in latest],
        event_ids=[event_id for _, event_id, _, _ in latest],
    )


def stamp(row: ActivityRow, now_ms: int, horizon_ms: int) -> ActivityRow:
    """`row` with the moment by which it can be read: `horizon_ms` ahead, and later than the row it replaces.

    Feast drops, silently, a row that is not later than the one it has.
    """
    return ActivityRow(
        received_at=max(now_ms + horizon_ms, row.received_at + 1),
        user_id=row.user_id,
        item_ids=row.item_ids,
        item_at=row.item_at,
        item_types=row.item_types,
        event_ids=row.event_ids,
    )


def _entries(row: ActivityRow) -> Iterable[tuple[int, str, str, str]]:
    return zip(row.item_at, row.event_ids, row.item_ids, row.item_types, strict=True)
