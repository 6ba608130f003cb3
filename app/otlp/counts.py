"""What a decoder counts on the way to a batch's tally."""

from __future__ import annotations

from app.otlp.attributes import clean
from app.otlp.columns import Rejection, Tally


class Counts:
    """The counts of one body or file part; `tally` closes them."""

    def __init__(self) -> None:
        self.found = self.joined = self.other_signals = self.re_identified = 0
        self._rejected: dict[str, tuple[int, str]] = {}
        self._unreadable: dict[str, tuple[int, str]] = {}
        self._warnings: dict[str, None] = {}
        self.senders: dict[str, None] = {}

    def reject(self, reason: str, where: str, count: int) -> None:
        self.found += count
        _count(self._rejected, reason, where, count)

    def unreadable(self, reason: str, where: str) -> None:
        _count(self._unreadable, reason, where, 1)

    def warn(self, message: str) -> None:
        if len(self._warnings) < 32:
            self._warnings[clean(message)] = None

    def sender(self, service: str) -> None:
        self.senders[service] = None

    def tally(self, accepted: int) -> Tally:
        """The tally where so many spans were accepted; what is not accounted for repeated another span exactly."""
        rejected = tuple(Rejection(reason, *rest) for reason, rest in self._rejected.items())
        return Tally(
            found=self.found,
            accepted=accepted,
            joined=self.joined,
            duplicates=self.found - self.joined - accepted - sum(one.count for one in rejected),
            rejected=rejected,
            unreadable=tuple(Rejection(reason, *rest) for reason, rest in self._unreadable.items()),
            other_signals=self.other_signals,
            re_identified=self.re_identified,
            warnings=tuple(self._warnings),
            senders=tuple(list(self.senders)[:32]),
        )


def _count(counts: dict[str, tuple[int, str]], reason: str, where: str, count: int) -> None:
    # Reasons may quote the input: 64 different ones tell enough, and answers stay small.
    if reason not in counts and len(counts) >= 64:
        reason = "other reasons"
    known, first = counts.get(reason, (0, clean(where)))
    counts[reason] = (known + count, first)
