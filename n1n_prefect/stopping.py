"""Whether this process is about to end, so that nothing new is begun in it: a worker drains, a machine is taken away.

Only whoever can end in an orderly way asks for it, such as a batch that is told to by SIGTERM.
"""

import threading
import time

from n1n_prefect.errors import N1nError

_asked = threading.Event()
_deadline = float("inf")


def ask(grace_seconds: float) -> None:
    """From now on nothing is begun; what is under way has so many seconds to end, and no more if asked again."""
    global _deadline  # noqa: PLW0603 - one process ends once
    _deadline = min(_deadline, time.monotonic() + grace_seconds)
    _asked.set()


def forget() -> None:
    """The process goes on after all."""
    global _deadline  # noqa: PLW0603
    _asked.clear()
    _deadline = float("inf")


def is_asked() -> bool:
    """Whether nothing new should be begun."""
    return _asked.is_set()


def seconds_left() -> float:
    """How long what is under way may take; infinite where nobody has asked."""
    return max(_deadline - time.monotonic(), 0.0)


def is_late(seconds: float) -> bool:
    """Whether the time to end was over so many seconds ago."""
    return time.monotonic() >= _deadline + seconds


def wait(seconds: float) -> bool:
    """Waits in this thread, and no longer once it is asked; whether it was."""
    return _asked.wait(seconds)


def refuse() -> None:
    """Ends a call that has not been sent yet, if this process is about to end.

    Raises:
        N1nError: It is; nothing was spent.
    """
    if _asked.is_set():
        raise N1nError("This process is about to end; nothing was sent. Run again to go on.", is_transient=True)
