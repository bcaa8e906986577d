"""The log of whatever runs now."""

import logging
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING

from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger

if TYPE_CHECKING:
    Adapter = logging.LoggerAdapter[logging.Logger]
else:
    Adapter = logging.LoggerAdapter  # which has no parameters in Python 3.10

Log = logging.Logger | Adapter
_log: ContextVar[Log | None] = ContextVar("n1n_prefect_log", default=None)


def get_logger() -> "Log":
    """The log of the current task or flow run, or the logger `n1n_prefect` outside of one."""
    log = _log.get()
    if log is not None:
        return log
    try:
        return get_run_logger()
    except MissingContextError:
        return logging.getLogger("n1n_prefect")


@contextmanager
def logging_to(log: "Log") -> Generator[None]:
    """What is said within goes to this log, such as where one task run has many images."""
    token = _log.set(log)
    try:
        yield
    finally:
        _log.reset(token)
