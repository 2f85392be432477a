"""A user's row of `user_activity` as a grow-only set: its latest events, in any order of arrival.

A row holds the `most` latest of all events seen, by (received_at, event_id). This makes adding an event
idempotent and its order irrelevant, so a replay after a crash changes nothing.
"""

from collections.abc import Iterable

from msgspec.structs import replace

from services.messages.events import ActivityRow, ActivityType, Event

Entry = tuple[int, str, str, ActivityType]  # received_at, event_id, item_id, type


def row_key(event: Event) -> str | None:
    """Return the key of the row that an event belongs to: the routing key of the request that sent it.

    None for impressions, which leave no trace, and for events without user and session.
    """
    return None if event.type == "impression" else event.user_id or event.session_id


def merge(row: ActivityRow | None, user: str, events: Iterable[Event], most: int) -> ActivityRow:
    """Add events to a row (None: there is none yet); those that it already holds change nothing.

    `received_at` stays; `stamp` sets it.
    """
    entries = set(_entries(row)) if row else set()
    known = {event_id for _, event_id, _, _ in entries}
    for event in events:
        if event.type != "impression" and event.event_id not in known:
            known.add(event.event_id)
            entries.add((event.received_at, event.event_id, event.item_id, event.type))
    return _latest(entries, user, row.received_at if row else 0, most)


def union(row: ActivityRow, other: ActivityRow, most: int) -> ActivityRow:
    """Return `row` with the entries of `other`, a row of the same user; `received_at` stays."""
    entries = {entry[1]: entry for entry in (*_entries(other), *_entries(row))}
    return _latest(entries.values(), row.user_id, row.received_at, most)


def stamp(row: ActivityRow, now_ms: int, horizon_ms: int) -> ActivityRow:
    """Set the event timestamp of a row: when the row can be read, `horizon_ms` ahead.

    It is always later than that of the row it replaces, because Feast silently drops a row that is not later.
    """
    return replace(row, received_at=max(now_ms + horizon_ms, row.received_at + 1))


def _latest(entries: Iterable[Entry], user: str, at_ms: int, most: int) -> ActivityRow:
    latest = sorted(entries, reverse=True)[:most]
    return ActivityRow(
        received_at=at_ms,
        user_id=user,
        item_ids=[item_id for _, _, item_id, _ in latest],
        item_at=[at for at, _, _, _ in latest],
        item_types=[kind for _, _, _, kind in latest],
        event_ids=[event_id for _, event_id, _, _ in latest],
    )


def _entries(row: ActivityRow) -> Iterable[Entry]:
    return zip(row.item_at, row.event_ids, row.item_ids, row.item_types, strict=True)
