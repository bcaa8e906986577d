"""What a batch has come to so far, as this process sees it, for those who watch."""

import threading
import time
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

from n1n_prefect.batch.results import ItemResult


@dataclass
class _Sum:
    by_status: "Counter[str]" = field(default_factory=Counter[str])
    cost_usd: float = 0.0

    def add(self, by_status: Mapping[str, int], cost_usd: float) -> None:
        self.by_status.update(by_status)
        self.cost_usd += cost_usd


@dataclass
class Tally:
    """Counts of a batch while it goes on: chunks that have ended, and what those under way in this process did."""

    fresh: int = 0
    """How many items have ended in this run, as far as this process has heard."""

    started: float = field(default_factory=time.monotonic)
    """When this run of the batch began."""

    _closed: _Sum = field(default_factory=_Sum)
    _open: dict[int, _Sum] = field(default_factory=dict[int, _Sum])
    _lock: threading.Lock = field(default_factory=threading.Lock, repr=False)

    def add(self, chunk: int, result: ItemResult, *, is_fresh: bool = True) -> None:
        """Counts an item of a chunk that is under way; one that is pending has not ended."""
        if result.outcome.status == "pending":
            return
        with self._lock:
            self.fresh += is_fresh
            running = self._open.setdefault(chunk, _Sum())
            running.add({result.outcome.status: 1}, result.outcome.estimated_cost_usd or 0.0)

    def close(self, chunk: int, by_status: Mapping[str, int], cost_usd: float, *, fresh: int = 0) -> None:
        """Counts a chunk that has ended, in the place of what was heard of its items.

        Args:
            chunk: The chunk's number.
            by_status: How many of its items ended how.
            cost_usd: What they cost, in US dollars.
            fresh: How many ended in this run in another process.
        """
        with self._lock:
            self._open.pop(chunk, None)
            self.fresh += fresh
            ended = {status: count for status, count in by_status.items() if status != "pending"}
            self._closed.add(ended, cost_usd)

    def reopen(self, by_status: Mapping[str, int], cost_usd: float) -> None:
        """Takes back `close`, for a chunk that is carried out once more."""
        with self._lock:
            ended = Counter({status: count for status, count in by_status.items() if status != "pending"})
            self._closed.by_status.subtract(ended)
            self._closed.cost_usd -= cost_usd

    def sums(self) -> tuple["Counter[str]", float]:
        """How many items have ended how, and what they cost in US dollars."""
        with self._lock:
            everything = _Sum()
            for some in (self._closed, *self._open.values()):
                everything.add(some.by_status, some.cost_usd)
            return everything.by_status, everything.cost_usd

    def sentence(self, total: int) -> str:
        """Where the batch stands, in words: done, how, dollars, speed and time left."""
        by_status, cost_usd = self.sums()
        ended, seconds = sum(by_status.values()), time.monotonic() - self.started
        counts = ", ".join(f"{count:,} {status.replace('_', ' ')}" for status, count in by_status.most_common())
        facts = [f"{ended:,} of {total:,} images have ended{f': {counts}' if counts else ''}."]
        if cost_usd:
            facts.append(f"${cost_usd:,.2f} so far.")
        if self.fresh and seconds > 1:
            speed = self.fresh / seconds
            left = f"; {_duration((total - ended) / speed)} left" if ended < total else ""
            facts.append(f"{speed:.1f} images/s{left}.")
        return " ".join(facts)


def _duration(seconds: float) -> str:
    if seconds < 90:
        return f"about {max(round(seconds), 1)} s"
    return f"about {seconds / 60:.0f} min" if seconds < 5400 else f"about {seconds / 3600:.1f} h"


_tallies: dict[str, Tally] = {}


def tally_of(batch_id: str) -> Tally:
    """The tally of a batch in this process."""
    return _tallies.setdefault(batch_id, Tally())


def new_tally(batch_id: str) -> Tally:
    """A tally that begins at nothing, for a new run of the batch."""
    _tallies[batch_id] = Tally()
    return _tallies[batch_id]
