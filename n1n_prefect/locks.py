"""Which calls are under way in other processes and on other hosts: a lock for each paid request, while it is made."""

import logging
import uuid
from typing import Protocol

from n1n_prefect.client import BODY_SECONDS
from n1n_prefect.errors import N1nError

_logger = logging.getLogger(__name__)
_STORING_SECONDS = 60.0
"""What staging may take after the longest call; a lock is never held longer than both together."""


class LockManager(Protocol):
    """What is asked of a lock manager of Prefect's, such as prefect-redis's `RedisLockManager`."""

    def acquire_lock(
        self, key: str, holder: str, acquire_timeout: float | None = None, hold_timeout: float | None = None
    ) -> bool:
        """Whether the holder has the lock now."""
        ...

    def release_lock(self, key: str, holder: str) -> None:
        """Gives the lock back."""
        ...


class SharedLock:
    """One request's lock. It ends by itself, so that a holder who was killed does not block for ever.

    Whoever waits asks again and again: Prefect's own waiting holds a thread, and leaves a lock
    without an end behind if it is killed.

    Args:
        manager: Who keeps the locks.
        request_key: The paid request's identity.
        timeout_seconds: How long the reply may take to begin.
    """

    def __init__(self, manager: LockManager, request_key: str, timeout_seconds: float) -> None:
        self.manager = manager
        self.key = f"n1n-call-{request_key}"  # not Prefect's own, which it waits for by taking the lock without an end
        # The request may take as long to leave as the reply to begin.
        self.hold_seconds = 2 * timeout_seconds + BODY_SECONDS + _STORING_SECONDS
        self._holder = ""

    def acquire(self) -> bool:
        """Whether the lock is ours now; asks once.

        Raises:
            N1nError: The lock manager cannot be reached; nothing was spent.
        """
        holder = uuid.uuid4().hex
        try:
            is_ours = self.manager.acquire_lock(self.key, holder, acquire_timeout=0, hold_timeout=self.hold_seconds)
        except Exception as exc:
            raise N1nError(
                f"The lock manager cannot be asked whether another process is making this call "
                f"({type(exc).__name__}: {exc}); nothing was spent. Check that its server runs.",
                is_transient=True,
            ) from exc
        self._holder = holder if is_ours else ""
        return is_ours

    def release(self) -> None:
        """Gives the lock back, if it is ours."""
        if not self._holder:
            return
        holder, self._holder = self._holder, ""
        try:
            self.manager.release_lock(self.key, holder)
        except Exception as exc:  # noqa: BLE001 - the image matters more, and the lock ends by itself
            _logger.warning(
                "The lock %s was not given back (%s); it ends within %.0f s.", self.key, exc, self.hold_seconds
            )
