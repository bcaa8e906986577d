"""What an argument may be; argparse shows what is raised here beside the argument's name."""

import argparse
from pathlib import Path

from n1n_prefect.addresses import checked_api_key

_MAX_SECONDS = 86_400
_MAX_CHARACTERS = 100_000_000


def port(text: str) -> int:
    """A port to listen on; 0 takes a free one."""
    return _whole_number(text, 65_535, "port")


def characters(text: str) -> int:
    """A length in characters."""
    return _whole_number(text, _MAX_CHARACTERS, "length")


def seconds(text: str) -> float:
    """How long something takes, at most a day."""
    try:
        number = float(text)
    except ValueError:
        number = -1
    if not 0 <= number <= _MAX_SECONDS:  # nor is nan
        raise argparse.ArgumentTypeError(f"{text!r} is no time; give seconds, 0 to {_MAX_SECONDS}")
    return number


def api_key(text: str) -> str:
    """A key that a client can send."""
    try:
        return checked_api_key(text)
    except ValueError as exc:
        raise argparse.ArgumentTypeError(str(exc)) from None


def folder(text: str) -> Path:
    """Where a folder is, or may be made."""
    if not text.strip():
        raise argparse.ArgumentTypeError("it is empty; give a folder, or '.' for this one")
    return Path(text)


def _whole_number(text: str, most: int, what: str) -> int:
    try:
        number = int(text)
    except ValueError:
        number = -1
    if not 0 <= number <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is no {what}; give 0 to {most}")
    return number
