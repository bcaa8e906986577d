"""The log of whatever runs now."""

import logging

from prefect.exceptions import MissingContextError
from prefect.logging import get_run_logger


def get_logger() -> "logging.Logger | logging.LoggerAdapter[logging.Logger]":
    """The log of the current task or flow run, or the logger `n1n_prefect` outside of one."""
    try:
        return get_run_logger()
    except MissingContextError:
        return logging.getLogger("n1n_prefect")
