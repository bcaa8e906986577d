"""Which calls are under way in this process: a bound on how many, and one flight for equal ones.

Both work across threads and event loops at once, since one Prefect process has tasks in both.
"""

import asyncio
import os
import threading
from collections import deque
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator
from concurrent.futures import Future
from contextlib import asynccontextmanager, contextmanager
from typing import Generic, TypeVar

from n1n_prefect.errors import InvalidRequestError

T = TypeVar("T")


class InFlight:
    """A bound on calls at once, first come first served.

    Args:
        limit: How many, at least 1.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._busy = 0
        self._lock = threading.Lock()
        self._waiting: deque[Future[None]] = deque()

    @contextmanager
    def slot(self) -> Generator[None]:
        """Holds a slot; waits in this thread until one is free.

        In an event loop's own thread it does not wait: those who hold the slots may need that
        loop to go on. The bound is then passed by one.
        """
        turn = self._join(waits=loop_of_this_thread() is None)
        try:
            turn.result()
        except BaseException:
            self._abandon(turn)
            raise
        try:
            yield
        finally:
            self._release()

    @asynccontextmanager
    async def aslot(self) -> AsyncGenerator[None]:
        """Holds a slot; waits in this event loop until one is free."""
        turn = self._join()
        try:
            await asyncio.wrap_future(turn)
        except BaseException:
            self._abandon(turn)
            raise
        try:
            yield
        finally:
            self._release()

    def resize(self, limit: int) -> None:
        """Changes the bound; those who hold a slot keep it."""
        with self._lock:
            self.limit = limit
            while self._waiting and self._busy < self.limit:
                self._busy += self._hand_on()

    def _join(self, *, waits: bool = True) -> "Future[None]":
        turn: Future[None] = Future()
        with self._lock:
            if self._busy < self.limit or not waits:
                self._busy += 1
                turn.set_result(None)
            else:
                self._waiting.append(turn)
        return turn

    def _abandon(self, turn: "Future[None]") -> None:
        # A turn that cannot be cancelled any more was handed over and must be passed on.
        if not turn.cancel() and not turn.cancelled():
            self._release()

    def _release(self) -> None:
        with self._lock:
            while self._waiting and self._busy <= self.limit:
                if self._hand_on():
                    return
            self._busy -= 1

    def _hand_on(self) -> bool:
        """Gives a slot to the first who waits, unless that one has gone."""
        turn = self._waiting.popleft()
        if not turn.set_running_or_notify_cancel():
            return False
        turn.set_result(None)
        return True


def loop_of_this_thread() -> asyncio.AbstractEventLoop | None:
    """The event loop that runs in this thread, if one does."""
    try:
        return asyncio.get_running_loop()
    except RuntimeError:
        return None


class SingleFlight(Generic[T]):
    """Joins equal calls: one leads, the others get its result.

    If the leader fails or is cancelled, one waiter leads in its place, so that nobody
    fails for another's cancellation and nobody waits for ever.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._flights: dict[str, Future[T]] = {}

    def run(self, key: str, call: Callable[[], T]) -> tuple[T, bool]:
        """The result of `call`, and whether another's call gave it.

        Raises:
            InvalidRequestError: This thread runs an event loop, and the call that leads may need that
                loop to go on, so that waiting here could stop both for ever.
        """
        while True:
            flight, leads = self._board(key)
            if leads:
                with self._leading(key, flight):
                    result = call()
                    flight.set_result(result)
                    return result, False
            if loop_of_this_thread():
                raise InvalidRequestError(
                    "The same image is being made already, and a synchronous task would stop this event loop while it "
                    "waits for it. Await the asynchronous task here, such as agenerate_image; nothing was spent."
                )
            try:
                return flight.result(), True
            except _LeaderFailedError:
                continue

    async def arun(self, key: str, call: Callable[[], Awaitable[T]]) -> tuple[T, bool]:
        """`run` for asynchronous code; a waiter's cancellation leaves the flight alone."""
        while True:
            flight, leads = self._board(key)
            if leads:
                with self._leading(key, flight):
                    result = await call()
                    flight.set_result(result)
                    return result, False
            try:
                return await asyncio.shield(asyncio.wrap_future(flight)), True
            except _LeaderFailedError:
                continue

    def _board(self, key: str) -> "tuple[Future[T], bool]":
        key = _here(key)
        with self._lock:
            flight = self._flights.get(key)
            if flight is not None:
                return flight, False
            self._flights[key] = flight = Future()
            flight.set_running_or_notify_cancel()
            return flight, True

    @contextmanager
    def _leading(self, key: str, flight: "Future[T]") -> Generator[None]:
        try:
            yield
        finally:
            with self._lock:
                del self._flights[_here(key)]
            if not flight.done():
                flight.set_exception(_LeaderFailedError())


def _here(key: str) -> str:
    # The flights of its parent never end in a forked child.
    return f"{os.getpid()} {key}"


class _LeaderFailedError(Exception):
    pass
