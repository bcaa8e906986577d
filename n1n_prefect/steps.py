"""What a paid call asks of whoever carries it out, one step at a time, and the two ways to drive it.

A sequence is a generator of steps, so that it stands once for synchronous and asynchronous
code, and so that every `yield` is a place where a test can kill it.
"""

import asyncio
import os
from collections.abc import Awaitable, Callable, Generator
from concurrent.futures import ThreadPoolExecutor
from contextvars import copy_context
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Generic, TypeVar

from n1n_prefect.images import Spending
from n1n_prefect.wire.exchange import HttpRequest

T = TypeVar("T")


@dataclass(frozen=True)
class Read:
    """Read a journal record; answered with bytes or None."""

    key: str


@dataclass(frozen=True)
class Write:
    """Store a journal record or an original."""

    key: str
    data: bytes = field(repr=False)


@dataclass(frozen=True)
class Describe:
    """Say how an original is found again; answered with a mapping."""

    key: str


@dataclass(frozen=True)
class Recall:
    """Look for a whole reply in the spool; answered with it or None."""

    name: str


@dataclass(frozen=True)
class Turn:
    """Wait for a turn among the calls under way; it lasts until the call has been made.

    Answered with True, holding nothing, where another process is making the same call.
    """


@dataclass(frozen=True)
class Pause:
    """Wait a while."""

    seconds: float


@dataclass(frozen=True)
class Open:
    """Open the spool for a reply, so that a full disk is known before anything is spent."""

    name: str


@dataclass(frozen=True)
class Send:
    """Make the call; its reply goes into the spool that was opened."""

    request: HttpRequest

    attempt: int = 1
    """Which call for this image it is."""

    lost: int = 0
    """How many of the earlier ones lost their answer."""


@dataclass(frozen=True)
class Fetch:
    """Fetch an image that the gateway gave the address of; answered with bytes."""

    url: str


@dataclass(frozen=True)
class Forget:
    """Remove a spooled reply that is staged."""

    name: str


@dataclass(frozen=True)
class Reserve:
    """Count dollars against the ceilings before they are spent; answered with the reservation."""

    usd: float
    spending: Spending


@dataclass(frozen=True)
class Settle:
    """Correct a reservation to what the call cost; nothing gives it back."""

    reservation: Any
    usd: float


@dataclass(frozen=True)
class Models:
    """List the models that the key serves, to name them; answered with ids, empty if that failed."""


@dataclass(frozen=True)
class Warn:
    """Tell whoever watches the run."""

    message: str


IN_LOOP = (Turn, Pause, Send, Models)
"""The steps of a paid call that wait for others; asynchronous code carries them out in its event loop."""


# ── driving ──────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class _Ended(Generic[T]):
    value: T


def run(steps: Generator[Any, Any, T], do: Callable[[Any], Any]) -> T:
    """Carries out all steps in this thread."""
    ended = _advance(steps, do)
    assert isinstance(ended, _Ended)  # noqa: S101 - for the type checker: no step is left to anybody else
    return ended.value


async def arun(
    steps: Generator[Any, Any, T],
    do: Callable[[Any], Any],
    ado: Callable[[Any], Awaitable[Any]],
    in_loop: tuple[type, ...] = IN_LOOP,
) -> T:
    """Carries out the steps that wait in this event loop, and whatever lies between two of them in one thread.

    What disk and CPU are busy with never stops the loop. A cancellation takes effect between
    two threads, so that an image which is being staged is staged.
    """
    answer, failure = None, None
    while True:
        try:
            step = await in_thread(partial(_advance, steps, do, answer, failure, in_loop))
        except asyncio.CancelledError as cancelled:
            await _settled(partial(_advance, steps, do, None, cancelled))
            raise
        if isinstance(step, _Ended):
            return step.value
        answer, failure = None, None
        try:
            answer = await ado(step)
        except BaseException as exc:  # noqa: BLE001 - thrown into the generator, which lets it go on
            failure = exc


def nothing_else(step: object) -> None:
    """Carries out no step: for sequences whose every step waits for others.

    Raises:
        TypeError: There was another step after all.
    """
    raise TypeError(step)


def _advance(
    steps: Generator[Any, Any, T],
    do: Callable[[Any], Any],
    answer: Any = None,
    failure: BaseException | None = None,
    stops_at: tuple[type, ...] = (),
) -> Any:
    """Goes on in this thread to the end, or to a step that somebody else must carry out."""
    while True:
        try:
            step = steps.send(answer) if failure is None else steps.throw(failure)
        except StopIteration as stop:
            return _Ended(stop.value)
        if isinstance(step, stops_at):
            return step
        answer, failure = None, None
        try:
            answer = do(step)
        except BaseException as exc:  # noqa: BLE001 - thrown into the generator, which lets it go on
            failure = exc


# Threads of our own: an event loop's default ones are few, and may all wait for what needs another.
_MOST_THREADS = 32
_threads = ThreadPoolExecutor(_MOST_THREADS, "n1n")


def _renew_threads() -> None:
    global _threads  # noqa: PLW0603 - a forked child has none of its parent's threads
    _threads = ThreadPoolExecutor(_MOST_THREADS, "n1n")


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_renew_threads)


def _started(work: Callable[[], T]) -> "asyncio.Future[T]":
    # A future and no task: the end of `asyncio.run` cancels tasks, and would leave the thread alone.
    return asyncio.wrap_future(_threads.submit(copy_context().run, work))


async def in_thread(work: Callable[[], T]) -> T:
    """What the work gives in a thread; a cancellation takes effect once it has ended."""
    running = _started(work)
    try:
        return await asyncio.shield(running)
    except asyncio.CancelledError:
        await _ended(running)
        raise


async def _settled(work: Callable[[], object]) -> None:
    await _ended(_started(work))


async def _ended(running: "asyncio.Future[Any]") -> None:
    while not running.done():
        try:
            await asyncio.wait([running])
        except asyncio.CancelledError:  # noqa: PERF203 - asked for again; it is obeyed when this has ended
            continue
    if not running.cancelled():
        running.exception()  # looked at, so that asyncio does not complain that nobody did
