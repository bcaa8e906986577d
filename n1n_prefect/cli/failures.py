"""How a subcommand fails: one line that says what happened, and an exit code."""

import os
import select
import sys
from collections.abc import Callable

import httpx

from n1n_prefect.errors import N1nError
from n1n_prefect.masking import without_secrets

# Prefect raises RuntimeError and httpx's errors where its API cannot be reached, and ValueError for names it refuses.
_FAILURES = (N1nError, OSError, RuntimeError, ValueError, httpx.HTTPError)


def failures() -> tuple[type[Exception], ...]:
    """What a subcommand fails by; Prefect's own errors too, once a subcommand has loaded Prefect."""
    loaded = sys.modules.get("prefect.exceptions")
    return (*_FAILURES, loaded.PrefectException) if loaded else _FAILURES


def exit_code_of(command: str, run: Callable[[], int]) -> int:
    """The exit code of a run; 1 if it failed, after one line on stderr, and 141 if nobody reads what it says any more.

    Args:
        command: The subcommand's name, for the line.
        run: What is run.
    """
    try:
        code = run()
        sys.stdout.flush()
    except failures() as exc:
        if isinstance(exc, BrokenPipeError) and _nobody_reads():
            return _SIGPIPE
        print(f"n1n-prefect {command}: {one_line(exc)}", file=sys.stderr)
    except KeyboardInterrupt:
        print("Interrupted.", file=sys.stderr)
    else:
        return code
    return 1


_SIGPIPE = 141
"""What a shell says of a program that ended because nobody read it, as under `| head`."""


def _nobody_reads() -> bool:
    """Whether stdout is a pipe whose reader has gone; what is left for it is then dropped."""
    pipes = select.poll()
    pipes.register(sys.stdout.fileno(), 0)
    if not any(event & select.POLLERR for _, event in pipes.poll(0)):
        return False
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return True


def one_line(exc: BaseException) -> str:
    """What the exception says, without line breaks and keys; its class if it says nothing."""
    return without_secrets(" ".join(str(exc).split())) or type(exc).__name__
