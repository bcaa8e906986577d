"""Which images a flow's return value holds, however deep it is nested."""

import hashlib
import re
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from dataclasses import fields, is_dataclass
from io import BytesIO
from itertools import islice
from pathlib import Path
from types import FunctionType, MethodType, ModuleType
from typing import Any, cast

from n1n_prefect.images import ImageOutcome

_SHA256 = re.compile(r"(?<![0-9a-f])[0-9a-f]{64}(?![0-9a-f])")
_MOST_PARTS = 100_000  # a return value of more is not a report of images
_LONGEST_PATH = 1024  # characters
_IN_ERRORS = ("image", "exceptions", "__cause__", "__context__")  # what one says is in its words, not an image
_OPAQUE = (type, ModuleType, FunctionType, MethodType, int, float, complex)


def sha256s_in(value: object) -> frozenset[str]:
    """The SHA-256, in lower-case hex, of every image that can be recognised in a value.

    They are found as they stand in texts, fields and object keys, and are taken of bytes and
    of files that are named, by a `Path` or a text.
    """
    return frozenset(found for part in parts_of(value) for found in _sha256s_of(part))


def parts_of(value: object) -> Iterator[object]:
    """The value and whatever is in it, each once: items, keys, fields, an error's image and its causes."""
    known: dict[int, object] = {}  # keeps them alive, so that no id is used again
    waiting = deque([value])
    while waiting and len(known) < _MOST_PARTS:
        part = waiting.popleft()
        if id(part) not in known:
            known[id(part)] = part
            yield part
            with suppress(Exception):  # whatever cannot be looked into holds no image that anybody has
                waiting.extend(islice(_inside(part), _MOST_PARTS))


def _inside(part: object) -> Iterator[object]:
    match part:
        case None | str() | bytes() | bytearray() | memoryview() | Path() | BytesIO():
            return
        case Mapping():
            yield from part.keys()
            yield from part.values()
        case _ if isinstance(part, _OPAQUE):
            return
        case ImageOutcome():
            yield from (part.image, part.uploaded)  # its reason may quote the address of an image that nobody has
        case BaseException():
            yield from (getattr(part, name, None) for name in _IN_ERRORS)
        case _ if type(part).__module__.startswith("prefect.") and callable(getattr(part, "result", None)):
            yield cast(Any, part).result(raise_on_failure=False)  # of a state or a future
        case Iterable():
            yield from part
        case _:
            yield from _fields_of(part)


def _fields_of(part: Any) -> Iterator[object]:
    if is_dataclass(part):
        yield from (getattr(part, field.name, None) for field in fields(part))
    yield from list(getattr(part, "__dict__", {}).values())


def _sha256s_of(part: object) -> Iterable[str]:
    match part:
        case str():
            return [*_SHA256.findall(part.lower()), *_sha256_of_file(part)]
        case Path():
            return [*_SHA256.findall(part.name), *_sha256_of_file(part)]
        case bytes() | bytearray() | memoryview():
            return [hashlib.sha256(part).hexdigest()]
        case BytesIO():
            return [hashlib.sha256(part.getbuffer()).hexdigest()]
        case _:
            return ()


def _sha256_of_file(name: str | Path) -> Iterable[str]:
    """The hash of the file's bytes, or nothing where there is no such file."""
    if len(str(name)) > _LONGEST_PATH:
        return ()
    try:
        return [hashlib.sha256(Path(name).read_bytes()).hexdigest()] if Path(name).is_file() else ()
    except (OSError, ValueError):  # unreadable, or no name that a file could have
        return ()
