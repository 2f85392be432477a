"""The watermark of one topic of a partition: the time up to which its log has been read completely.

A watermark W promises that every record appended before W has been fed to the join. Two things move it. While
there is a backlog, the records do: appends are in order of time, so the newest record read implies that all
earlier ones are read. At the end of the log no record would move it, so the clock does: if the log ended at
offset e when our clock showed t, and everything below e has been fed, then later records are appended at t or
after it.

A safety margin is subtracted. On Apache Kafka the broker stamps the append (LogAppendTime), and the margin
covers the difference between its clock and ours. The embedded broker has no LogAppendTime: a record carries
the time at which its producer took it (CreateTime), and becomes readable only after the queue and the round
trip. There the margin must be longer than a healthy producer needs to get an acknowledgement. A record that
takes longer does no harm unless it is later than margin + L, because maturity waits for the allowed lateness
L too; the join counts every such record (`overtaken`).
"""

from dataclasses import dataclass


@dataclass(slots=True)
class ReadProgress:
    """Reading of one topic of a partition. Times in ms; offsets are the next ones to be read."""

    position: int
    last_append_ms: int = 0  # append time of the newest record read
    queried_ms: int = 0  # our clock just before the end of the log was queried
    end: int = 0  # end of the log at `queried_ms`
    reached_ms: int = 0  # newest `asked_ms` whose end has been read

    def note_record(self, append_ms: int) -> None:
        """Note that a record was read."""
        self.last_append_ms = max(self.last_append_ms, append_ms)

    def advance(self, position: int) -> None:
        """Move the reading position, which may pass offsets that hold no record."""
        self.position = max(self.position, position)
        if self.position >= self.end:
            self.reached_ms = self.queried_ms

    @property
    def needs_end(self) -> bool:
        """Whether the last known end was reached. Until then it is kept: under steady traffic a newer end
        would never be reached."""
        return self.reached_ms == self.queried_ms

    def note_end(self, queried_ms: int, end: int) -> None:
        """Note the end of the log; `asked_ms`: our clock, read before asking for it."""
        self.queried_ms, self.end = queried_ms, end
        self.advance(self.position)

    def watermark(self, now_ms: int, safety_ms: int) -> int:
        """Return the watermark, ms. It is never later than our clock minus the margin, so that a record with
        a wrong time can't move it into the future."""
        return min(max(self.last_append_ms, self.reached_ms), now_ms) - safety_ms

    @property
    def lag(self) -> int:
        """Number of records that are known to be unread."""
        return max(0, self.end - self.position)
