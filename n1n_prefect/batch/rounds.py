"""The chunks of a batch, handed out and awaited: as task runs of this flow, or elsewhere."""

import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

from prefect.futures import PrefectFuture

from n1n_prefect import budget, stopping
from n1n_prefect.batch.chunk import ChunkReport, carry_out_chunk
from n1n_prefect.batch.lease import here
from n1n_prefect.batch.tally import Tally
from n1n_prefect.batch.terms import Terms
from n1n_prefect.budget import Allowance
from n1n_prefect.errors import BudgetExceededError
from n1n_prefect.outcomes import is_under_way
from n1n_prefect.run_log import get_logger

_LOOK_SECONDS = 0.1
_FAILURES_IN_A_ROW = 3
_LATE_SECONDS = 5.0  # after the time to end, for chunks to keep what came of them


class Handle(Protocol):
    """A chunk that was handed out."""

    def is_done(self) -> bool:
        """Whether it has ended."""
        ...

    def report(self) -> ChunkReport:
        """What it came to, or the error that ended it."""
        ...


Start = Callable[[int, Allowance | None], Handle]


# ── where chunks are carried out ─────────────────────────────────────────────


@dataclass(frozen=True)
class _TaskRun:
    future: PrefectFuture[Any]

    def is_done(self) -> bool:
        return not is_under_way(self.future)

    def report(self) -> ChunkReport:
        return self.future.result()


def task_runs(terms: Terms, digests: Sequence[str], **blocks: Any) -> Start:
    """Chunks as task runs, on the task runner of the flow: threads, Dask, Ray.

    Args:
        terms: What is the same for all items.
        digests: What the plan says of each chunk.
        blocks: The flow's own blocks by parameter.
    """

    def start(number: int, allowance: Allowance | None) -> Handle:
        return _TaskRun(carry_out_chunk.submit(number, digests[number], terms=terms, allowance=allowance, **blocks))

    return start


# ── handing them out ─────────────────────────────────────────────────────────


_LEAST_USD = 0.000_001  # which is a share of nothing at all, where images are free


@dataclass(frozen=True)
class Purse:
    """A batch's ceiling, of which each chunk gets a part.

    Args:
        scope: The name under which this run of the batch is counted.
        ceiling: US dollars for all runs of the batch.
        usd_per_item: What an item is expected to cost.
    """

    scope: str
    ceiling: float
    usd_per_item: float

    def share(self, items: int, *, everything: bool) -> Allowance:
        """A part for so many items, with a fifth more for what is drawn again; or all that is left.

        Raises:
            BudgetExceededError: Nothing is left.
        """
        usd = self.ceiling if everything else max(self.usd_per_item * items * 1.2, _LEAST_USD)
        return Allowance.take(self.scope, usd, ceiling=self.ceiling)

    def left(self) -> float:
        """US dollars that no chunk has."""
        return budget.left_of(self.scope, self.ceiling)


@dataclass
class Rounds:
    """All chunks that have something left to do, until none has, or there is a reason to stop.

    Args:
        start: Hands out a chunk.
        tally: What is told while it goes on.
        at_once: How many chunks are handed out at a time.
        purse: The ceiling, if there is one.
    """

    start: Start
    tally: Tally
    at_once: int
    purse: Purse | None = None
    stopped: str = ""
    """Why no more chunks were handed out; empty if none was held back."""

    stopped_by: str = ""
    """The class of the error behind it."""

    failures: dict[int, str] = field(default_factory=dict[int, str])
    """Chunks that could not be carried out, by number, and why."""

    _waiting: "deque[int]" = field(default_factory=deque[int])
    _items: dict[int, int] = field(default_factory=dict[int, int])
    _under_way: dict[int, tuple[Handle, Allowance | None]] = field(
        default_factory=dict[int, tuple[Handle, Allowance | None]]
    )
    _poor: set[int] = field(default_factory=set[int])
    _stuck: set[int] = field(default_factory=set[int])
    _in_a_row: int = 0

    @property
    def unfinished(self) -> int:
        """How many chunks were not handed out, or could not be carried out."""
        return len(self._waiting) + len(self._under_way) + len(self.failures)

    def run(self, chunks: Iterable[tuple[int, int]], look: Callable[[], None]) -> None:
        """Carries out chunks.

        Args:
            chunks: Their numbers, and how many items of each are left.
            look: Called now and then.
        """
        self._items = dict(chunks)
        self._waiting.extend(self._items)
        while self._waiting or self._under_way:
            self._hand_out()
            for number in [number for number, (handle, _) in self._under_way.items() if handle.is_done()]:
                self._take_in(number)
            if (self.stopped or stopping.is_asked()) and not self._under_way:
                return
            if stopping.is_late(_LATE_SECONDS):
                return  # those of other processes may go on without us
            look()
            time.sleep(_LOOK_SECONDS)

    def _hand_out(self) -> None:
        while self._waiting and len(self._under_way) < self.at_once and not self.stopped and not stopping.is_asked():
            number = self._waiting[0]
            if number in self._stuck and self._under_way:
                return  # what those give back may be enough
            try:
                share = self.purse and self.purse.share(self._items[number], everything=number in self._poor)
            except BudgetExceededError:
                if not self._under_way:
                    self._stop_at_ceiling()
                return
            self._waiting.popleft()
            try:
                self._under_way[number] = self.start(number, share), share
            except Exception as exc:  # noqa: BLE001 - those under way are awaited
                if share is not None:
                    share.give_back(0.0)
                self._failed(number, exc)

    def _take_in(self, number: int) -> None:
        handle, share = self._under_way.pop(number)
        try:
            report = handle.report()
        except Exception as exc:  # noqa: BLE001 - one bad chunk never hides the others
            self._failed(number, exc)
            return
        self._in_a_row = 0
        if share is not None:
            share.give_back(report.spent_usd)
        is_elsewhere = report.worker != here()
        self.tally.close(number, report.by_status, report.cost_usd, fresh=report.fresh if is_elsewhere else 0)
        if report.spent_usd > 0 or report.stopped_by != BudgetExceededError.__name__:
            self._stuck.clear()  # there may be enough again
        if share is not None and _used_up(report):
            self._ask_for_more(number, report, share)
        elif report.stopped:
            self.stop(report.stopped, report.stopped_by)

    def _ask_for_more(self, number: int, report: ChunkReport, share: Allowance) -> None:
        """Carries out a chunk whose share was used up once more, unless all that was left got it nowhere."""
        assert self.purse  # noqa: S101 - its share came out of it
        if report.spent_usd == 0 and not self._under_way and self.purse.left() <= share.usd:
            self._stop_at_ceiling()
            return
        if report.spent_usd == 0 and number in self._poor:
            self._stuck.add(number)
        self._poor.add(number)
        self.tally.reopen(report.by_status, report.cost_usd)
        self._waiting.append(number)

    def _stop_at_ceiling(self) -> None:
        assert self.purse  # noqa: S101 - only who has a ceiling gets here
        self.stop(
            f"The next call would pass max_usd={self.purse.ceiling:g}; raise it to go on.", BudgetExceededError.__name__
        )

    def _failed(self, number: int, exc: Exception) -> None:
        # What it spent of its share is not known, so that the share stays counted until the next run of the batch,
        # whose attempt at the chunk finds what was paid for.
        reason = f"{type(exc).__name__}: {exc}"
        get_logger().error("Chunk %05d could not be carried out: %s", number, reason)
        self.failures[number] = reason
        self._in_a_row += 1
        if self._in_a_row >= _FAILURES_IN_A_ROW:
            self.stop(f"{self._in_a_row} chunks in a row could not be carried out: {reason}", type(exc).__name__)

    def stop(self, reason: str, kind: str) -> None:
        """Hands out no more chunks.

        Args:
            reason: Why, in words.
            kind: The class of the error behind it, such as `QuotaError`.
        """
        if not self.stopped:
            self.stopped, self.stopped_by = reason, kind


def _used_up(report: ChunkReport) -> bool:
    """Whether a chunk ended since its share of the batch's ceiling was used up; the account's day is another one."""
    return report.stopped_by == BudgetExceededError.__name__ and budget.is_of_a_part(report.stopped)


def seed(purse: Purse, spent_usd: float) -> None:
    """Counts what earlier runs of the batch have spent."""
    budget.count_spent(purse.scope, spent_usd)
