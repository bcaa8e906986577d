"""How many calls of one key are under way at once: fewer when the gateway says that it is too many, then more again.

As TCP does it: the bound halves when the gateway answers 429 and grows by one for each round of calls that goes
well. Until the time that the gateway asked for has passed nobody calls, so that all items of a key slow
down together and none has to learn for itself.
"""

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Callable, Generator
from contextlib import asynccontextmanager, contextmanager
from threading import Lock

from n1n_prefect import stopping
from n1n_prefect.flights import InFlight

_FIRST_PAUSE = 1.0  # seconds, where the gateway names none; doubled while it goes on
_LONGEST_PAUSE = 60.0


class Pace:
    """The turns of one key in this process.

    Args:
        most: The most calls at once, at least 1.
        clock: Seconds that only grow.
    """

    def __init__(self, most: int, clock: Callable[[], float] = time.monotonic) -> None:
        self.most = most
        self.now = clock
        self._bound = InFlight(most)
        self._limit = float(most)
        self._slowed_at = float("-inf")
        self._opens_at = float("-inf")
        self._in_a_row = 0
        self._lock = Lock()

    @property
    def limit(self) -> int:
        """How many calls may be under way now."""
        return self._bound.limit

    @contextmanager
    def turn(self) -> Generator[None]:
        """Holds a turn; waits in this thread for one, and for the gateway's pause to pass."""
        with self._bound.slot():
            while (pause := self._pause()) > 0 and not stopping.wait(pause):
                pass
            yield

    @asynccontextmanager
    async def aturn(self) -> AsyncGenerator[None]:
        """Holds a turn; waits in this event loop."""
        async with self._bound.aslot():
            while (pause := self._pause()) > 0 and not stopping.is_asked():  # noqa: ASYNC110 - a deadline
                await asyncio.sleep(min(pause, 1.0))
            yield

    def slowed(self, began: float, seconds: float | None) -> None:
        """The gateway refused a call as one too many.

        Args:
            began: When the call was sent, by `now`. Those that were under way together slow down once.
            seconds: How long the gateway asks to wait; None where it does not say.
        """
        with self._lock:
            is_news = began > self._slowed_at
            if is_news:
                self._in_a_row += 1
                self._slowed_at = self.now()
                self._limit = max(self._limit / 2, 1.0)
                self._bound.resize(int(self._limit))
            if seconds is None and is_news:
                seconds = min(_FIRST_PAUSE * 2 ** (self._in_a_row - 1), _LONGEST_PAUSE)
            self._opens_at = max(self._opens_at, self.now() + (seconds or 0.0))

    def went_well(self, began: float) -> None:
        """The gateway took a call that was sent at this time."""
        if self._limit >= self.most and not self._in_a_row:
            return
        with self._lock:
            if began <= self._slowed_at:
                return
            self._in_a_row = 0
            self._limit = min(self._limit + 1 / self._limit, float(self.most))
            self._bound.resize(int(self._limit))

    def _pause(self) -> float:
        """Seconds until the next call may leave; up to a tenth more than asked, so that a herd spreads."""
        left = self._opens_at - self.now()
        return left + random.uniform(0, min(left * 0.1, 1.0)) if left > 0 else 0.0  # noqa: S311
