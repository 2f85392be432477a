"""How far a topic of a partition has been read, as a time: the promise that the join relies on.

A watermark W says: every record appended before W has been fed. While there is a backlog, records move it:
appends are in order of time, so the newest one read vouches for all before it. At the end of the log nobody
would move it, so the clock does: if the log ended at offset e when our clock said t, and everything below e
has been fed, then whatever comes later was appended at t or after it.

Both get a safety margin. On Apache Kafka the broker stamps the append (LogAppendTime), and the margin covers
the difference between its clock and ours. The embedded broker knows no LogAppendTime: a record carries the
time at which its producer took it (CreateTime), and becomes readable only after the queue and the round trip.
There the margin must be longer than a healthy producer needs to get an acknowledgement. A record that takes
longer still does no harm unless it is later than margin + L, because maturity waits for the allowed lateness
L too; the join counts every such record (`overtaken`).
"""

from dataclasses import dataclass


@dataclass(slots=True)
class ReadProgress:
    """Reading of one topic of a partition. Times in ms; offsets are the next to be read."""

    position: int
    seen_ms: int = 0  # append time of the newest record read
    mark_ms: int = 0  # when we asked where the log ends …
    mark_end: int = 0  # … and what the answer was
    reached_ms: int = 0  # newest mark whose end has been read

    def saw(self, append_ms: int) -> None:
        """A record was read."""
        self.seen_ms = max(self.seen_ms, append_ms)

    def moved(self, position: int) -> None:
        """Reading stands at `position` now (it may pass offsets that hold no record)."""
        self.position = max(self.position, position)
        if self.position >= self.mark_end:
            self.reached_ms = self.mark_ms

    @property
    def wants_mark(self) -> bool:
        """Whether the last mark was reached. A mark that isn't stays, or steady traffic would outrun every
        mark."""
        return self.reached_ms == self.mark_ms

    def mark(self, asked_ms: int, end: int) -> None:
        """The log ended at `end` after `asked_ms`, which was read from our clock before asking."""
        self.mark_ms, self.mark_end = asked_ms, end
        self.moved(self.position)

    def watermark(self, now_ms: int, safety_ms: int) -> int:
        """ms; never later than our clock less the margin, whatever a record claims."""
        return min(max(self.seen_ms, self.reached_ms), now_ms) - safety_ms

    @property
    def lag(self) -> int:
        """Records known to be unread."""
        return max(0, self.mark_end - self.position)
