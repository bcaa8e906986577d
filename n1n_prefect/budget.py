"""How much was spent, against the ceilings that the user set.

A call is counted at its estimate before it is made, and corrected once its cost is known: to
what its tokens cost, or to nothing where it was free. What is not known to be free stays
counted. No estimate has thoughts in it, so that the calls under way may pass a ceiling by
what they think.

A run is counted in its process, and so anew when it is run again in another. A day is counted
in Redis, for all processes and hosts.
"""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import datetime, timezone
from threading import Lock
from typing import Protocol

from n1n_prefect import counter_store
from n1n_prefect.errors import BudgetExceededError, InvalidRequestError, N1nError
from n1n_prefect.images import Spending
from n1n_prefect.run_log import get_logger
from n1n_prefect.settings import settings

# Dollars are counted in whole millionths: sums of them are exact, in Redis too.
_MICRO = 1_000_000
_MOST_USD = 9e9  # in millionths, just below where Lua's numbers stop being exact


class Count(Protocol):
    """What is counted against one ceiling, in millionths of a dollar."""

    def take(self, amount: int) -> None:
        """Counts an amount before it is spent, or raises and counts nothing."""
        ...

    def correct(self, amount: int) -> None:
        """Adds to what is counted, or takes off; never refuses and never fails."""
        ...


@dataclass(frozen=True)
class Reservation:
    """A call that is counted before it is paid."""

    usd: float
    """US dollars that it is counted as."""

    counts: tuple[Count, ...] = field(default=(), repr=False)
    """Where it is counted."""


def reserve(
    scope: str, usd: float, spending: Spending, *, account: str = "default", now: datetime | None = None
) -> Reservation:
    """Counts dollars against every ceiling before they are spent; `settle` corrects them.

    A process that is killed leaves its reservations in the day's count, on the safe side.

    Args:
        scope: The run that is counted.
        usd: Estimated US dollars of the call.
        spending: Has the ceilings, inclusive.
        account: Whose day is counted.
        now: When the call is made; the present if not given.

    Raises:
        BudgetExceededError: The call would pass a ceiling; it is not made, and not counted.
        InvalidRequestError: There is a ceiling for the day, and no store in which to count it.
        N1nError: The store was not reached; nothing was spent.
    """
    taken: list[Count] = []
    try:
        for count in _counts(scope, spending, account, now):
            count.take(_micro(usd))
            taken.append(count)
    except BaseException:
        settle(Reservation(usd, tuple(taken)), 0.0)
        raise
    return Reservation(usd, tuple(taken))


def settle(reservation: Reservation, usd: float) -> None:
    """Corrects a reservation to what the call cost, in US dollars; 0 gives it back. Never fails."""
    change = _micro(usd) - _micro(reservation.usd)
    for count in reservation.counts:
        if change:
            count.correct(change)


def _counts(scope: str, spending: Spending, account: str, now: datetime | None) -> Iterator[Count]:
    if spending.max_usd_per_run is not None:
        yield _chunk.get() or _run_count(scope, spending.max_usd_per_run)
    if spending.max_usd_per_day is not None:
        yield _day_count(account, spending.max_usd_per_day, now)


def _micro(usd: float) -> int:
    return round(min(usd, _MOST_USD) * _MICRO)


def _too_much(amount: int, ceiling: int, spent: int, what: str, remedy: str) -> BudgetExceededError:
    digits = 4 if ceiling % (_MICRO // 100) else 2
    return BudgetExceededError(
        f"This call is estimated at ${amount / _MICRO:.4f} and would pass {what} of ${ceiling / _MICRO:.{digits}f} "
        f"(${spent / _MICRO:.4f} spent), calls under way counted; it was not made. {remedy}"
    )


# ── a run, in this process ───────────────────────────────────────────────────


@dataclass
class _Spent:
    amount: int = 0
    lock: Lock = field(default_factory=Lock, repr=False)


@dataclass(frozen=True)
class RunCount:
    """What a run has spent in this process, or a part of it, in millionths of a dollar."""

    spent: _Spent
    ceiling: int
    what: str = "the run's ceiling"

    def take(self, amount: int) -> None:
        """Counts an amount before it is spent."""
        with self.spent.lock:
            # What is free is never too much, even where thoughts have passed the ceiling.
            if amount > 0 and self.spent.amount + amount > self.ceiling:
                raise self._too_much(amount)
            self.spent.amount += amount

    def take_some(self, amount: int) -> int:
        """Counts as much of an amount as is left, and says how much."""
        with self.spent.lock:
            some = min(amount, self.ceiling - self.spent.amount)
            if some <= 0:
                raise self._too_much(amount)
            self.spent.amount += some
            return some

    def correct(self, amount: int) -> None:
        """Adds to what is counted, or takes off."""
        with self.spent.lock:
            self.spent.amount += amount

    def _too_much(self, amount: int) -> BudgetExceededError:
        remedy = "Raise Spending.max_usd_per_run or PREFECT_INTEGRATIONS_N1N_MAX_USD_PER_RUN to go on."
        return _too_much(amount, self.ceiling, self.spent.amount, self.what, remedy)


_runs: dict[str, _Spent] = {}


def _run_count(scope: str, ceiling: float) -> RunCount:
    return RunCount(_runs.setdefault(scope, _Spent()), _micro(ceiling))


def count_spent(scope: str, usd: float) -> None:
    """Counts what a run has spent elsewhere, such as in an earlier process, against its ceiling.

    Args:
        scope: The run that is counted in this process.
        usd: US dollars.
    """
    _run_count(scope, 0).correct(_micro(usd))


def left_of(scope: str, ceiling: float) -> float:
    """What a run may still spend, in US dollars, with all that is reserved taken off.

    Args:
        scope: The run that is counted in this process.
        ceiling: US dollars that it may spend.
    """
    count = _run_count(scope, ceiling)
    return (count.ceiling - count.spent.amount) / _MICRO


# ── a day, in Redis ──────────────────────────────────────────────────────────


@dataclass(frozen=True)
class DayCount:
    """What an account has spent on one day on all workers, in millionths of a dollar.

    A correction goes to the day on which the call was counted, even after midnight.
    """

    account: str
    day: str
    ceiling: int
    store: str = field(repr=False)

    def take(self, amount: int) -> None:
        """Counts an amount before it is spent."""
        taken, spent = counter_store.add(self.store, self._key, amount, self.ceiling)
        if not taken:
            what = f"the ceiling for {self.day} (UTC, account {self.account!r})"
            remedy = (
                "Raise Spending.max_usd_per_day or PREFECT_INTEGRATIONS_N1N_MAX_USD_PER_DAY, or wait for the next "
                "day in UTC."
            )
            raise _too_much(amount, self.ceiling, spent, what, remedy)

    def correct(self, amount: int) -> None:
        """Adds to what is counted, or takes off; where that fails the estimate stays, with a warning."""
        try:
            counter_store.add(self.store, self._key, amount)
        except N1nError as error:
            get_logger().warning("A call stays counted at its estimate for %s: %s", self.day, error)

    @property
    def _key(self) -> str:
        return f"n1n:spent:{self.account}:{self.day}"


def _day_count(account: str, ceiling: float, now: datetime | None) -> DayCount:
    store = settings().budget_store
    if store is None:
        raise InvalidRequestError(
            "max_usd_per_day is set, and there is no place where all workers count: set "
            f"{counter_store.SETTING} to redis://HOST:PORT/0 or redis-database/BLOCK. Nothing was spent."
        )
    day = (now or _now()).astimezone(timezone.utc).date()
    return DayCount(account, day.isoformat(), _micro(ceiling), store.get_secret_value())


def _now() -> datetime:
    return datetime.now(timezone.utc)


# ── a part of a run, in another process ──────────────────────────────────────


@dataclass(frozen=True)
class Allowance:
    """A part of a run's ceiling, for a chunk of the run that may run in another process.

    ```python
    allowance = Allowance.take(run, 5.0, ceiling=100.0)  # in the flow; it travels as a parameter
    with allowance.counted() as chunk:                   # in the chunk, wherever it runs
        ...
    allowance.give_back(chunk.spent_usd)                 # in the flow again
    ```

    A chunk that ended without saying what it spent has spent an unknown part of its allowance: leave it
    counted. The next attempt may have the same one, if it adds what it finds paid for; see `Chunk.add`.
    """

    scope: str
    """The run whose ceiling it is a part of."""

    usd: float
    """US dollars that the chunk may spend, inclusive."""

    @classmethod
    def take(cls, scope: str, usd: float, *, ceiling: float) -> "Allowance":
        """As much of an amount as is left of the run's ceiling; it is counted as spent until it is given back.

        Args:
            scope: The run that is counted in this process.
            usd: The most US dollars that the chunk may need.
            ceiling: US dollars that the whole run may spend, inclusive.

        Raises:
            BudgetExceededError: Nothing is left.
        """
        return cls(scope, _run_count(scope, ceiling).take_some(_micro(usd)) / _MICRO)

    @contextmanager
    def counted(self) -> Generator["Chunk"]:
        """Holds the calls of this block, and of the tasks that it starts on threads, to the allowance.

        It stands in for `Spending.max_usd_per_run`, which must be set; a ceiling for the day holds as always.
        """
        chunk = Chunk(_Spent(), _micro(self.usd), _OF_A_PART)
        token = _chunk.set(chunk)
        try:
            yield chunk
        finally:
            _chunk.reset(token)

    def give_back(self, spent_usd: float) -> None:
        """Lets the run spend what the chunk has not.

        Args:
            spent_usd: What the chunk has spent, in US dollars.
        """
        _run_count(self.scope, 0).correct(_micro(spent_usd) - _micro(self.usd))


_OF_A_PART = "this part's share of the run's ceiling"


def is_of_a_part(reason: str) -> bool:
    """Whether an allowance was used up, by the reason in words, and no ceiling that somebody set."""
    return _OF_A_PART in reason


class Chunk(RunCount):
    """What the calls under an allowance have spent."""

    @property
    def spent_usd(self) -> float:
        """US dollars; estimates of the calls under way."""
        return self.spent.amount / _MICRO

    def add(self, usd: float) -> None:
        """Counts US dollars that an earlier attempt at the chunk has spent and could not tell of."""
        self.correct(_micro(usd))


_chunk: ContextVar[Chunk | None] = ContextVar("n1n_prefect_chunk", default=None)
