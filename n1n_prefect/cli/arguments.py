"""What an argument may be; argparse shows what is raised here beside the argument's name."""

import argparse
import json
import re
from pathlib import Path
from typing import Any, cast

from n1n_prefect.addresses import checked_api_key

_MAX_SECONDS = 86_400
_LEAST_SILENCE = 10
_MAX_SLOTS = 10_000
_MAX_CHARACTERS = 100_000_000
_CENTURY = 36_525 * 86_400
_UNITS = {"m": 60, "h": 3_600, "d": 86_400, "w": 604_800}


def port(text: str) -> int:
    """A port to listen on; 0 takes a free one."""
    return whole_number(text, 65_535, "port")


def characters(text: str) -> int:
    """A length in characters."""
    return whole_number(text, _MAX_CHARACTERS, "length")


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


def age(text: str) -> int:
    """How old something is at least, in seconds: an hour to a century, such as `14d`."""
    number, unit = text[:-1], _UNITS.get(text[-1:])
    if unit is None or not (number.isascii() and number.isdigit()) or len(number) > 9:
        raise argparse.ArgumentTypeError(f"{text!r} is no age; give a number of m, h, d or w, such as 14d")
    if not 3_600 <= int(number) * unit <= _CENTURY:
        raise argparse.ArgumentTypeError(
            f"{text!r} would take from runs that still go on what they have paid for, or is no age at all; give 1h to "
            "5217w, and more than the oldest run that may still be resumed"
        )
    return int(number) * unit


def lifetime(text: str) -> int:
    """How long something is good for, in seconds: a second to a week, such as `15m`."""
    number, unit = text[:-1], {"s": 1, **_UNITS}.get(text[-1:])
    whole = int(number) if unit and number.isascii() and number.isdigit() and len(number) <= 9 else 0
    if not 1 <= whole * (unit or 0) <= _UNITS["w"]:
        raise argparse.ArgumentTypeError(f"{text!r} is no time of 1s to 7d; give a number of s, m, h or d, such as 15m")
    return whole * (unit or 0)


def past(text: str) -> int:
    """A stretch of time that ends now, in seconds: a minute to a century, such as `1d`."""
    number, unit = text[:-1], _UNITS.get(text[-1:])
    if unit is None or not (number.isascii() and number.isdigit()) or not 0 < int(number[:9]) * unit <= _CENTURY:
        raise argparse.ArgumentTypeError(f"{text!r} is no time; give a number of m, h, d or w, such as 1d")
    return int(number) * unit


def count(text: str) -> int:
    """How many, at least one."""
    if not (text.isascii() and text.isdigit()) or not int(text[:9]) > 0 or len(text) > 6:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of runs; give 1 to 999999")
    return int(text)


def saved_block(text: str) -> tuple[str, str]:
    """A saved Prefect block by its type and name."""
    slug, _, name = text.partition("/")
    if not slug or not name or "/" in name:
        raise argparse.ArgumentTypeError(f"{text!r} names no block; give TYPE/NAME, such as s3-bucket/results")
    return slug, name


def block_name(text: str) -> str:
    """The name of a block document, as Prefect takes it."""
    if not re.fullmatch(r"[a-z0-9]+(-[a-z0-9]+)*", text):
        raise argparse.ArgumentTypeError(
            f"{text!r} is no block's name; they have lower-case letters, digits and dashes"
        )
    return text


def limit(text: str) -> tuple[str, int]:
    """A global concurrency limit: its name and how many slots it has."""
    name, equals, slots = text.rpartition("=")
    if not name or not equals or not slots.isascii() or not slots.isdigit() or not 0 < int(slots) <= _MAX_SLOTS:
        raise argparse.ArgumentTypeError(f"{text!r} is not NAME=SLOTS with 1 to {_MAX_SLOTS} slots, as in n1n=8")
    return name, int(slots)


def silence(text: str) -> int:
    """How long a run may be silent, in seconds; Prefect looks at no less than ten."""
    number = seconds(text)
    if number != int(number) or number < _LEAST_SILENCE:
        raise argparse.ArgumentTypeError(
            f"{text!r} is no time to wait; give whole seconds, {_LEAST_SILENCE} to {_MAX_SECONDS}"
        )
    return int(number)


def block_for_parameter(text: str) -> tuple[str, tuple[str, str]]:
    """A flow's parameter and the saved block that it is to be."""
    parameter, equals, block = text.partition("=")
    if not parameter or not equals:
        raise argparse.ArgumentTypeError(f"{text!r} is not PARAMETER=TYPE/NAME, as in credentials=n1n-credentials/main")
    return parameter, saved_block(block)


def entrypoint(text: str) -> str:
    """Where a flow's code is, as Prefect writes it."""
    path, colon, name = text.rpartition(":")
    if not path or not colon or not name.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} names no flow; give path/to/file.py:flow_function")
    return text


def json_object(text: str) -> dict[str, Any]:
    """An object of JSON."""
    try:
        value = json.loads(text)
    except ValueError:
        value = None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f'{text!r} is no object of JSON; write one such as {{"min_edge": 1000}}')
    return cast("dict[str, Any]", value)


def whole_number(text: str, most: int, what: str) -> int:
    """A whole number, 0 to `most` inclusive; `what` it is stands in the message."""
    try:
        number = int(text)
    except ValueError:
        number = -1
    if not 0 <= number <= most:
        raise argparse.ArgumentTypeError(f"{text!r} is no {what}; give 0 to {most}")
    return number
