"""SIGTERM, as a worker that drains or a spot machine sends it: end in an orderly way within the time there is."""

import signal
import threading
from collections.abc import Generator
from contextlib import contextmanager
from types import FrameType
from typing import Any

from n1n_prefect import stopping


@contextmanager
def draining(grace_seconds: float) -> Generator[None]:
    """Within, SIGTERM asks this process to end: nothing new is begun, and what is under way may end first.

    Prefect's own handler, which ends the run at once, gets the signal when the block has ended, or with a second
    SIGTERM. Signals belong to the main thread: elsewhere nothing changes.

    Args:
        grace_seconds: How long what is under way may take, in seconds; less than whoever sends SIGTERM waits before
            SIGKILL, which is 30 seconds for Prefect's workers and Kubernetes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: Any = signal.getsignal(signal.SIGTERM)
    stopping.forget()  # what an earlier flow of this process was told

    def asked(number: int, _frame: FrameType | None) -> None:
        if not stopping.is_asked():
            stopping.ask(grace_seconds)
            return
        stopping.ask(0)
        signal.signal(signal.SIGTERM, before)
        signal.raise_signal(number)

    signal.signal(signal.SIGTERM, asked)
    try:
        yield
    finally:
        is_ours = signal.getsignal(signal.SIGTERM) is asked
        signal.signal(signal.SIGTERM, before)
        if stopping.is_asked() and is_ours:
            signal.raise_signal(signal.SIGTERM)
            stopping.forget()  # whoever was asked before us lets the process go on
